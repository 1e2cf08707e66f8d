"""Manifolds of points as users have them, and their conversion to floats.

Every function that accepts points passes them through `as_points`, `to_device`
and `as_floats` before any arithmetic: points are shifted to near the origin in
a precision that keeps their digits, and only then converted. Arrays of other
libraries (PyTorch, TensorFlow, CuPy) are taken without importing any of them.
"""

import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import (
  DLPackArray,
  as_array,
  as_reals,
  host_difference,
  is_wide,
  subtract_in_halves,
  unmasked,
)

# Entries, points × features, that are converted at a time.
_BLOCK = 2**24

# Points and masks that functions of this package accept.
Points = Shaped[Array | np.ndarray, "..."] | Sequence | DLPackArray
Mask = Bool[Array | np.ndarray, "P M"] | Sequence | DLPackArray | None


def as_points(
  points: Points, mask: Mask = None
) -> tuple[Array | np.ndarray, Array | np.ndarray]:
  """Returns unconverted points `[P, M, N]`, and which of them are present.

  Takes `[P, M, N]`, or a list of `[M_i, N]` of unequal length. Rows that masked
  arrays of NumPy hide are missing.

  Raises:
    ValueError: the shapes do not fit, the values are not real numbers, a
      manifold has no points, or a point is hidden in part.
  """
  if isinstance(points, list | tuple):
    array, shown = _stacked(points)
  else:
    array, shown = unmasked(as_array(points))
  points = as_reals(array, points)
  if points.ndim != 3 or 0 in points.shape:
    raise ValueError(
      f"The points have shape {points.shape}; [P, M, N] was expected:"
      " manifolds, points, features, at least one of each."
    )
  mask = shown if mask is None else _checked_mask(mask, points.shape) & shown
  if is_wide(points):
    checks.known("The conversion of points in float64 or wide integers", mask)
  if not checks.is_traced(mask):
    counts = np.asarray(mask).sum(axis=1)
    if not counts.all():
      raise ValueError(f"Manifold {np.argmin(counts)} has no points.")
  return points, mask


def _checked_mask(mask, shape):
  mask = as_array(mask)
  if mask.shape != shape[:2]:
    raise ValueError(
      f"The mask has shape {mask.shape}; {shape[:2]} was expected, as the"
      f" points have shape {shape}."
    )
  if mask.dtype != np.bool_:
    raise ValueError(f"The mask is {mask.dtype}; booleans were expected.")
  return mask


def _stacked(manifolds: Sequence):
  """Stacks a list of manifolds, padded with zeros."""
  if not manifolds:
    raise ValueError(
      "The list of manifolds is empty; one at least was expected."
    )
  xp = jnp if checks.is_traced(*manifolds) else np
  manifolds = [unmasked(as_array(x)) for x in manifolds]
  manifolds = [(xp.asarray(x), mask) for x, mask in manifolds]
  shapes = [x.shape for x, _ in manifolds]
  if any(len(s) != 2 for s in shapes) or len({s[1] for s in shapes}) != 1:
    hint = ""
    if all(len(s) == 2 for s in shapes) and len({s[0] for s in shapes}) == 1:
      hint = " They look like [N, M_i]: give the transpose of each."
    raise ValueError(
      f"The manifolds have shapes {shapes}; [M_i, N] with one N was"
      f" expected.{hint}"
    )
  if len(set(shapes)) == 1 and shapes[0][0] > shapes[0][1] and len(shapes) > 1:
    warnings.warn(
      f"The {len(shapes)} manifolds of the list were taken as {shapes[0][0]}"
      f" points in {shapes[0][1]} features. If they are features by points,"
      " give the transpose of each; if not, one array [P, M, N] says so.",
      stacklevel=4,
    )
  size = max(s[0] for s in shapes)
  points = [xp.pad(x, ((0, size - len(x)), (0, 0))) for x, _ in manifolds]
  mask = [np.pad(shown, (0, size - len(shown))) for _, shown in manifolds]
  return xp.stack(points), np.stack(mask)


def unit_exponent(
  largest: float | Float[Array, ""], dtype
) -> Int[Array | np.ndarray, ""]:
  """Returns the e for which products in units of 4^e fit their dtype.

  It is 0, so that products keep their own unit, unless the largest entry of the
  points is beyond 2^±40, or 2^±400 in double precision.
  """
  # On the host this is float64, whatever JAX's precision.
  xp = np if isinstance(largest, float) else jnp
  exponent = xp.frexp(largest)[1]
  most = 40 if jnp.finfo(dtype).bits == 32 else 400
  far = (abs(exponent) > most) & xp.isfinite(largest)
  return xp.where(far, exponent, 0).astype(np.int32)


