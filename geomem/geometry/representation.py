"""Dimension of a whole representation, from the spectrum of its points.

Unlike D_M, these numbers ignore manifolds, unless the spectrum is that of one.
"""

import decimal
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import as_array
from geomem.geometry.frames import center_gram
from geomem.geometry.linalg import diagonal, matmul, no_derivative, one_by_one
from geomem.geometry.points import (
  Mask,
  Points,
  as_floats,
  as_points,
  check_finite,
  to_device,
)
from geomem.geometry.statistics import (
  GramStatistics,
  check_statistics,
  in_present_types,
  times_power,
)

_ONCE = (
  "Spectra are differentiable once: their second derivatives diverge where two"
  " eigenvalues coincide."
)
# Eigenvalues of any real dtype that functions of this module accept.
Eigenvalues = Shaped[Array | np.ndarray, "*b values"] | Sequence


def unit_free(x: Float[Array, "..."], num_axes: int) -> Float[Array, "..."]:
  """Divides by the power of two above the largest entry of the last axes.

  Squares of products, or of eigenvalues, then fit their type whatever the unit
  of the points, and no digit changes.
  """
  largest = jnp.abs(x).max(axis=tuple(range(-num_axes, 0)))
  return times_power(x, -jnp.frexp(jax.lax.stop_gradient(largest))[1])


@jax.custom_jvp
def _all_eigenvalues(grams: Float[Array, "k n n"]) -> Float[Array, "k n"]:
  return one_by_one(jnp.linalg.eigvalsh, no_derivative(grams, _ONCE))


@_all_eigenvalues.defjvp
def _all_eigenvalues_jvp(primals, tangents):
  grams = no_derivative(primals[0], _ONCE)
  values, vectors = one_by_one(jnp.linalg.eigh, grams)
  changes = (vectors * matmul(tangents[0], vectors)).sum(axis=1)
  return values, changes


def _eigenvalues(gram: Array) -> Array:
  """Computes eigenvalues, largest first, with negative ones set to zero."""
  flat = gram.reshape(-1, *gram.shape[-2:])
  # LAPACK may not terminate on NaN.
  finite = jnp.isfinite(flat).all(axis=(1, 2))[:, None]
  values = _all_eigenvalues(jnp.where(finite[..., None], flat, 0))
  values = jnp.where(finite, values, jnp.nan).reshape(gram.shape[:-1])
  return jnp.maximum(values, 0)[..., ::-1]


def spectrum(points: Points, *, mask: Mask = None) -> Float[Array, " values"]:
  """Computes eigenvalues of the covariance of all points.

  Uses the smaller of the covariance and the Gram matrix, which share them.

  Args:
    points: `[n, N]`, or manifolds as `manifold_geometry` takes them, whose
      points all count equally.
    mask: which of the points are present, `[n]` or `[P, M]`; all by default.

  Returns:
    min(n, N) eigenvalues, divided by the number of points that are present.
    n counts missing points as well, which add zeros.

  Raises:
    ValueError: the points are of the wrong shape, or not finite, or so large or
      small that the eigenvalues do not fit their type (under jit, they are
      NaN).
  """
  if isinstance(points, list | tuple) and points and np.ndim(points[0]) == 1:
    points = _stack(points)
  if getattr(points, "ndim", 3) == 2:
    points = points[None]
    mask = None if mask is None else as_array(mask).reshape(1, -1)
  points, mask = as_points(points, mask)
  check_finite(points, mask)
  points, exponent = to_device(points, mask)
  values, unit = _spectrum(points, jnp.asarray(mask))
  # They are not finite where distances overflow.
  _refuse(~jnp.isfinite(values).all(), values.dtype)
  return _in_units(values, unit + exponent)


def _stack(rows: Sequence) -> Array | np.ndarray:
  """Returns the rows of a list, traced or with hidden values, as one array."""
  rows = [as_array(row) for row in rows]
  if checks.is_traced(rows):
    return jnp.stack(rows)
  hidden = any(isinstance(row, np.ma.MaskedArray) for row in rows)
  return (np.ma if hidden else np).stack(rows)


@jax.jit
def _spectrum(points, mask):
  x = as_floats(points, mask).reshape(-1, points.shape[-1])
  present = mask.reshape(-1, 1).astype(x.dtype)
  count = present.sum()
  unit = jnp.frexp(jnp.abs(x).max())[1]
  x = times_power(x, -unit)
  x = (x - x.sum(axis=0, keepdims=True) / count) * present
  gram = matmul(x, x.T) if len(x) < x.shape[1] else matmul(x.T, x)
  return _eigenvalues(gram) / count, unit


def _in_units(values: Array, exponent: Array) -> Array:
  """Multiplies eigenvalues by 4^exponent; refuses those that do not fit."""
  scaled = times_power(values, 2 * exponent)
  first = scaled[..., :1]
  lost = (values[..., :1] > 0) & ~(jnp.isfinite(first) & (first > 0))
  _refuse(lost.any(), scaled.dtype)
  return jnp.where(lost, jnp.nan, scaled)


def _refuse(lost: Bool[Array, ""], dtype) -> None:
  """Raises where eigenvalues do not fit, outside jit."""
  if not checks.is_traced(lost) and bool(lost):
    raise ValueError(
      "The points are so large or so small that their eigenvalues do not fit"
      f" {dtype}; divide the points by their largest absolute value first."
    )


