"""Gram statistics: all that the geometry needs from points."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.linalg import einsum, grams
from geomem.geometry.points import (
  Mask,
  Points,
  as_floats,
  as_points,
  check_finite,
  refuse_not_finite,
  to_device,
  unit_exponent,
)

# Exponent of all-zero products: a sum takes the unit of its other term.
OF_NOTHING = -2000


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["within", "cross", "centers", "mask", "exponent"],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
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
    """Returns the statistics of both blocks of features together."""
    exponent = jnp.maximum(self.exponent, other.exponent)
    a, b = (2 * (x.exponent - exponent) for x in (self, other))
    return dataclasses.replace(
      self,
      within=times_power(self.within, a) + times_power(other.within, b),
      cross=times_power(self.cross, a) + times_power(other.cross, b),
      centers=times_power(self.centers, a) + times_power(other.centers, b),
      exponent=exponent,
    )


def times_power(x: Array, exponent: Array) -> Array:
  """Computes 2^exponent x in two halves: the power may not fit its dtype."""
  exponent = exponent.reshape(exponent.shape + (1,) * (x.ndim - exponent.ndim))
  one, half = jnp.ones((), x.dtype), exponent // 2
  return x * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


@jax.jit
def _gram(points, mask):
  """Computes the statistics, and whether points and products are finite."""
  finite = ~mask | jnp.isfinite(points).all(axis=2)
  points = as_floats(points, mask)
  present = mask[..., None].astype(points.dtype)
  counts = present.sum(axis=1)
  largest = jax.lax.stop_gradient(jnp.abs(points).max())
  # Below its smallest normal number, a dtype has hardly any digits.
  nonzero = largest >= jnp.finfo(points.dtype).tiny
  unit = jnp.where(nonzero, unit_exponent(largest, points.dtype), 0)
  points = jnp.where(nonzero, times_power(points, -unit), 0)
  # Zero products must not change the unit of a sum.
  exponent = jnp.where(nonzero, unit, OF_NOTHING)
  means = points.sum(axis=1) / counts
  origin = (means * counts).sum(axis=0) / counts.sum()
  centers = means - origin[None]
  points = (points - means[:, None]) * present
  stats = GramStatistics(
    within=grams(points),
    cross=einsum("pmn,qn->pmq", points, centers),
    centers=einsum("pn,qn->pq", centers, centers),
    mask=mask,
    exponent=exponent,
  )
  return stats, (finite, jnp.isfinite(stats.within).all(axis=(1, 2)))


def feature_blocks(points: Array, size: int) -> Iterator[Array]:
  """Yields blocks of features; blocks of one size share a program."""
  count = points.shape[2]
  for start in range(0, count, size):
    length = min(size, count - start)
    yield jax.lax.dynamic_slice_in_dim(points, start, length, 2)


def gram_statistics(
  points: Points,
  *,
  mask: Mask = None,
  block_size: int | None = None,
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
    ValueError: the points are of the wrong shape, or not finite (outside jit).
  """
  if block_size is not None and block_size < 1:
    raise ValueError(f"block_size is {block_size}; at least 1 was expected.")
  points, mask = as_points(points, mask)
  if isinstance(points, np.ndarray):
    check_finite(points, mask)
  points, exponent = to_device(points, mask)
  mask = jnp.asarray(mask)
  if block_size is None or block_size >= points.shape[2]:
    blocks = [points]
  else:
    blocks = feature_blocks(points, block_size)
  results = [_gram(block, mask) for block in blocks]
  for _, flags in results:
    _check_flags(*flags, points.dtype)
  stats = sum_statistics(stats for stats, _ in results)
  if exponent == 0:
    return stats
  return dataclasses.replace(stats, exponent=stats.exponent + exponent)


def sum_statistics(blocks: Iterable[GramStatistics]) -> GramStatistics:
  """Adds up the statistics of blocks of features."""
  return functools.reduce(lambda a, b: a + b, blocks)


def _check_flags(points: Array, products: Array, dtype) -> None:
  """Raises, outside jit, unless all points and products are finite."""
  if isinstance(points, jax.core.Tracer):
    return
  refuse_not_finite(np.asarray(points))
  finite = np.asarray(products)
  if not finite.all():
    raise ValueError(
      f"The products of the points of manifold {np.argmin(finite)} overflow"
      f" {dtype}; divide all points by one large number, which changes none of"
      " the results."
    )