def to_device(
  points: Shaped[Array | np.ndarray, "P M N"],
  mask: Bool[Array | np.ndarray, "P M"],
) -> tuple[Array, int]:
  """Returns the points on JAX's device, and the exponent of their unit.

  float64 and wide integers on the host are shifted by one of the points and
  scaled by a power of two before they are converted to JAX's dtype. Converted
  directly, points with an offset would lose digits, and tiny ones underflow.
  2^e times what is returned are the points, up to an offset.
  """
  if not is_wide(points):
    return jnp.asarray(points), 0
  mask = np.asarray(mask)[..., None]
  flat = points.reshape(-1, points.shape[2])
  reference = flat[mask.ravel().argmax()]
  step = max(1, _BLOCK // len(flat))

  def moved(start):
    block = slice(start, start + step)
    difference = host_difference(points[..., block], reference[block])
    return block, np.where(mask, difference, 0)

  starts = range(0, points.shape[2], step)
  largest = max(float(np.abs(moved(start)[1]).max()) for start in starts)
  scaled = np.empty(points.shape, jnp.result_type(float))
  exponent = int(unit_exponent(largest, scaled.dtype))
  for start in starts:
    block, difference = moved(start)
    scaled[..., block] = np.ldexp(difference, -exponent)
  return jnp.asarray(scaled), exponent


def float_type(points: Array | np.ndarray):
  """Returns the dtype in which to compute with points: single at least."""
  if is_wide(points) or not jnp.issubdtype(points.dtype, jnp.floating):
    return jnp.result_type(float)
  dtype = jnp.promote_types(points.dtype, jnp.float32)
  return jax.dtypes.canonicalize_dtype(dtype)


def in_floats(**arrays: Shaped[Array | np.ndarray, "..."]) -> list[Array]:
  """Returns arrays in one type of floats, in single precision at least.

  Raises:
    ValueError: an array has no real numbers; it is named.
  """
  for name, array in arrays.items():
    checks.reals(name, array, scalar=False)
  dtype = jnp.result_type(*map(float_type, arrays.values()))
  return [jnp.asarray(array, dtype) for array in arrays.values()]


def as_floats(
  points: Shaped[Array, "P M N"], mask: Bool[Array, "P M"]
) -> Array:
  """Returns the points relative to one of them, in single precision at least.

  The difference is exact before it is rounded. Missing points become 0: they
  may hold any values, and affect neither results nor derivatives.
  """
  dtype = points.dtype
  to_type = float_type(points)
  flat = points.reshape(-1, points.shape[2])
  reference = jnp.take(flat, mask.ravel().argmax(), axis=0)[None, None]
  present = jnp.broadcast_to(mask[..., None], points.shape)
  points = jnp.where(present, points, reference)
  if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize > 2:
    return subtract_in_halves(points, reference, 4 * dtype.itemsize, to_type)
  return points.astype(to_type) - reference.astype(to_type)


def check_finite(
  points: Array | np.ndarray,
  mask: Bool[Array | np.ndarray, "P M"],
  first: int = 0,
) -> None:
  """Raises as `refuse_not_finite` does, but does nothing under jit."""
  if checks.is_traced(points, mask):
    return
  xp = np if isinstance(points, np.ndarray) else jnp
  # Arrays that a traced function closes over are known.
  with jax.ensure_compile_time_eval():
    finite = np.asarray(xp.isfinite(points).all(axis=2))
  refuse_not_finite(finite | ~np.asarray(mask), first)


def check_distances(largest: float) -> None:
  """Raises unless the largest distance of points is finite."""
  if not np.isfinite(largest):
    raise ValueError(
      "The distances of the points overflow; divide all points by one large"
      " number, which changes none of the results."
    )


def refuse_not_finite(finite: Bool[np.ndarray, "P M"], first: int = 0) -> None:
  """Raises ValueError that names a point that is not finite, if any is.

  Manifolds are numbered from `first`, for blocks that follow others.
  """
  if not finite.all():
    manifold, point = np.argwhere(~finite)[0]
    raise ValueError(
      f"Point {point} of manifold {first + manifold} is not finite; look for"
      " NaN or overflow in what gave the points."
    )
