"""Centres: their correlation, and the directions that they share.

Correlated centres lower the capacity in a way that the mean-field theory of
independent manifolds leaves out, so the directions that the centres share are
projected out of all points first. Source: Cohen, Chung, Lee and Sompolinsky,
Nature Communications 2020, methods.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from geomem.geometry.center_directions import (
  Found,
  mean_off_diagonal,
  search,
  summarize,
)
from geomem.geometry.center_rules import RULES, check_centers, max_rank
from geomem.geometry.frames import center_gram, eigenvalue_rounding
from geomem.geometry.linalg import matmul

# A mean |cos| beyond this says that no direction of their own can be seen.
_ON_ONE_LINE = 0.99


class SharedDirections(NamedTuple):
  """Directions V = C̄ᵀA in the span of the centred centres C̄.

  Attributes:
    coefficients: A, with columns beyond the rank zero.
    rank: K, how many directions.
    correlations: mean absolute residual correlation by K = 0, 1, ...; infinite
      where K was not tried.
    costs: half the sum of squared residual correlations by K, the diagonal
      included: P / 2 where nothing is left.
    left: the least share of its squared norm that any centre keeps, by K; 0
      where K was not tried.
    span: dimensions of the centres' span, as far as rounding lets them be seen.
    complete: whether what was asked for could be had: not where an integer K
      is more than the span allows, nor where what is left of four centres or
      more is on one line, as where they share a direction so strongly that its
      rounding hides all others.
  """

  coefficients: Float[Array, "P K"]
  rank: Int[Array, ""]
  correlations: Float[Array, " ranks"]
  costs: Float[Array, " ranks"]
  left: Float[Array, " ranks"]
  span: Int[Array, ""]
  complete: Bool[Array, ""]


def _norms(gram: Array) -> tuple[Array, Array]:
  """Norms of the centres, and which of them are more than rounding."""
  squares = jnp.diagonal(gram)
  present = squares > 4 * jnp.finfo(gram.dtype).eps * squares.max()
  return jnp.sqrt(jnp.where(present, squares, 1)), present


def _cosines(gram: Array) -> Array:
  norms, present = _norms(gram)
  both = present[:, None] & present[None, :]
  return jnp.where(both, gram / (norms[:, None] * norms[None, :]), 0)


def center_correlation(centers: Float[Array, "P P"]) -> Float[Array, ""]:
  """Returns ρ, the mean absolute cosine of different centres about their mean.

  It is 0 for a single manifold, and 1 for two.
  """
  return mean_off_diagonal(_cosines(center_gram(centers)))


class _Axes(NamedTuple):
  """Centres of norm one in axes of their span.

  Attributes:
    X: one a row; columns beyond the rank are zero.
    to_coefficients: takes directions in these axes to A.
    norms: of the centres; 0 where that is rounding.
    rank: dimension of the span.
  """

  X: Float[Array, "P P"]
  to_coefficients: Float[Array, "P P"]
  norms: Float[Array, " P"]
  rank: Int[Array, ""]


def _axes(gram: Array) -> _Axes:
  """Centres whose cosines are those of the Gram matrix.

  Axes are cut where rounding may have made them. Cosines, not products, are
  factorized: a long centre does not hide the directions of short ones.
  """
  norms, present = _norms(gram)
  cosines = _cosines(gram)
  values, vectors = jnp.linalg.eigh(cosines)
  real = values > eigenvalue_rounding(len(gram), values[-1])
  roots = jnp.sqrt(jnp.where(real, values, 1))
  X = jnp.where(real[None], vectors * roots[None], 0)
  X = jnp.where(present[:, None], X, 0)
  inverse = jnp.where(real[None], vectors / roots[None], 0)
  inverse = jnp.where(present, 1 / norms, 0)[:, None] * inverse
  return _Axes(X, inverse, jnp.where(present, norms, 0), real.sum())


def _num_allowed(gram: Array, rank: Array) -> Array:
  """Bounds K: 11 beyond 95 % of the variance, and the rank less two.

  The former is the habit of the field.
  """
  values = jnp.maximum(jnp.linalg.eigvalsh(gram), 0)[::-1]
  total = values.sum()
  share = jnp.cumsum(values) / jnp.where(total > 0, total, 1)
  return jnp.maximum(jnp.minimum((share < 0.95).sum() + 11, rank - 2), 0)


def num_chains(num_manifolds: int) -> int:
  """Returns how many chains the search has by default.

  Few centres have few minima, and many are searched well by few chains.
  Measured: within .3 % of the lowest cost of thirty long descents from random
  directions for P from 8 to 20, and .5 % up to 100, in every family of centres
  that was tried; with 12 chains for P = 20 and 30, 2 %.
  """
  P = num_manifolds
  return min(P, max(3, 360 // P, 16_000 // P**2))


def _chosen(rule, found: Found, curves, cosines, run) -> tuple[Array, Array]:
  """Returns K by the rule, and the directions V."""
  if isinstance(rule, int):
    rank, V = found.rank, found.V
  elif rule in ("elbow", "null"):
    start = jnp.linalg.eigvalsh(cosines)[-1:]
    leading = jnp.concatenate([start, found.leading])
    rank = RULES[rule](*curves[:2], leading).astype(jnp.int32)
    # The same way again, up to the K that the whole curve decides on.
    V = run("last", rank).V
  else:
    rank, V = curves[0].argmin().astype(jnp.int32), found.V
  return rank, jnp.where(rank > 0, V, 0)


def shared_directions(
  key: Key[Array, ""],
  centers: Float[Array, "P P"],
  rule: int | str | None = "low_rank",
  *,
  num_starts: int | None = None,
  select: str = "cost",
) -> SharedDirections:
  """Finds the directions that the centres share.

  For each K the directions minimise half the sum of squared correlations of
  what is left of the centres, from several starts. K is tried up to 11 more
  than it takes for 95 % of the centres' variance, as long as two dimensions of
  their span are left; from K = 5 on, three rises of the mean correlation in a
  row end it.

  Args:
    key: for a third of the starts, which are random directions; the others
      are principal axes of the centres.
    centers: Gram matrix of the centres.
    rule: `low_rank`, or `argmin`, takes the K, 0 included, of least mean
      absolute residual correlation; `elbow` the K where the curve bends;
      `null` the first K at which independent centres would be as correlated;
      an integer is K itself, or what the span of the centres allows; None is 0.
    num_starts: chains of directions; by default more for fewer centres.
    select: `cost`, or `stability`: among the starts, the one that leaves most
      of the centre that loses most. With `cost` that decides between starts
      whose costs are within .1 %.

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
  first = (
    mean_off_diagonal(cosines)[None],
    0.5 * (cosines**2).sum()[None],
    jnp.ones((1,), gram.dtype),
  )
  largest = rule if isinstance(rule, int) else max_rank(size)
  axes = _axes(gram)
  if rule is None or largest == 0:
    nothing = jnp.zeros((size, 1), gram.dtype)
    yes = jnp.bool_(True)
    span = axes.rank.astype(jnp.int32)
    return SharedDirections(nothing, jnp.int32(0), *first, span, yes)
  allowed = _num_allowed(gram, axes.rank)
  if isinstance(rule, int):
    allowed = jnp.clip(axes.rank - 2, 0, rule)

  def run(keep: str, allowed: Array) -> Found:
    return search(
      key,
      axes.X,
      axes.norms,
      allowed,
      largest=largest,
      num_chains=num_starts or num_chains(size),
      keep=keep,
      stable=select == "stability",
      with_leading=rule == "null",
    )

  found = run("last" if isinstance(rule, int) else "least", allowed)
  return _polished(rule, found, first, axes, cosines, run)


def _polished(rule, found: Found, first, axes, cosines, run):
  """Chooses K and its directions, and says what they leave."""
  curves = [
    jnp.concatenate([a, b])
    for a, b in zip(
      first, (found.correlations, found.costs, found.left), strict=True
    )
  ]
  rank, V = _chosen(rule, found, curves, cosines, run)
  # The directions of the chosen K have been polished since.
  final = summarize(V, axes.X, axes.norms > 0)
  polished = (final.correlation, final.cost, final.left)
  curves = [c.at[rank].set(x) for c, x in zip(curves, polished, strict=True)]
  coefficients = matmul(axes.to_coefficients, V)
  complete = curves[0][rank] < _ON_ONE_LINE
  if isinstance(rule, int):
    complete &= rank == rule
  span = axes.rank.astype(jnp.int32)
  return SharedDirections(coefficients, rank, *curves, span, complete)
