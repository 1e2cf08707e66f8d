"""Result rows: a line of JSON each, and the one table that aggregates them."""

import json
import logging
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

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
# The paper's order of the subsets, wherever they are listed.
SUBSETS = ("unpermuted", "permuted", "restored", "test")
Row = dict[str, Any]


class Series(NamedTuple):
  """A metric along a column.

  Attributes:
    x: the column's values, ascending.
    mean: the mean of the metric at each.
    stderr: its standard error over seeds; where there is one row, its own.
  """

  x: np.ndarray
  mean: Float[np.ndarray, " n"]
  stderr: Float[np.ndarray, " n"]


class Rows(list):
  """Result rows in the order they were written: a list of dicts.

  Each row is one number: `seed`, `epoch`, `layer`, `layer_index`, `subset`,
  `metric`, `value`, `stderr`, and the columns that a study adds. Everything
  that figures, findings and tables say is computed by the methods below.
  """

  def where(
    self, metric: str | tuple[str, ...] | None = None, **columns: Any
  ) -> "Rows":
    """Selects the rows whose columns have the given values.

    Args:
      metric: name of the metric, or names; all of them by default.
      **columns: a value, or a tuple of allowed values. A column that a row
        lacks is None.
    """
    if metric is not None:
      columns["metric"] = metric
    allowed = {
      name: value if isinstance(value, tuple) else (value,)
      for name, value in columns.items()
    }
    return Rows(
      row
      for row in self
      if all(row.get(name) in values for name, values in allowed.items())
    )

  def known(self) -> "Rows":
    """Leaves out the rows whose value is missing or NaN."""
    return Rows(row for row in self if has_value(row))

  def distinct(self, column: str) -> list:
    """Lists a column's values but None, in the order of their first row."""
    values = dict.fromkeys(row.get(column) for row in self)
    return [value for value in values if value is not None]

  def split(self, column: str) -> dict[Any, "Rows"]:
    """Groups the rows by a column, its values ascending, None left out."""
    groups: dict[Any, Rows] = {}
    for row in self:
      if row.get(column) is not None:
        groups.setdefault(row[column], Rows()).append(row)
    return {value: groups[value] for value in sorted(groups)}

  @property
  def values(self) -> Float[np.ndarray, " n"]:
    """The values, in order."""
    return np.array([row["value"] for row in self], float)

  @property
  def seeds(self) -> list[int]:
    """The seeds, ascending."""
    return sorted(self.distinct("seed"))

  @property
  def subsets(self) -> list[str]:
    """The subsets, in the paper's order."""
    present = self.distinct("subset")
    return [subset for subset in SUBSETS if subset in present]

  @property
  def layers(self) -> dict[int, str]:
    """Layer names by their index in the network, in order."""
    names = {
      row["layer_index"]: row["layer"]
      for row in self
      if row["layer"] is not None
    }
    return {index: names[index] for index in sorted(names)}

  def fact(self, metric: str) -> dict[int | None, Any]:
    """Returns a fact about each seed of one run, such as `best_epoch`."""
    found = self.where(metric, subset=None)
    if len({row.get("run") for row in found}) > 1:  # Seeds share numbers.
      raise ValueError("The rows are of several runs; choose one: where(run=).")
    return {row["seed"]: row["value"] for row in found}

  def epochs(self, which: str) -> dict[int, int]:
    """Returns the `best` or the `last` epoch of each seed.

    Raises:
      ValueError: the rows of a seed do not say which it is.
    """
    known = self.fact(f"{which}_epoch")
    for seed in self.seeds:
      if seed not in known:
        raise ValueError(
          f"The rows do not say which epoch of seed {seed} is {which}."
        )
    return known

  def at(self, which: str) -> "Rows":
    """Selects the rows of each seed's own `best` or `last` epoch."""
    epochs = self.epochs(which)
    return Rows(
      row
      for row in self
      if row["epoch"] is not None and row["epoch"] == epochs.get(row["seed"])
    )

  def last_hidden(self) -> "Rows":
    """Selects the deepest measured layer but the logits, or these if alone."""
    layers = self.layers
    places = [i for i, name in layers.items() if name != "logits"]
    return self.where(layer_index=(places or list(layers))[-1])

  def of_network(self, metric: str, subset: str, which: str) -> "Rows":
    """Selects a metric at each seed's `best` or `last` epoch, one row a seed.

    Of what is measured by layer, it selects the last hidden layer.
    """
    found = self.at(which).where(metric, subset=subset)
    return found.last_hidden() if found.layers else found

  def series(
    self, along: str, mean: Callable[[np.ndarray], Any] = np.mean
  ) -> Series:
    """Averages the rows over seeds, by a column.

    Args:
      along: the column on the x-axis, such as `epoch` or `layer_index`.
      mean: the average to take; the arithmetic mean by default.
    """
    groups = self.split(along)
    return Series(
      np.array(list(groups)),
      np.array([mean(rows.values) for rows in groups.values()], float),
      np.array([rows.mean()[1] for rows in groups.values()], float),
    )

  def mean(self) -> tuple[float, float]:
    """Returns the mean and its standard error.

    Of one row they are its value and its own error (0 where it has none); of
    several, one for each seed, the error is that over seeds.
    """
    if len(self) == 1:
      return float(self.values[0]), float(self[0].get("stderr") or 0.0)
    return mean_and_error(self.values)

  def chance_capacity(self) -> float:
    """Returns the capacity of structureless points: 2/M at κ = 0.

    Runs of old do not say it; their margin counts as 0.
    """
    facts = self.where(layer=None)
    if known := facts.where("chance_capacity"):
      return known[-1]["value"]
    return 2 / facts.where("manifold_points")[-1]["value"]


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
  """Returns a mean over seeds and its standard error; NaN for one seed."""
  if len(values) < 2:
    return float(values[0]) if len(values) else math.nan, math.nan
  return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def rows_file(path: pathlib.Path | str) -> pathlib.Path:
  """Names the file of a run directory that holds its rows."""
  return pathlib.Path(path) / "results.jsonl"


def read_rows(path: pathlib.Path | str) -> Rows:
  """Reads the rows of a run directory.

  A damaged line is named and left out. A value that JSON has no number for is
  NaN.
  """
  file, rows = rows_file(path), Rows()
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


def has_value(row: Row) -> bool:
  """Tells whether the value of a row is a number, not missing or NaN."""
  return row["value"] is not None and row["value"] == row["value"]


def tagged(rows: Iterable[Row], **columns: Any) -> list[Row]:
  """Puts the same columns in front of each row."""
  return [columns | row for row in rows]


def parse(line: bytes) -> Row | None:
  """Returns the row in a line, or None where there is none."""
  try:
    row = dict(json.loads(line))
  except (ValueError, TypeError, RecursionError):
    return None
  return row if "metric" in row else None


def encode(row: Row) -> bytes:
  """Returns the line of a row, with all columns and of JSON's own types."""
  complete = {name: _plain(row.get(name)) for name in [*COLUMNS, *row]}
  return json.dumps(complete, allow_nan=False).encode()


def _plain(value: Any) -> Any:
  """Converts to JSON's own types; a number that is not finite becomes null."""
  if isinstance(value, np.ndarray | np.generic) or hasattr(value, "item"):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
