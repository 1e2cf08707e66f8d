"""Result rows: a line of JSON each, with the same columns in every run."""

import json
import logging
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

_LOG = logging.getLogger(__name__)

COLUMNS = (
  "seed",
  "epoch",
  "layer",
  "layer_index",
  "subset",
  "metric",
  "value",
  "stderr",
)
# What is found, not what it is found of.
_FOUND = ("value", "stderr")


def rows_file(path: pathlib.Path | str) -> pathlib.Path:
  """The file of a run directory that holds its rows."""
  return pathlib.Path(path) / "results.jsonl"


def read_rows(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """Reads the rows of a run directory.

  A damaged line is named and left out. A value that JSON has no number for is
  NaN.
  """
  file = rows_file(path)
  rows = []
  if not file.exists():
    return rows
  for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
    row = parse(line)
    if row is None:
      _LOG.warning("Line %d of %s is damaged; left out.", number, file)
    else:
      value = row.get("value")
      rows.append(row | {"value": math.nan if value is None else value})
  return rows


def has_value(row: dict[str, Any]) -> bool:
  """Tells whether the value of a row is a number, not missing or NaN."""
  return row["value"] is not None and row["value"] == row["value"]


def chance_capacity(rows: Iterable[dict[str, Any]]) -> float:
  """The capacity of points without structure in a run: 2/M at κ = 0.

  Runs of old do not say it; their margin counts as 0.
  """
  facts = {row["metric"]: row["value"] for row in rows if row["layer"] is None}
  if "chance_capacity" in facts:
    return facts["chance_capacity"]
  return 2 / facts["manifold_points"]


def parse(line: bytes) -> dict[str, Any] | None:
  """The row in a line; None where there is none."""
  try:
    row = dict(json.loads(line))
  except (ValueError, TypeError, RecursionError):
    return None
  return row if "metric" in row else None


def join(lines: Iterable[bytes]) -> bytes:
  """The lines as a file has them."""
  return b"".join(line + b"\n" for line in lines)


def encode(row: dict[str, Any]) -> bytes:
  """The line of a row that is complete."""
  return json.dumps(row, allow_nan=False).encode()


def complete(row: dict[str, Any]) -> dict[str, Any]:
  """The row with all columns, of JSON's own types."""
  return {name: _plain(row.get(name)) for name in [*COLUMNS, *row]}


def key_of(row: dict[str, Any]) -> tuple:
  """What a row is about: all but its value and the value's error."""
  return tuple(sorted((k, repr(v)) for k, v in row.items() if k not in _FOUND))


def _plain(value: Any) -> Any:
  """JSON's own types; a number that is not finite becomes null."""
  if isinstance(value, np.ndarray | np.generic) or hasattr(value, "item"):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
