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

from geomem.geometry.center_directions import chains_by_rank, residual_gram

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_MAX_RANK = 32
_NUM_STARTS = 8


class SharedDirections(NamedTuple):
  """Directions V = C̄ᵀA in the span of the centred centres C̄.

  Attributes:
    coefficients: A, with columns beyond the rank zero.
    rank: K, how many directions.
    correlations: mean absolute residual correlation by K = 0, 1, ...; infinite
      where K was not tried.
    costs: half the sum of squared residual correlations by K, the diagonal
      included: P / 2 where nothing is left.
  """

  coefficients: Float[Array, "P K"]
  rank: Int[Array, ""]
  correlations: Float[Array, " ranks"]
  costs: Float[Array, " ranks"]


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


def max_rank(num_manifolds: int) -> int:
  """The largest K that is tried: two dimensions at least are left."""
  return max(0, min(num_manifolds - 3, _MAX_RANK))


def _argmin(correlations, cosines):
  del cosines
  return correlations.argmin()


def _elbow(correlations, cosines):
  """The K farthest below the line from the curve's start to its end."""
  del cosines
  end = jnp.isfinite(correlations).sum() - 1  # Tried are K = 0 to some other.
  share = jnp.arange(len(correlations)) / jnp.maximum(end, 1)
  line = correlations[0] + share * (correlations[end] - correlations[0])
  return (line - correlations).argmax()


def _null(correlations, cosines):
  """The first K whose leading eigenvalue independent centres would have too.

  Cosines of independent centres scatter by 1/√n about zero, and the largest
  eigenvalue of their matrix is (1 + √(P/n))², beyond which it comes but rarely
  by more than P^(-2/3) of it (Marchenko and Pastur; Johnstone 2001). The
  scatter is read off where the correlation is least.
  """
  size = cosines.shape[-1]
  best = cosines[correlations.argmin()]
  spread = ((best**2).sum() - size) / (size * (size - 1))
  root = jnp.sqrt(size * jnp.maximum(spread, 0))
  edge = (1 + root) ** 2
  width = (1 + root) * root ** (1 / 3) * size ** (-2 / 3) * root
  leading = jnp.linalg.eigvalsh(cosines)[:, -1]
  independent = leading <= edge + 2 * width
  # Where none looks independent, the least correlated one.
  return jnp.where(
    independent.any(), independent.argmax(), correlations.argmin()
  )


_RULES = {
  "low_rank": _argmin,
  "argmin": _argmin,
  "elbow": _elbow,
  "null": _null,
}


def check_centers(rule: int | str | None, num_manifolds: int) -> None:
  """Checks a rule for the centres before there are any.

  Args:
    rule: as in `shared_directions`.
    num_manifolds: P.

  Raises:
    ValueError: the rule is not known, or K is more than P - 3 or 32.
  """
  largest = max_rank(num_manifolds)
  if isinstance(rule, int) and not 0 <= rule <= largest:
    raise ValueError(
      f"centers={rule} directions cannot be removed from {num_manifolds}"
      f" manifolds; at most {largest} can."
    )
  if not (rule is None or isinstance(rule, int) or rule in _RULES):
    raise ValueError(
      f"centers={rule!r} is not known; use {', '.join(map(repr, _RULES))}, an"
      " integer or None."
    )


def _root(gram):
  """X with X Xᵀ = Gram up to its unit, the eigenvectors, and their scale."""
  values, vectors = jnp.linalg.eigh(gram)
  tolerance = 10 * len(gram) * jnp.finfo(gram.dtype).eps * values[-1]
  root = jnp.sqrt(jnp.where(values > tolerance, values, 0))
  # The unit of the centres does not matter; that of the largest is handy.
  unit = jnp.where(root[-1] > 0, root[-1], 1)
  share = jnp.cumsum(values[::-1]) / jnp.maximum(values.sum(), 1e-30)
  allowed = (share < 0.95).sum() + 11
  return vectors * (root / unit)[None, :], vectors, root, allowed


def _stability(X, V):
  """Least part that is left of the length of any centre."""
  left = jnp.diagonal(residual_gram(X, V))
  whole = (X**2).sum(axis=1)
  return (left / jnp.where(whole > 0, whole, 1)).min()


def shared_directions(
  key: Key[Array, ""],
  centers: Float[Array, "P P"],
  rule: int | str | None = "low_rank",
  *,
  num_starts: int = _NUM_STARTS,
  select: str = "cost",
) -> SharedDirections:
  """Finds the directions that the centres share.

  For each K the directions minimise half the sum of squared correlations of
  what is left of the centres, from several starts; the lowest cost wins. K is
  tried up to 11 more than it takes for 95 % of the centres' variance, and up
  to 32.

  Args:
    key: for the random starts.
    centers: Gram matrix of the centres.
    rule: `low_rank`, or `argmin`, takes the K, 0 included, of least mean
      absolute residual correlation; `elbow` the K where the curve bends;
      `null` the first K at which independent centres would be as correlated;
      an integer is K itself; None is 0.
    num_starts: chains of directions.
    select: `cost`, or `stability`: among the starts, the one that leaves most
      of the centre that loses most.

  Raises:
    ValueError: the rule is not known, or K is too large for P.
  """
  size = centers.shape[0]
  check_centers(rule, size)
  if select not in ("cost", "stability"):
    raise ValueError(
      f"select={select!r} is not known; use 'cost' or 'stability'."
    )
  gram = center_gram(centers)
  cosines = _cosines(gram)
  correlation = _mean_off_diagonal(cosines)[None]
  cost = 0.5 * (cosines**2).sum()[None]
  largest = rule if isinstance(rule, int) else max_rank(size)
  if rule is None or largest == 0:
    nothing = jnp.zeros((size, 1), gram.dtype)
    return SharedDirections(nothing, jnp.int32(0), correlation, cost)
  X, vectors, root, allowed = _root(gram)
  allowed = jnp.where(isinstance(rule, int), largest, allowed)
  chains = chains_by_rank(key, X, largest, num_starts, allowed)
  ranks = jnp.arange(1, largest + 1)
  masks = (jnp.arange(largest)[None] < ranks[:, None]).astype(X.dtype)
  Vs = chains.V * masks[:, None, None]
  chosen = jnp.zeros_like(ranks)
  if select == "stability":
    steady = jax.vmap(jax.vmap(lambda V: _stability(X, V)))(Vs)
    chosen = steady.argmax(axis=1)
  Vs, costs = Vs[ranks - 1, chosen], chains.cost[ranks - 1, chosen]
  left = jax.vmap(lambda V: _cosines(residual_gram(X, V)))(Vs)
  tried = jnp.where(
    ranks <= allowed, jax.vmap(_mean_off_diagonal)(left), jnp.inf
  )
  correlations = jnp.concatenate([correlation, tried])
  rank = jnp.int32(largest)
  if not isinstance(rule, int):
    every = jnp.concatenate([cosines[None], left])
    rank = _RULES[rule](correlations, every).astype(jnp.int32)
  V = jnp.where(rank > 0, Vs[jnp.maximum(rank - 1, 0)], 0)
  inverse_root = jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1), 0)
  coefficients = _dot(vectors * inverse_root[None, :], V)
  costs = jnp.concatenate([cost, costs])
  return SharedDirections(coefficients, rank, correlations, costs)
