"""Arrays as users have them: of any library, of any real dtype."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

# The device type of the host in the DLPack standard.
_HOST = 1


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
  if isinstance(x, jax.core.Tracer | np.ndarray):
    return x
  if isinstance(x, jax.Array):  # It may be from where float64 was enabled.
    return _with_its_digits(x)
  if not isinstance(x, DLPackArray):
    try:
      return np.asanyarray(x)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f"A {type(x).__name__} was given, which is not an array: {error}"
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


def is_real(dtype, *, booleans: bool = False) -> bool:
  """Tells whether a dtype is one of integers or floats, or of booleans."""
  kinds = (jnp.integer, jnp.floating, *([np.bool_] if booleans else []))
  return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def as_reals(array: jax.Array | np.ndarray, given: Any):
  """Returns an array of real numbers, in a type that JAX computes with.

  Bytes in another machine's order are swapped, extended precision becomes
  float64, and floats of eight bits and integers of four become float32. The
  error names what the user gave for the array.
  """
  dtype = array.dtype
  if not is_real(dtype, booleans=True):
    what = type(given).__name__ if dtype.hasobject else dtype
    raise ValueError(
      f"The points are {what}; real numbers were expected: the points"
      " themselves, as an array or a list of arrays."
    )
  if np.issubdtype(dtype, np.longdouble):
    with np.errstate(over="ignore"):
      return array.astype(np.float64)
  if dtype.kind == "V" and dtype.itemsize == 1:
    return array.astype(np.float32)
  return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def unmasked(points):
  """Returns the data of an array, and which rows its NumPy mask shows."""
  if not isinstance(points, np.ma.MaskedArray):
    return points, np.ones(points.shape[:-1], bool)
  hidden = np.ma.getmaskarray(points)
  rows = hidden.all(axis=-1)
  if (hidden.any(axis=-1) & ~rows).any():
    raise ValueError(
      "A masked array hides some features of a point and shows others; hide"
      " whole points, or fill in what is missing."
    )
  return points.data, ~rows


def is_wide(points: jax.Array | np.ndarray) -> bool:
  """Tells whether points on the host have digits that JAX's dtype may lack."""
  return isinstance(points, np.ndarray) and (
    points.dtype == np.float64 or np.issubdtype(points.dtype, np.integer)
  )


def subtract_in_halves(x, reference, bits: int, dtype):
  """Subtracts integers too wide for a float, without wrap-around."""
  low = x.dtype.type(2**bits - 1)
  high = (x >> bits).astype(dtype) - (reference >> bits).astype(dtype)
  return high * 2.0**bits + (
    (x & low).astype(dtype) - (reference & low).astype(dtype)
  )


def host_difference(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Computes X − reference in float64, to full precision, for any types."""
  halves = _halves(x), _halves(reference)
  with np.errstate(invalid="ignore", over="ignore"):
    difference, low = (a - b for a, b in zip(*halves, strict=True))
    return difference + low


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
  """Returns two float64 arrays whose exact sum is X."""
  if x.dtype.kind not in "iu" or x.dtype.itemsize < 8:
    return x.astype(np.float64), 0.0
  low = (x & x.dtype.type(2**32 - 1)).astype(np.float64)
  return (x >> 32).astype(np.float64) * 2.0**32, low
