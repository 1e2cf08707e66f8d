"""Directions that centres share: an optimisation on the Stiefel manifold.

For K = 1, 2, ... the K orthonormal directions V that leave least correlation,
½ Σ cos²_μν, between what is left of the centres. Several chains go through all
K: each adds a direction to what it found for K - 1, and moves all K of them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
# Every chain takes some steps, and the best of them more: with strong
# correlations a hundred are needed, and few chains are worth them.
_NUM_STEPS = 20
_NUM_BEST = 2
_NUM_MORE_STEPS = 80
_LONGEST_STEP = 3.0


class Chains(NamedTuple):
  """What the chains found for one K, in order of their cost.

  Attributes:
    V: directions, in the first K columns.
    cost: half the sum of squared residual cosines, P / 2 at least.
  """

  V: Float[Array, "chains P ranks"]
  cost: Float[Array, " chains"]


def _floor(X):
  # Keeps a centre that is removed whole from dividing by zero.
  return 1e-12 * (X**2).sum(axis=1).mean() + jnp.finfo(X.dtype).tiny


def residual_gram(X, V):
  """Gram matrix of the rows of X without their part along V."""
  Y = X - _dot(_dot(X, V), V.T)
  return _dot(Y, Y.T)


def _value_and_grad(V, X, C):
  """The cost, and its gradient in V, from C = X Xᵀ."""
  A = _dot(X, V)
  R = C - _dot(A, A.T)
  inverse = 1 / (jnp.maximum(jnp.diagonal(R), 0) + _floor(X))
  weighted = R * (inverse[:, None] * inverse[None, :])
  squares = (R * weighted).sum(axis=1)
  # Through R, and through the norms in the denominators.
  pull = weighted - jnp.diag(squares * inverse)
  return 0.5 * squares.sum(), -2 * _dot(X.T, _dot(pull, A))


def _orthonormalize(W):
  """The same span, by Cholesky's factor of WᵀW."""
  eye = jnp.eye(W.shape[1], dtype=W.dtype)
  L = jnp.linalg.cholesky(_dot(W.T, W) + jnp.finfo(W.dtype).tiny * eye)
  return jax.lax.linalg.triangular_solve(
    L, W, left_side=False, lower=True, transpose_a=True
  )


def _minimize(V, mask, X, C, num_steps):
  """Barzilai-Borwein steps; the best V is kept.

  Columns that the mask leaves out count as absent: their gradient is zero, so
  that one program serves every K.
  """
  # Axes without variance stay out of V. Along them V Vᵀ would stop being a
  # projection of the centres, at a lower cost: rounding errors would grow.
  used = (jnp.diagonal(_dot(X.T, X)) > 0)[:, None]

  def tangent(V):
    value, gradient = _value_and_grad(V * mask[None, :], X, C)
    gradient = jnp.where(used, gradient * mask[None, :], 0)
    inner = _dot(V.T, gradient)
    return value, gradient - _dot(V, 0.5 * (inner + inner.T))

  def step(_, carry):
    V, gradient, rate, best_V, best = carry
    # A step much longer than this would cost the directions their right
    # angles: its product with itself is what is factorized.
    length = jnp.sqrt((gradient**2).sum())
    rate = jnp.minimum(rate, _LONGEST_STEP / jnp.maximum(length, 1e-30))
    new_V = _orthonormalize(jnp.where(used, V - rate * gradient, 0))
    value, new_gradient = tangent(new_V)
    moved, changed = new_V - V, new_gradient - gradient
    overlap = jnp.abs((moved * changed).sum())
    known = overlap > 0
    rate = jnp.where(
      known, (moved**2).sum() / jnp.where(known, overlap, 1), rate
    )
    best_V = jnp.where(value < best, new_V, best_V)
    return new_V, new_gradient, rate, best_V, jnp.minimum(value, best)

  value, gradient = tangent(V)
  rate = 0.1 / (jnp.sqrt((gradient**2).sum()) + 1e-6)
  carry = (V, gradient, rate, V, value)
  *_, best_V, best = jax.lax.fori_loop(0, num_steps, step, carry)
  return best_V, best


def _leading_direction(V, X):
  """Of the residuals, each in units of its length."""
  Y = X - _dot(_dot(X, V), V.T)
  Y = Y / jnp.sqrt((Y**2).sum(axis=1, keepdims=True) + _floor(X))
  _, vectors = jnp.linalg.eigh(_dot(Y.T, Y))
  return vectors[:, -1]


def _random_directions(key, X, count):
  used = (jnp.diagonal(_dot(X.T, X)) > 0)[:, None]
  draw = jax.random.normal(key, (X.shape[1], count), X.dtype)
  return jnp.where(used, draw, 0)


def _in_order(chains: Chains) -> Chains:
  costs = jnp.where(jnp.isnan(chains.cost), jnp.inf, chains.cost)
  order = jnp.argsort(costs)
  return Chains(chains.V[order], costs[order])


def _add_direction(key, Vs, k, X, C):
  """Chains for k directions, from those for k - 1 in order of their cost."""
  columns = jnp.arange(Vs.shape[2])
  keys = jax.random.split(key, len(Vs))
  new = jax.vmap(lambda key: _random_directions(key, X, 1)[:, 0])(keys)
  before = (columns < k - 1).astype(X.dtype)
  new = new.at[0].set(_leading_direction(Vs[0] * before[None], X))
  here = (columns == k - 1)[None, :]
  # QR leaves the columns before the new one as they are, up to their sign.
  starts = jax.vmap(
    lambda V, x: jnp.linalg.qr(jnp.where(here, x[:, None], V))[0]
  )(Vs, new)
  mask = (columns < k).astype(X.dtype)

  def minimize(Vs, num_steps):
    found = jax.vmap(lambda V: _minimize(V, mask, X, C, num_steps))(Vs)
    return _in_order(Chains(*found))

  chains = minimize(starts, _NUM_STEPS)
  best = minimize(chains.V[:_NUM_BEST], _NUM_MORE_STEPS)
  return _in_order(
    jax.tree.map(
      lambda some, others: jnp.concatenate([some, others[_NUM_BEST:]]),
      best,
      chains,
    )
  )


def chains_by_rank(
  key: Key[Array, ""],
  X: Float[Array, "P P"],
  largest: int,
  num_chains: int,
  allowed: Array,
) -> Chains:
  """Directions and costs for K = 1 ... `largest`, with a leading axis for K.

  Args:
    key: for the random directions that the chains add.
    X: centres as rows, about their mean.
    largest: K at most.
    num_chains: how many; the first always adds the leading direction of what
      is left, the others a random one.
    allowed: beyond this K nothing is sought: the cost is infinite there.
  """
  C = _dot(X, X.T)
  first = jax.vmap(
    lambda key: jnp.linalg.qr(_random_directions(key, X, largest))[0]
  )(jax.random.split(key, num_chains))
  nothing = jnp.full((num_chains,), jnp.inf, X.dtype)

  def add(Vs, k):
    chains = jax.lax.cond(
      k <= allowed,
      lambda: _add_direction(jax.random.fold_in(key, k), Vs, k, X, C),
      lambda: Chains(Vs, nothing),
    )
    return chains.V, chains

  return jax.lax.scan(add, first, jnp.arange(1, largest + 1))[1]
