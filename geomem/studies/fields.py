"""Checks of the types and ranges of config fields, whatever their source."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

# Seeds of keys have 32 bits: larger ones would repeat smaller ones.
_NUM_SEEDS_THERE_ARE = 2**32
_MOST_SEEDS = 10_000

_KINDS = {
  int: (numbers.Integral, "a whole number"),
  float: (numbers.Real, "a number"),
  bool: (bool, "true or false"),
  str: (str, "text"),
}


def _plain(value: Any) -> Any:
  """Returns NumPy's numbers as Python's own, which JSON knows."""
  return value.item() if isinstance(value, np.generic) else value


def sequence(name: str, values: Any) -> tuple:
  """Returns several values as a tuple, NumPy's numbers as Python's own.

  Raises:
    ValueError: a text was given, which would be taken letter by letter, or a
      single value.
  """
  try:
    if isinstance(values, str | bytes | Mapping):
      raise TypeError
    return tuple(map(_plain, values))
  except TypeError as error:
    raise ValueError(
      f"{name} is {values!r}; a sequence of values was expected, such as a list"
      " of one."
    ) from error


def _check(name: str, value: Any, known: type) -> None:
  kind, words = _KINDS[known]
  if not isinstance(value, kind) or (
    isinstance(value, bool) and known is not bool
  ):
    raise ValueError(f"{name} is {value!r}; {words} was expected.")
  if known is float and not math.isfinite(value):
    raise ValueError(f"{name} is {value}; a finite number was expected.")


class Fields:
  """A config whose fields have their types, are finite and not too low.

  NumPy's numbers become Python's own, and all sequences tuples, so that equal
  configs are stored alike.
  """

  # Lower bounds, by field.
  _least: ClassVar[dict[str, int]] = {}

  def __post_init__(self):
    hints = typing.get_type_hints(type(self))
    for field in dataclasses.fields(self):
      hint, value = hints[field.name], getattr(self, field.name)
      kinds = typing.get_args(hint) or (hint,)
      is_tuple = typing.get_origin(hint) is tuple
      value = sequence(field.name, value) if is_tuple else _plain(value)
      object.__setattr__(self, field.name, value)
      expected = next((kind for kind in kinds if kind in _KINDS), None)
      if expected is None or (value is None and type(None) in kinds):
        continue
      for item in value if is_tuple else (value,):
        _check(field.name, item, expected)
      if expected is float and not is_tuple:  # 1 and 1.0 are stored alike.
        object.__setattr__(self, field.name, float(value))
    for name, bound in self._least.items():
      value = getattr(self, name)
      if value is not None and not value >= bound:
        raise ValueError(f"{name} is {value}; at least {bound} was expected.")


def check_seeds(first: int, count: int | None) -> None:
  """Raises ValueError for seeds that are out of range, or too many."""
  count = 1 if count is None else count
  if count > _MOST_SEEDS:
    raise ValueError(
      f"num_seeds is {count}; at most {_MOST_SEEDS} were expected."
    )
  if not 0 <= first <= _NUM_SEEDS_THERE_ARE - count:
    raise ValueError(
      f"seed is {first} with num_seeds {count}; seeds from 0 to"
      f" {_NUM_SEEDS_THERE_ARE - 1} were expected: beyond, they repeat others."
    )
