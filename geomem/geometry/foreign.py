"""Conversion of arrays from other libraries: PyTorch, TensorFlow, CuPy."""

from typing import Protocol, runtime_checkable

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
      copy it to the host; or JAX does not support its type or layout.
  """
  if isinstance(x, jax.Array | np.ndarray):
    return x
  if not isinstance(x, DLPackArray):
    return np.asanyarray(x)
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
