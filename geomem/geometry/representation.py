"""Dimension of a whole representation, from the spectrum of its points.

Unlike D_M, these numbers ignore manifolds, unless the spectrum is that of one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geomem.geometry.linalg import matmul, one_by_one
from geomem.geometry.points import (
  Mask,
  Points,
  as_floats,
  as_points,
  check_finite,
  to_device,
)
from geomem.geometry.statistics import GramStatistics


def _eigenvalues(gram: Array) -> Array:
  """Computes eigenvalues, largest first, with negative ones set to zero."""
  flat = gram.reshape(-1, *gram.shape[-2:])
  values = one_by_one(jnp.linalg.eigvalsh, flat).reshape(gram.shape[:-1])
  return jnp.maximum(values, 0)[..., ::-1]


def spectrum(
  points: Points,
  *,
  mask: Mask = None,
) -> Float[Array, " values"]:
  """Computes eigenvalues of the covariance of all points.

  Uses the smaller of the covariance and the Gram matrix, which share them.

  Args:
    points: `[n, N]`, or manifolds as `manifold_geometry` takes them, whose
      points all count equally.
    mask: which of the points of manifolds are present; all by default.

  Returns:
    min(n, N) eigenvalues, divided by the number of points that are present.

  Raises:
    ValueError: the points are of the wrong shape, or not finite, or so large or
      small that the eigenvalues do not fit their type.
  """
  if getattr(points, "ndim", 3) == 2:
    points = points[None]
  points, mask = as_points(points, mask)
  check_finite(points, mask)
  points, exponent = to_device(points, mask)
  values, unit = _spectrum(points, jnp.asarray(mask))
  # Multiplied in this order, they over- or underflow only if the result does.
  factor = jnp.ldexp(unit, exponent)
  scaled = values * factor * factor
  lost = (values[0] > 0) & ~(jnp.isfinite(scaled[0]) & (scaled[0] > 0))
  if not isinstance(lost, jax.core.Tracer) and bool(lost):
    raise ValueError(
      f"The eigenvalues of points of size {float(factor):.1e} do not fit"
      f" {scaled.dtype}; divide the points by that size first."
    )
  return scaled


@jax.jit
def _spectrum(points, mask):
  x = as_floats(points, mask).reshape(-1, points.shape[-1])
  present = mask.reshape(-1, 1).astype(x.dtype)
  count = present.sum()
  largest = jnp.abs(x).max()
  unit = jnp.where(largest > 0, largest, 1)
  x = x / unit
  x = (x - x.sum(axis=0, keepdims=True) / count) * present
  gram = matmul(x, x.T) if len(x) < x.shape[1] else matmul(x.T, x)
  return _eigenvalues(gram) / count, unit


def within_spectrum(stats: GramStatistics) -> Float[Array, "*b P M"]:
  """Computes eigenvalues of each manifold's covariance."""
  counts = stats.mask.sum(axis=-1)[..., None]
  return _eigenvalues(stats.within) / counts * _unit(stats, 2)


def center_spectrum(stats: GramStatistics) -> Float[Array, "*b P"]:
  """Computes eigenvalues of the covariance of the centres."""
  # About their own mean, which differs from that of all points if M varies.
  gram = stats.centers - stats.centers.mean(axis=-1, keepdims=True)
  gram = gram - gram.mean(axis=-2, keepdims=True)
  return _eigenvalues(gram) / gram.shape[-1] * _unit(stats, 1)


def _unit(stats: GramStatistics, num_axes: int) -> Array:
  """Returns the unit of the products, with trailing axes."""
  unit = 4.0 ** stats.exponent.astype(stats.within.dtype)
  return unit.reshape(unit.shape + (1,) * num_axes)


@jax.jit
def participation_ratio(
  eigenvalues: Float[Array, "*b values"],
) -> Float[Array, "*b"]:
  """Computes (Σ λ)² / Σ λ²: D for D equal eigenvalues, 0 for zeros.

  For n points it is at most n - 1, whatever the spectrum: compare at equal n.

  Args:
    eigenvalues: of a covariance, in any unit and order.
  """
  largest = eigenvalues.max(axis=-1, keepdims=True)
  eigenvalues = eigenvalues / jnp.where(largest > 0, largest, 1)
  squares = (eigenvalues**2).sum(axis=-1)
  total = eigenvalues.sum(axis=-1)
  return total**2 / jnp.where(squares > 0, squares, 1)


def explained_variance_dimension(
  eigenvalues: Float[Array, "*b values"], fraction: float = 0.9
) -> Int[Array, "*b"]:
  """Counts the largest eigenvalues that explain a share of the variance.

  Args:
    eigenvalues: of a covariance, in any unit and order.
    fraction: in (0, 1].

  Raises:
    ValueError: the fraction is out of range.
  """
  if not 0 < fraction <= 1:
    raise ValueError(
      f"fraction is {fraction}; a share of the variance in (0, 1] was expected."
    )
  largest_first = jnp.sort(eigenvalues, axis=-1)[..., ::-1]
  held = jnp.cumsum(largest_first, axis=-1)
  total = held[..., -1:]
  # Rounding of the sum must not add an eigenvalue to the count.
  slack = eigenvalues.shape[-1] * jnp.finfo(eigenvalues.dtype).eps
  short = held < fraction * total * (1 - slack)
  return jnp.where(total[..., 0] > 0, short.sum(axis=-1) + 1, 0)
