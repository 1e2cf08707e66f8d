"""Gram statistics: all that the geometry needs of points in N features."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

_HIGHEST = jax.lax.Precision.HIGHEST


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["within", "cross", "centers", "mask"],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class GramStatistics:
  """Inner products of P manifolds of M points, with the origin in their midst.

  The origin is the mean of all points. Statistics of two blocks of features
  add up to those of all features: `a + b`.

  Attributes:
    within: Gram matrix of each manifold about its own centre.
    cross: products of its centred points with all centres.
    centers: Gram matrix of the centres.
    mask: which points are there, where manifolds differ in size.
  """

  within: Float[Array, "*b P M M"]
  cross: Float[Array, "*b P M P"]
  centers: Float[Array, "*b P P"]
  mask: Bool[Array, "*b P M"]

  def __add__(self, other: "GramStatistics") -> "GramStatistics":
    """The statistics of both blocks of features together."""
    return dataclasses.replace(
      self,
      within=self.within + other.within,
      cross=self.cross + other.cross,
      centers=self.centers + other.centers,
    )


@jax.jit
def _gram(points, mask):
  present = mask[..., None].astype(points.dtype)
  counts = present.sum(axis=1)
  # Centring comes before every product, and one point before every mean: an
  # offset shared by all points would cost float32 its digits.
  points = points - points[:1, :1]
  means = (points * present).sum(axis=1) / counts
  origin = (means * counts).sum(axis=0) / counts.sum()
  centers = means - origin[None]
  points = (points - means[:, None]) * present
  dot = functools.partial(jnp.einsum, precision=_HIGHEST)
  return GramStatistics(
    within=dot("pmn,pkn->pmk", points, points),
    cross=dot("pmn,qn->pmq", points, centers),
    centers=dot("pn,qn->pq", centers, centers),
    mask=mask,
  )


def gram_statistics(
  points: Shaped[Array | np.ndarray, "..."] | Sequence,
  *,
  mask: Bool[Array | np.ndarray, "P M"] | None = None,
  block_size: int | None = None,
) -> GramStatistics:
  """Gram statistics of P manifolds.

  Exact sums over features, at P M (M + P) N multiply-adds.

  Args:
    points: `[P, M, N]`, or a list of `[M_i, N]` arrays of unequal length.
    mask: which of the `[P, M]` points are there; all by default.
    block_size: features at a time, to bound the memory of the centred copy.

  Raises:
    ValueError: the points are of the wrong shape, or not finite (outside jit).
  """
  if isinstance(points, list | tuple):
    points, mask = _pad(points)
  points = _as_floats(points)
  if mask is None:
    mask = jnp.ones(points.shape[:2], bool)
  _check_shapes(points, mask, block_size)
  _check_finite(points)
  num_features = points.shape[2]
  size = block_size or num_features
  stats = sum_statistics(
    _gram(points[..., start : start + size], mask)
    for start in range(0, num_features, size)
  )
  _check_products(stats)
  return stats


def sum_statistics(blocks: Iterable[GramStatistics]) -> GramStatistics:
  """Adds up the statistics of blocks of features."""
  return functools.reduce(lambda a, b: a + b, blocks)


def _pad(manifolds: Sequence) -> tuple[Array, Array]:
  manifolds = [np.asarray(x) for x in manifolds]
  shapes = [x.shape for x in manifolds]
  if any(x.ndim != 2 for x in manifolds) or len({s[1] for s in shapes}) != 1:
    raise ValueError(
      f"The manifolds have shapes {shapes}; [M_i, N] with one N was expected."
    )
  size = max(len(x) for x in manifolds)
  points = [np.pad(x, ((0, size - len(x)), (0, 0))) for x in manifolds]
  mask = [np.arange(size) < len(x) for x in manifolds]
  return jnp.asarray(np.stack(points)), jnp.asarray(np.stack(mask))


def _as_floats(points) -> Array:
  """At least single precision, as less has no eigenvalues."""
  dtype = points.dtype if hasattr(points, "dtype") else np.asarray(points).dtype
  real = (np.bool_, jnp.integer, jnp.floating)
  if not any(jnp.issubdtype(dtype, kind) for kind in real):
    raise ValueError(f"The points are {dtype}; real numbers were expected.")
  points = jnp.asarray(points)
  return points.astype(jnp.promote_types(points.dtype, jnp.float32))


def _check_shapes(points: Array, mask: Array, block_size: int | None) -> None:
  if points.ndim != 3 or 0 in points.shape:
    raise ValueError(
      f"The points have shape {points.shape}; [P, M, N] was expected:"
      " manifolds, points, features, one at least of each."
    )
  if mask.shape != points.shape[:2]:
    raise ValueError(
      f"The mask has shape {mask.shape}; {points.shape[:2]} was expected, as"
      f" the points have shape {points.shape}."
    )
  if block_size is not None and block_size < 1:
    raise ValueError(f"block_size is {block_size}; 1 at least was expected.")
  if isinstance(mask, jax.core.Tracer):
    return
  counts = np.asarray(mask).sum(axis=1)
  if not counts.all():
    raise ValueError(f"Manifold {np.argmin(counts)} has no points.")


def _check_finite(points: Array) -> None:
  if isinstance(points, jax.core.Tracer):
    return
  finite = np.asarray(jnp.isfinite(points).all(axis=2))
  if not finite.all():
    manifold, point = np.argwhere(~finite)[0]
    raise ValueError(
      f"Point {point} of manifold {manifold} is not finite; look for NaN or"
      " overflow in what gave the points."
    )


def _check_products(stats: GramStatistics) -> None:
  if isinstance(stats.within, jax.core.Tracer):
    return
  finite = np.asarray(jnp.isfinite(stats.within).all(axis=(-2, -1)))
  if not finite.all():
    raise ValueError(
      f"The products of the points of manifold {np.argmin(finite)} overflow"
      f" {stats.within.dtype}; divide all points by one large number, which"
      " changes none of the results."
    )
