"""Arrays of other libraries, taken as they are: PyTorch, TensorFlow, CuPy."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

# The number of the host in the DLPack standard.
_HOST = 1


@runtime_checkable
class DLPackArray(Protocol):
  """An array that says where its values lie, by the DLPack standard."""

  def __dlpack__(self, *args, **kwargs): ...

  def __dlpack_device__(self): ...


def as_array(x) -> jax.Array | np.ndarray:
  """Returns `x` as an array of NumPy, or of JAX if it is on an accelerator.

  Arrays that speak DLPack are not copied where that can be: tensors of PyTorch
  on the host and on CUDA, arrays of TensorFlow and CuPy. Gradients of the other
  library end here. Everything else becomes what NumPy makes of it.

  Raises:
    ValueError: JAX does not see the device of `x`, and `x` has no method that
      brings it to the host; or it is of a type or layout that JAX lacks.
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
    except (BufferError, RuntimeError, TypeError):  # bfloat16, for NumPy.
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
  """Moves to the host what would lose digits on the device."""
  wide = x.dtype.itemsize > 4 and not jax.config.jax_enable_x64
  return np.asarray(x) if wide else x
