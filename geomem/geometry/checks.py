"""Checks of arguments that several functions share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_REAL = (np.bool_, jnp.integer, jnp.floating)


def check_count(name: str, value: Any, least: int = 1) -> None:
  """Raises ValueError unless a named value is a whole number, large enough."""
  if not isinstance(value, int | np.integer) or value < least:
    raise ValueError(
      f"{name} is {value}; a whole number, at least {least}, was expected."
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
