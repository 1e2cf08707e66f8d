"""Checks of arguments; each raises a ValueError that names the argument."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geomem.geometry.arrays import as_array, is_real


def count(name: str, value: Any, least: int = 1) -> None:
  """Raises unless the value is a whole number, large enough."""
  whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if not whole or value < least:
    raise ValueError(
      f"{name} is {value!r}; a whole number, at least {least}, was expected."
    )


def counts(**values: Any) -> None:
  """Raises unless all values are positive whole numbers."""
  for name, value in values.items():
    count(name, value)


def flag(name: str, value: Any) -> None:
  """Raises unless the value is True or False."""
  if not isinstance(value, bool | np.bool_):
    raise ValueError(f"{name} is {value!r}; True or False was expected.")


def reals(name: str, value: Any, scalar: bool = True) -> None:
  """Raises unless the value is a real number, or several if not `scalar`."""
  array = as_array(value)
  if not is_real(array.dtype) or (scalar and array.ndim > 0):
    what = "a real number was" if scalar else "real numbers were"
    raise ValueError(f"{name} is {value!r}; {what} expected.")


def key(value: Any) -> None:
  """Raises unless the value is one random key of JAX."""
  dtype, shape = (getattr(value, name, None) for name in ("dtype", "shape"))
  if isinstance(value, jax.Array) and (
    jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if shape == ()
    else len(shape) == 1 and dtype == np.uint32  # One of the old form.
  ):
    return
  what = type(value).__name__ if shape is None else f"{dtype} of shape {shape}"
  raise ValueError(
    f"The key is {what}; one key was expected, such as jax.random.key(0)."
  )


def one_set(mask: Any) -> None:
  """Raises unless statistics, whose mask is given, are those of one set."""
  if mask.ndim != 2:
    raise ValueError(
      f"Statistics with a mask of shape {mask.shape} were given; those of one"
      " set of manifolds, [P, M], were expected: take each from the stack, or"
      " use jax.vmap."
    )


def is_traced(*given: Any) -> bool:
  """Tells whether any of the values is traced by JAX, and so not known."""
  leaves = jax.tree.leaves(given, is_leaf=lambda x: isinstance(x, Iterator))
  return any(isinstance(x, jax.core.Tracer) for x in leaves)


def known(function: str, *given: Any) -> None:
  """Raises if what a function needs on the host is traced."""
  if is_traced(*given):
    raise ValueError(
      f"{function} works on the host, and was given values that jax.jit,"
      " jax.vmap or jax.grad traces; call it outside them, or close over these"
      " values."
    )
