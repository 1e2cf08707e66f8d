"""Centres: their correlation, and the directions that they share.

Correlated centres lower the capacity in a way that the mean-field theory of
independent manifolds leaves out, so the directions that the centres share are
projected out of all points first. Source: Cohen, Chung, Lee and Sompolinsky,
Nature Communications 2020, methods.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

_HIGHEST = jax.lax.Precision.HIGHEST
_dot = functools.partial(jnp.matmul, precision=_HIGHEST)
_NUM_STEPS = 60
_NUM_RANDOM_STARTS = 2
_MAX_RANK = 32


class SharedDirections(NamedTuple):
  """Directions V = C̄ᵀA in the span of the centred centres C̄.

  Attributes:
    coefficients: A, with columns beyond the rank zero.
    rank: K, how many directions.
    correlations: mean absolute residual correlation by K = 0, 1, ...
  """

  coefficients: Float[Array, "P K"]
  rank: Int[Array, ""]
  correlations: Float[Array, " ranks"]


def center_gram(centers: Float[Array, "P P"]) -> Float[Array, "P P"]:
  """Gram matrix of the centres about their own, unweighted mean."""
  centers = centers - centers.mean(axis=0, keepdims=True)
  return centers - centers.mean(axis=1, keepdims=True)


def _cosines(gram: Array) -> Array:
  norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
  safe = jnp.where(norms > 0, norms, 1)
  return gram / (safe[:, None] * safe[None, :])


def _mean_off_diagonal(cosines: Array) -> Array:
  size = cosines.shape[0]
  off = jnp.where(jnp.eye(size, dtype=bool), 0, jnp.abs(cosines))
  return off.sum() / max(size * (size - 1), 1)


def center_correlation(centers: Float[Array, "P P"]) -> Float[Array, ""]:
  """ρ, the mean absolute cosine of different centres about their mean.

  It is 0 for a single manifold, and 1 for two.
  """
  return _mean_off_diagonal(_cosines(center_gram(centers)))


def _residual(X, V):
  return X - _dot(_dot(X, V), V.T)


def _cost(V, X):
  """Half the sum of squared residual correlations of the rows of X."""
  Y = _residual(X, V)
  norms = jnp.sqrt((Y**2).sum(axis=1, keepdims=True) + _floor(X))
  Y = Y / norms
  return 0.5 * (_dot(Y, Y.T) ** 2).sum()


def _floor(X):
  # Keeps a centre that is removed whole from dividing by zero.
  return 1e-12 * (X**2).mean() + jnp.finfo(X.dtype).tiny


def _retract(V):
  Q, R = jnp.linalg.qr(V)
  return Q * jnp.where(jnp.diagonal(R) < 0, -1, 1)[None, :]


def _minimize(V, mask, X):
  """Barzilai-Borwein steps on the Stiefel manifold; the best V is kept.

  Columns that the mask leaves out count as absent: their gradient is zero, so
  that one program serves every K.
  """
  value_and_grad = jax.value_and_grad(lambda V: _cost(V * mask[None, :], X))

  # Axes without variance stay out of V. Along them V Vᵀ would stop being a
  # projection of the centres, at a lower cost: rounding errors would grow.
  used = ((X**2).sum(axis=0) > 0)[:, None]

  def tangent(V, gradient):
    gradient = jnp.where(used, gradient, 0)
    inner = _dot(V.T, gradient)
    return gradient - _dot(V, 0.5 * (inner + inner.T))

  def step(_, carry):
    V, gradient, rate, best_V, best = carry
    new_V = _retract(V - rate * gradient)
    value, new_gradient = value_and_grad(new_V)
    new_gradient = tangent(new_V, new_gradient)
    moved, changed = new_V - V, new_gradient - gradient
    overlap = jnp.abs((moved * changed).sum())
    rate = jnp.where(overlap > 0, (moved**2).sum() / overlap, rate)
    rate = jnp.clip(rate, 1e-4, 1e2)
    better = value < best
    best_V = jnp.where(better, new_V, best_V)
    return new_V, new_gradient, rate, best_V, jnp.minimum(value, best)

  value, gradient = value_and_grad(V)
  gradient = tangent(V, gradient)
  rate = 0.1 / (jnp.sqrt((gradient**2).sum()) + 1e-6)
  carry = (V, gradient, rate, V, value)
  *_, best_V, best = jax.lax.fori_loop(0, _NUM_STEPS, step, carry)
  return best_V, best


def _next_start(V, mask, column, X):
  """V with one more column: the leading direction of the residuals."""
  Y = _residual(X, V * mask[None, :])
  Y = Y / jnp.sqrt((Y**2).sum(axis=1, keepdims=True) + _floor(X))
  _, vectors = jnp.linalg.eigh(_dot(Y.T, Y))
  new = jnp.where(column[None, :], vectors[:, -1:], V)
  # The new column goes first into the QR among those in use, which it leaves
  # as they are up to rotation.
  return _retract(new)


def max_rank(num_manifolds: int) -> int:
  """The largest K that is tried: two dimensions at least are left."""
  return max(0, min(num_manifolds - 3, _MAX_RANK))


def shared_directions(
  key: Key[Array, ""],
  centers: Float[Array, "P P"],
  centers_rule: int | str | None = "low_rank",
) -> SharedDirections:
  """Finds the directions that the centres share.

  For each K the directions minimise half the sum of squared correlations of
  what is left of the centres, from the solution of K - 1 with the leading
  direction of the residuals added, and from random starts; the lowest cost
  wins.

  Args:
    key: for the random starts.
    centers: Gram matrix of the centres.
    centers_rule: `low_rank` takes the K, 0 included, of least mean absolute
      residual correlation, among those that the centres' variance allows (11
      more than it takes for 95 % of it); an integer is K itself; None is 0.

  Raises:
    ValueError: the rule is not known, or K is too large for P.
  """
  size = centers.shape[0]
  largest = max_rank(size)
  if isinstance(centers_rule, int):
    if not 0 <= centers_rule <= largest:
      raise ValueError(
        f"centers={centers_rule} directions cannot be removed from {size}"
        f" manifolds; at most {largest} can."
      )
    largest = centers_rule
  elif centers_rule not in ("low_rank", None):
    raise ValueError(
      f"centers={centers_rule!r} is not known; use 'low_rank', an integer or"
      " None."
    )
  gram = center_gram(centers)
  correlation = _mean_off_diagonal(_cosines(gram))
  if centers_rule is None or largest == 0:
    nothing = jnp.zeros((size, 1), gram.dtype)
    return SharedDirections(nothing, jnp.int32(0), correlation[None])
  values, vectors = jnp.linalg.eigh(gram)
  tolerance = 10 * size * jnp.finfo(gram.dtype).eps * values[-1]
  root = jnp.sqrt(jnp.where(values > tolerance, values, 0))
  # The unit of the centres does not matter; that of the largest is handy.
  unit = jnp.where(root[-1] > 0, root[-1], 1)
  X = vectors * (root / unit)[None, :]
  Vs, _ = _directions_by_rank(key, X, largest)
  by_rank = jax.vmap(
    lambda V, k: _mean_off_diagonal(
      _cosines(_residual_gram(X, V * _first(k, largest, X.dtype)[None, :]))
    )
  )(Vs, jnp.arange(1, largest + 1))
  correlations = jnp.concatenate([correlation[None], by_rank])
  share = jnp.cumsum(values[::-1]) / jnp.maximum(values.sum(), 1e-30)
  allowed = (share < 0.95).sum() + 11
  if isinstance(centers_rule, int):
    rank = jnp.int32(largest)
  else:
    tried = jnp.arange(largest + 1) <= allowed
    rank = jnp.where(tried, correlations, jnp.inf).argmin().astype(jnp.int32)
  V = Vs[jnp.maximum(rank - 1, 0)]
  V = V * _first(rank, largest, X.dtype)[None, :]
  inverse_root = jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1), 0)
  return SharedDirections(
    _dot(vectors * inverse_root[None, :], V), rank, correlations
  )


def _residual_gram(X, V):
  Y = _residual(X, V)
  return _dot(Y, Y.T)


def _first(k, size, dtype):
  return (jnp.arange(size) < k).astype(dtype)


def _directions_by_rank(key, X, largest):
  """V and its cost for K = 1 ... largest, each from several starts."""
  used = ((X**2).sum(axis=0) > 0)[:, None]

  def random_start(key):
    draw = jax.random.normal(key, (X.shape[1], largest), X.dtype)
    return _retract(jnp.where(used, draw, 0))

  def add_direction(V, k):
    column = jnp.arange(largest) == k - 1
    mask = _first(k, largest, X.dtype)
    warm = _next_start(V, _first(k - 1, largest, X.dtype), column, X)
    keys = jax.random.split(jax.random.fold_in(key, k), _NUM_RANDOM_STARTS)
    starts = jnp.concatenate([warm[None], jax.vmap(random_start)(keys)])
    found, costs = jax.vmap(lambda V: _minimize(V, mask, X))(starts)
    best = costs.argmin()
    return found[best], (found[best], costs[best])

  ranks = jnp.arange(1, largest + 1)
  _, (Vs, costs) = jax.lax.scan(add_direction, random_start(key), ranks)
  return Vs, costs
