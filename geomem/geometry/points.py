"""Points as users have them: arrays of any real dtype, lists, masked arrays.

Every function that accepts points passes them through `as_points`, `to_device`
and `as_floats` before any arithmetic: points are shifted to near the origin in
a precision that keeps their digits, and only then converted. Arrays of other
libraries (PyTorch, TensorFlow, CuPy) are taken without importing any of them.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

# The device type of the host in the DLPack standard.
_HOST = 1
_REAL = (np.bool_, jnp.integer, jnp.floating)
# Entries, points × features, that are converted at a time.
_BLOCK = 2**24


@runtime_checkable
class DLPackArray(Protocol):
  """An array that supports the DLPack standard."""

  def __dlpack__(self, *args, **kwargs): ...

  def __dlpack_device__(self): ...


def as_array(x) -> jax.Array | np.ndarray:
  """Returns `x` as a NumPy array, or a JAX array if it is on an accelerator.

  Arrays that support DLPack are not copied where possible: PyTorch tensors on
  the host and on CUDA, TensorFlow and CuPy arrays. Gradients of the other
  library stop here. Everything else is converted by NumPy.

  Raises:
    ValueError: JAX does not see the device of `x`, and `x` has no method to
      copy it to the host; JAX does not support its type or layout; `x` is a
      ragged list, or a random key.
  """
  if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    raise ValueError(
      "A random key was given where an array was expected; check the order of"
      " the arguments."
    )
  if isinstance(x, jax.Array | np.ndarray):
    return x
  if not isinstance(x, DLPackArray):
    try:
      return np.asanyarray(x)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f"A {type(x).__name__} was given that is no array: {error}"
      ) from error
  if hasattr(x, "detach"):
    x = x.detach()
  on_host = x.__dlpack_device__()[0] == _HOST
  try:
    if not on_host:
      return _with_its_digits(jnp.from_dlpack(x))
    try:
      return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError):  # NumPy has no bfloat16.
      return jnp.from_dlpack(x)
  except Exception as error:  # Each library raises its own.
    for to_host in () if on_host else ("cpu", "get"):
      if hasattr(x, to_host):
        return as_array(getattr(x, to_host)())
    kind = f"{type(x).__module__}.{type(x).__qualname__}"
    raise ValueError(
      f"JAX cannot take the array of {kind} with type"
      f" {getattr(x, 'dtype', 'unknown')}: {error} Give it as a NumPy array."
    ) from error


def _with_its_digits(x: jax.Array) -> jax.Array | np.ndarray:
  """Moves arrays to the host that JAX would keep in fewer digits."""
  wide = x.dtype.itemsize > 4 and not jax.config.jax_enable_x64
  return np.asarray(x) if wide else x


def check_count(name: str, value: Any, least: int = 1) -> None:
  """Raises ValueError unless a named value is a whole number, large enough."""
  whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if not whole or value < least:
    raise ValueError(
      f"{name} is {value!r}; a whole number, at least {least}, was expected."
    )


def check_flag(name: str, value: Any) -> None:
  """Raises ValueError unless a named value is True or False."""
  if not isinstance(value, bool | np.bool_):
    raise ValueError(f"{name} is {value!r}; True or False was expected.")


def check_reals(name: str, value: Any, scalar: bool = True) -> None:
  """Raises ValueError unless a named value is a real number, or several.

  Args:
    name: of the option.
    value: may be traced.
    scalar: whether one number is expected, not an array.
  """
  array = as_array(value)
  real = any(jnp.issubdtype(array.dtype, kind) for kind in _REAL[1:])
  if not real or (scalar and array.ndim > 0):
    what = "a real number was" if scalar else "real numbers were"
    raise ValueError(f"{name} is {value!r}; {what} expected.")


def check_key(key: Any) -> None:
  """Raises ValueError unless it is one random key of JAX."""
  dtype, shape = (getattr(key, name, None) for name in ("dtype", "shape"))
  if isinstance(key, jax.Array) and (
    jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if shape == ()
    else len(shape) == 1 and dtype == np.uint32  # One of the old form.
  ):
    return
  what = type(key).__name__ if shape is None else f"{dtype} of shape {shape}"
  raise ValueError(
    f"The key is {what}; one key was expected, such as jax.random.key(0)."
  )


def check_known(function: str, *given: Any) -> None:
  """Raises ValueError if what a function needs on the host is traced."""
  leaves = jax.tree.leaves(given, is_leaf=lambda x: isinstance(x, Iterator))
  if any(isinstance(x, jax.core.Tracer) for x in leaves):
    raise ValueError(
      f"{function} works on the host, and was given values that jax.jit,"
      " jax.vmap or jax.grad traces; call it outside them, or close over these"
      " values."
    )


def as_reals(array: jax.Array | np.ndarray, given: Any):
  """Returns an array of real numbers, in a type that JAX has.

  Bytes in another machine's order are swapped, and extended precision becomes
  float64.

  Args:
    array: of any type.
    given: what the user gave for it, which the error names.

  Raises:
    ValueError: the values are not real numbers.
  """
  dtype = array.dtype
  if not any(jnp.issubdtype(dtype, kind) for kind in _REAL):
    what = type(given).__name__ if dtype.hasobject else dtype
    raise ValueError(
      f"The points are {what}; real numbers were expected: the points"
      " themselves, as an array or a list of arrays."
    )
  if np.issubdtype(dtype, np.longdouble):
    with np.errstate(over="ignore"):
      return array.astype(np.float64)
  if dtype.isnative:
    return array
  return array.astype(dtype.newbyteorder("="))


# Points and masks that functions of this package accept.
Points = Shaped[Array | np.ndarray, "..."] | Sequence | DLPackArray
Mask = Bool[Array | np.ndarray, "P M"] | Sequence | DLPackArray | None


def as_points(
  points: Points, mask: Mask = None
) -> tuple[Array | np.ndarray, Array | np.ndarray]:
  """Returns unconverted points `[P, M, N]`, and which of them are present.

  Args:
    points: `[P, M, N]`, or a list of `[M_i, N]` of unequal length. Rows that a
      NumPy masked array hides are missing.
    mask: which points are present; all by default.

  Raises:
    ValueError: the shapes do not fit, the values are not real numbers, a
      manifold has no points, or a point is hidden in part.
  """
  if isinstance(points, list | tuple):
    array, array_mask = _stacked(points)
  else:
    array, array_mask = unmasked(as_array(points))
  points = as_reals(array, points)
  if points.ndim != 3 or 0 in points.shape:
    raise ValueError(
      f"The points have shape {points.shape}; [P, M, N] was expected:"
      " manifolds, points, features, at least one of each."
    )
  if mask is None:
    mask = np.ones(points.shape[:2], bool) if array_mask is None else array_mask
  else:
    mask = _checked_mask(mask, points.shape)
    mask = mask if array_mask is None else mask & array_mask
  if is_wide(points):
    check_known("The conversion of points in float64 or wide integers", mask)
  if not isinstance(mask, jax.core.Tracer):
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


def unmasked(points):
  """Returns the data of a NumPy masked array, and which rows it shows."""
  if not isinstance(points, np.ma.MaskedArray):
    return points, None
  hidden = np.ma.getmaskarray(points)
  rows = hidden.all(axis=-1)
  if (hidden.any(axis=-1) & ~rows).any():
    raise ValueError(
      "A masked array hides some features of a point and shows others; hide"
      " whole points, or fill in what is missing."
    )
  return points.data, ~rows


def _stacked(manifolds: Sequence):
  """Stacks a list of manifolds, padded with their first points."""
  if not manifolds:
    raise ValueError(
      "The list of manifolds is empty; one at least was expected."
    )
  if any(isinstance(x, jax.core.Tracer) for x in manifolds):
    manifolds = [unmasked(as_array(x)) for x in manifolds]
    manifolds = [(jnp.asarray(x), mask) for x, mask in manifolds]
    stack, pad = jnp.stack, jnp.pad
  else:
    manifolds = [unmasked(np.asanyarray(as_array(x))) for x in manifolds]
    stack, pad = np.stack, np.pad
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
  points = [pad(x, ((0, size - len(x)), (0, 0))) for x, _ in manifolds]
  mask = [
    np.pad(np.ones(len(x), bool) if m is None else m, (0, size - len(x)))
    for x, m in manifolds
  ]
  return stack(points), np.stack(mask)


def unit_exponent(
  largest: float | Float[Array, ""], dtype
) -> Int[Array | np.ndarray, ""]:
  """Returns the e for which products in units of 4^e fit their dtype.

  It is 0, so that products keep their own unit, unless the largest entry is
  beyond 2^±40, or 2^±400 in double precision.

  Args:
    largest: largest absolute value of the points' entries.
    dtype: of the products.
  """
  # On the host this is float64, whatever JAX's precision.
  xp = np if isinstance(largest, float) else jnp
  exponent = xp.frexp(largest)[1]
  most = 40 if jnp.finfo(dtype).bits == 32 else 400
  far = (abs(exponent) > most) & xp.isfinite(largest)
  return xp.where(far, exponent, 0).astype(np.int32)


def is_wide(points: Array | np.ndarray) -> bool:
  """Tells whether points on the host have digits that JAX's dtype may lack."""
  return isinstance(points, np.ndarray) and (
    points.dtype == np.float64 or np.issubdtype(points.dtype, np.integer)
  )