def rounding_floor(stats: GramStatistics) -> Float[Array, "*b"]:
  """Returns the variance that rounded means may leave where there is none."""
  within = diagonal(stats.within).max(axis=(-2, -1))
  centers = diagonal(stats.centers).max(axis=-1)
  eps = jnp.finfo(within.dtype).eps
  return (8 * eps) ** 2 * jnp.maximum(within, centers)


def within_spectrum(stats: GramStatistics) -> Float[Array, "*b P M"]:
  """Computes eigenvalues of each manifold's covariance.

  They are 0 where they are no larger than what rounding leaves, and NaN if
  these are more than one per cent of a manifold's variance.

  Raises:
    ValueError: the points are so large or small that the eigenvalues do not fit
      their type (under jit, they are NaN).
  """
  check_statistics(stats)
  stats = in_present_types(stats)
  values = _eigenvalues(stats.within) / stats.mask.sum(axis=-1)[..., None]
  kept, lost = _above(rounding_floor(stats)[..., None, None], values)
  scaled = _in_units(kept, stats.exponent)
  return jnp.where(lost, jnp.nan, scaled)


def _above(floor: Array, values: Array) -> tuple[Array, Array]:
  """Returns eigenvalues with 0 up to the floor, and if it took over 1%."""
  kept = jnp.where(values <= floor, 0, values)
  total = values.sum(axis=-1, keepdims=True)
  return kept, kept.sum(axis=-1, keepdims=True) < 0.99 * total


def center_spectrum(stats: GramStatistics) -> Float[Array, "*b P"]:
  """Computes eigenvalues of the covariance of the centres.

  They are 0 where they are no larger than what rounding leaves, and NaN if
  these are more than one per cent of the variance, but not all of it.

  Raises:
    ValueError: as in `within_spectrum`.
  """
  check_statistics(stats)
  stats = in_present_types(stats)
  # Their own mean differs from that of all points if M varies.
  gram = center_gram(stats.centers)
  values = _eigenvalues(gram) / gram.shape[-1]
  kept, lost = _above(rounding_floor(stats)[..., None], values)
  scaled = _in_units(kept, stats.exponent)
  return jnp.where(
    lost & (kept > 0).any(axis=-1, keepdims=True), jnp.nan, scaled
  )


def _in_any_unit(eigenvalues: Eigenvalues) -> Array:
  """Returns eigenvalues as floats, the largest of which is near 1.

  Outside jit the host scales them: devices take subnormal numbers for zeros.
  """
  checks.reals("The list of eigenvalues", eigenvalues, scalar=False)
  eigenvalues = as_array(eigenvalues)
  if eigenvalues.ndim == 0 or eigenvalues.shape[-1] == 0:
    raise ValueError(
      f"The eigenvalues have shape {eigenvalues.shape}; at least one was"
      " expected on the last axis."
    )
  if not checks.is_traced(eigenvalues):
    values = np.asarray(eigenvalues)
    dtype = jnp.result_type(values, jnp.float32)
    values = values.astype(np.float64)
    _, exponent = np.frexp(np.abs(values).max(axis=-1, keepdims=True))
    eigenvalues = jnp.asarray(np.ldexp(values, -exponent), dtype)
  dtype = jnp.result_type(eigenvalues.dtype, jnp.float32)
  return unit_free(eigenvalues.astype(dtype), 1)


def participation_ratio(eigenvalues: Eigenvalues) -> Float[Array, "*b"]:
  """Computes (Σ λ)² / Σ λ²: D for D equal eigenvalues, 0 for zeros.

  For n points it is at most n - 1, whatever the spectrum: compare at equal n.

  Args:
    eigenvalues: of a covariance, in any unit and order; NaN give NaN.
  """
  return _participation_ratio(_in_any_unit(eigenvalues))


@jax.jit
def _participation_ratio(values):
  squares = (values**2).sum(axis=-1)
  return values.sum(axis=-1) ** 2 / jnp.where(squares > 0, squares, 1)


def explained_variance_dimension(
  eigenvalues: Eigenvalues, fraction: float = 0.9
) -> Int[Array, "*b"]:
  """Counts the largest eigenvalues that explain a share of the variance.

  All of it takes every eigenvalue that is not 0, if only for rounding.

  Args:
    eigenvalues: of a covariance, in any unit and order.
    fraction: in (0, 1].

  Raises:
    ValueError: the fraction is out of range, or an eigenvalue is not finite
      (under jit, the count is -1).
  """
  checks.known("explained_variance_dimension", fraction)
  checks.reals("fraction", fraction)
  if not 0 < fraction <= 1:
    raise ValueError(
      f"fraction is {fraction}; a share of the variance in (0, 1] was expected."
    )
  values = _in_any_unit(eigenvalues)
  finite = jnp.isfinite(values).all(axis=-1)
  if not checks.is_traced(finite) and not bool(finite.all()):
    raise ValueError(
      "The eigenvalues are not finite; look for NaN or overflow in what gave"
      " them."
    )
  # From the smallest on, as a large sum would swallow them.
  sums = jnp.cumsum(jnp.sort(jnp.maximum(values, 0), axis=-1), axis=-1)
  total = sums[..., -1:]
  # In decimals 1 - 0.9 is 0.1; and rounding must not add one to the count.
  rest = float(1 - decimal.Decimal(str(fraction)))
  rest = rest * (1 + 16 * float(jnp.finfo(values.dtype).eps))
  count = (sums > rest * total).sum(axis=-1)
  # A share below rounding takes one, too.
  count = jnp.maximum(count, total[..., 0] > 0)
  return jnp.where(finite, count, -1)
