"""Gram statistics: all that the geometry needs from points."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry import checks
from geomem.geometry.linalg import einsum, grams
from geomem.geometry.points import (
  Mask,
  Points,
  as_floats,
  as_points,
  check_finite,
  float_type,
  refuse_not_finite,
  to_device,
  unit_exponent,
)

_Tree = TypeVar("_Tree")
# Exponent of all-zero products: a sum takes the unit of its other term.
OF_NOTHING = -2000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramStatistics:
  """Inner products of P manifolds of M points, about the mean of all points.

  Statistics of two blocks of features add up to those of all features: `a + b`.

  Attributes:
    within: Gram matrix of each manifold about its own centre.
    cross: products of its centred points with all centres.
    centers: Gram matrix of the centres.
    mask: which points are present, where manifolds differ in size.
    exponent: products are in units of 4^exponent: 0 unless the points are so
      large or so small that products would over- or underflow. The geometry
      does not depend on the unit.
  """

  within: Float[Array, "*b P M M"]
  cross: Float[Array, "*b P M P"]
  centers: Float[Array, "*b P P"]
  mask: Bool[Array, "*b P M"]
  exponent: Int[Array, "*b"] = dataclasses.field(
    default_factory=lambda: jnp.int32(0)
  )

  def __add__(self, other: "GramStatistics") -> "GramStatistics":
    """Returns the statistics of both blocks of features together.

    Raises:
      ValueError: the blocks differ in the number of manifolds or points, or in
        which points are present. Under jit, different masks give NaN.
    """
    if self.cross.shape != other.cross.shape:
      raise ValueError(
        f"Statistics of points {self.mask.shape} and {other.mask.shape} do not"
        " add up; two blocks of features of the same points were expected."
      )
    same = (self.mask == other.mask).all(axis=(-2, -1))
    total = _added(*in_present_types((self, other)))
    if checks.is_traced(same):
      return _map_products(lambda x: nan_unless(same, x), total)
    if not np.asarray(same).all():
      raise ValueError(
        "Statistics with different masks do not add up; two blocks of features"
        " of the same points were expected."
      )
    return total


def in_present_types(stats: _Tree) -> _Tree:
  """Converts arrays from where double precision was enabled, if it is not."""
  return jax.tree.map(
    lambda x: jnp.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype)), stats
  )


def _map_products(function, *stats: GramStatistics) -> GramStatistics:
  """Applies a function to each kind of products."""
  names = ("within", "cross", "centers")
  products = {
    name: function(*(getattr(x, name) for x in stats)) for name in names
  }
  return dataclasses.replace(stats[0], **products)


def _added(a: GramStatistics, b: GramStatistics) -> GramStatistics:
  """Adds up the statistics of two blocks of features of the same points."""
  exponent = jnp.maximum(a.exponent, b.exponent)
  m, n = (2 * (stats.exponent - exponent) for stats in (a, b))
  total = _map_products(
    lambda x, y: times_power(x, m) + times_power(y, n), a, b
  )
  return dataclasses.replace(total, exponent=exponent)


def _broadcastable(x: Array, like: Array) -> Array:
  return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def nan_unless(known: Bool[Array, "*b"], x: Array) -> Array:
  """Returns entries `[*b, ...]` of x that are known, and NaN for all others."""
  return jnp.where(_broadcastable(known, x), x, jnp.nan)


def times_power(x: Array, exponent: Array) -> Array:
  """Computes 2^exponent x in two halves: the power may not fit its dtype."""
  exponent = _broadcastable(exponent, x)
  one, half = jnp.ones((), x.dtype), exponent // 2
  return x * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def products_about_means(
  points: Float[Array, "P M N"],
  mask: Bool[Array, "P M"],
  means: Float[Array, "P N"],
  centers: Float[Array, "Q N"],
) -> list[Array]:
  """Computes the products `within` of deviations from the means, and `cross`.

  The mean of points that are all the same has a rounding error, which would
  count as spread: their products are set to 0, but keep their derivatives.
  """
  x = (points - means[:, None]) * mask[..., None].astype(points.dtype)
  first = jnp.take_along_axis(points, mask.argmax(axis=1)[:, None, None], 1)
  same = ((points == first) | ~mask[..., None]).all(axis=(1, 2))[:, None, None]
  products = grams(x), einsum("pmn,qn->pmq", x, centers)
  return [y - jnp.where(same, jax.lax.stop_gradient(y), 0) for y in products]


@jax.jit
def _gram(points, mask):
  """Computes the statistics, and whether points and products are finite."""
  finite = ~mask | jnp.isfinite(points).all(axis=2)
  points = as_floats(points, mask)
  counts = mask.sum(axis=1)[:, None].astype(points.dtype)
  largest = jax.lax.stop_gradient(jnp.abs(points).max())
  # Below its smallest normal number, a dtype has hardly any digits. NaN is not
  # below it, and stays.
  zero = largest < jnp.finfo(points.dtype).tiny
  unit = jnp.where(zero, 0, unit_exponent(largest, points.dtype))
  points = jnp.where(zero, 0, times_power(points, -unit))
  # Zero products must not change the unit of a sum.
  exponent = jnp.where(zero, OF_NOTHING, unit)
  means = points.sum(axis=1) / counts
  origin = (means * counts).sum(axis=0) / counts.sum()
  centers = means - origin[None]
  within, cross = products_about_means(points, mask, means, centers)
  gram = einsum("pn,qn->pq", centers, centers)
  stats = GramStatistics(within, cross, gram, mask, exponent)
  return stats, (finite, jnp.isfinite(stats.within).all(axis=(1, 2)))


def feature_blocks(points: Array, size: int | None) -> Iterator[Array]:
  """Yields blocks of features; blocks of one size share a program."""
  count = points.shape[2]
  if size is None or size >= count:
    yield points
    return
  for start in range(0, count, size):
    length = min(size, count - start)
    yield jax.lax.dynamic_slice_in_dim(points, start, length, 2)


def gram_statistics(
  points: Points, *, mask: Mask = None, block_size: int | None = None
) -> GramStatistics:
  """Computes the Gram statistics of P manifolds.

  Exact sums over features, with P M (M + P) N multiply-adds.

  Args:
    points: `[P, M, N]`, or a list of `[M_i, N]` arrays of unequal length, of
      any real dtype. A common offset is subtracted from integers and float64
      on the host before they are converted.
    mask: which of the `[P, M]` points are present; all by default. Missing
      points may hold any values.
    block_size: features at a time, to bound the memory of the centred copy.

  Raises:
    ValueError: the points are of the wrong shape, or they or their products are
      not finite; under jit, the products of the former are NaN.
  """
  if block_size is not None:
    checks.count("block_size", block_size)
  points, mask = as_points(points, mask)
  if isinstance(points, np.ndarray):
    check_finite(points, mask)
  points, exponent = to_device(points, mask)
  mask = jnp.asarray(mask)
  results = [_gram(x, mask) for x in feature_blocks(points, block_size)]
  for _, flags in results:
    _check_flags(*flags, float_type(points))
  stats = functools.reduce(_added, (stats for stats, _ in results))
  if exponent == 0:
    return stats
  return dataclasses.replace(stats, exponent=stats.exponent + exponent)


def sum_statistics(blocks: Iterable[GramStatistics]) -> GramStatistics:
  """Adds up the statistics of blocks of features of the same points.

  Raises:
    ValueError: there are no blocks, they are not of the same points, or not
      Gram statistics.
  """
  if not isinstance(blocks, Iterable):
    raise ValueError(
      f"{type(blocks).__name__} was given; a list of the Gram statistics of"
      " blocks of features was expected."
    )
  total = None
  for block in blocks:
    check_statistics(block)
    total = block if total is None else total + block
  if total is None:
    raise ValueError("There are no blocks; at least one was expected.")
  return total


def check_statistics(given: Any) -> None:
  """Raises ValueError unless Gram statistics are given."""
  if not isinstance(given, GramStatistics):
    raise ValueError(
      f"{type(given).__name__} was given; Gram statistics were expected: give"
      " geometry.gram_statistics(points)."
    )


def _check_flags(points: Array, products: Array, dtype) -> None:
  """Raises, outside jit, unless all points and products are finite."""
  if checks.is_traced(points):
    return
  refuse_not_finite(np.asarray(points))
  finite = np.asarray(products)
  if not finite.all():
    raise ValueError(
      f"The products of the points of manifold {np.argmin(finite)} overflow"
      f" {dtype}; divide all points by one large number, which changes none of"
      " the results."
    )