def to_device(
  points: Shaped[Array | np.ndarray, "P M N"],
  mask: Bool[Array | np.ndarray, "P M"],
) -> tuple[Array, int]:
  """Returns the points on JAX's device, and the exponent of their unit.

  float64 and wide integers on the host are shifted by one of the points and
  scaled by a power of two before they are converted to JAX's dtype. Converted
  directly, points with an offset would lose digits, and tiny ones underflow.

  Args:
    points: from `as_points`.
    mask: likewise.

  Returns:
    x and e, where 2^e x are the points up to an offset.
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


def _halves(x, reference, bits, dtype):
  """Subtracts integers too wide for a float, without wrap-around."""
  low = x.dtype.type(2**bits - 1)
  high = (x >> bits).astype(dtype) - (reference >> bits).astype(dtype)
  return high * 2.0**bits + (
    (x & low).astype(dtype) - (reference & low).astype(dtype)
  )


def host_difference(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Computes X − reference in float64, to full precision."""
  if x.dtype.kind in "iu" and x.dtype.itemsize == 8:
    return _halves(x, reference, 32, np.float64)
  with np.errstate(invalid="ignore", over="ignore"):
    return x.astype(np.float64) - reference.astype(np.float64)


def as_floats(
  points: Shaped[Array, "P M N"], mask: Bool[Array, "P M"]
) -> Array:
  """Returns the points relative to one of them, in single precision at least.

  The difference is exact before it is rounded. Missing points become 0: they
  may hold any values, and affect neither results nor derivatives.

  Args:
    points: of any real dtype.
    mask: which of them are present.
  """
  dtype = points.dtype
  float_type = jnp.promote_types(dtype, jnp.float32)
  if not jnp.issubdtype(dtype, jnp.floating):
    float_type = jnp.result_type(float)
  flat = points.reshape(-1, points.shape[2])
  reference = jnp.take(flat, mask.ravel().argmax(), axis=0)[None, None]
  present = jnp.broadcast_to(mask[..., None], points.shape)
  points = jnp.where(present, points, reference)
  if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize > 2:
    return _halves(points, reference, 4 * dtype.itemsize, float_type)
  return points.astype(float_type) - reference.astype(float_type)


def check_finite(
  points: Array | np.ndarray,
  mask: Bool[Array | np.ndarray, "P M"],
  first: int = 0,
) -> None:
  """Raises as `refuse_not_finite` does; does nothing under jit."""
  if any(isinstance(x, jax.core.Tracer) for x in (points, mask)):
    return
  xp = np if isinstance(points, np.ndarray) else jnp
  # Arrays that a traced function closes over are known.
  with jax.ensure_compile_time_eval():
    finite = np.asarray(xp.isfinite(points).all(axis=2))
  refuse_not_finite(finite | ~np.asarray(mask), first)


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
