"""A row as a line of JSON in `results.jsonl`."""

import json
import math
import pathlib
from typing import Any

import numpy as np

# The standard columns, and the types of their values besides None.
_TYPES = {
  "seed": (int,),
  "epoch": (int, float),
  "layer": (str,),
  "layer_index": (int,),
  "subset": (str,),
  "metric": (str,),
  "value": (int, float, bool),
  "stderr": (int, float),
}
COLUMNS = tuple(_TYPES)
Row = dict[str, Any]


def rows_file(path: pathlib.Path | str) -> pathlib.Path:
  """Returns the path of the file that holds a run's rows."""
  return pathlib.Path(path) / "results.jsonl"


def parse(line: bytes) -> Row | None:
  """Parses the row in a line; returns None if the line holds no row."""
  try:
    row = dict(json.loads(line))
    # Raises an error for whole numbers that no float holds.
    np.array([x for x in row.values() if type(x) is int], float)
  except (ValueError, TypeError, OverflowError, RecursionError):
    return None
  return row if _is_row(row) else None


def _is_row(row: Row) -> bool:
  """Returns whether the standard columns are there, with values of their types.

  Only the metric must have a value.
  """
  return row.get("metric") is not None and all(
    name in row and (row[name] is None or type(row[name]) in types)
    for name, types in _TYPES.items()
  )


def encode(row: Row) -> bytes:
  """Encodes a row as a line of JSON that has all of the standard columns.

  Raises:
    ValueError: a standard column has a value of another type.
  """
  complete = {name: _plain(row.get(name)) for name in [*COLUMNS, *row]}
  if not _is_row(complete):
    raise ValueError(
      f"{row} is not a row: its metric, layer and subset must be strings, its"
      " seed and layer_index whole numbers, and its epoch, value and stderr"
      " numbers."
    )
  return json.dumps(complete, allow_nan=False).encode()


def _plain(value: Any) -> Any:
  """Converts a value to a JSON type; non-finite numbers become None."""
  if isinstance(value, np.ndarray | np.generic) or hasattr(value, "item"):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
