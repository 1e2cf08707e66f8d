"""The table of result rows, which aggregates them."""

import difflib
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from geomem.runs.lines import COLUMNS, Row

# The paper's order, which every list of subsets follows.
SUBSETS = ("unpermuted", "permuted", "restored", "test")
# Names that are misspelt even where no row has the right one.
_STANDARD = {
  "metric": ("accuracy", "loss", "capacity", "radius", "dimension"),
  "subset": SUBSETS,
  "layer": (),
}
_MOST_SHOWN = 8
# The least similarity of a misspelt column with the one that was meant.
_SIMILAR = 0.8


class Series(NamedTuple):
  """A metric along a column.

  Attributes:
    x: the column's values, ascending.
    mean: mean of the metric at each x.
    stderr: standard error of the mean over seeds; a single row's own error.
  """

  x: np.ndarray
  mean: Float[np.ndarray, " n"]
  stderr: Float[np.ndarray, " n"]


class Rows(list):
  """Result rows in the order they were written: a list of dicts.

  Each row is one number: `seed`, `epoch`, `layer`, `layer_index`, `subset`,
  `metric`, `value`, `stderr` (the value's standard error, None where unknown),
  and the columns that a study adds. Figures, findings and tables compute all of
  their numbers with the methods below.
  """

  def where(
    self, metric: str | Iterable[str] | None = None, **columns: Any
  ) -> "Rows":
    """Selects the rows whose columns have the given values.

    Args:
      metric: one metric's name or several names; all metrics by default.
      **columns: for each column, a value, or a tuple, list or array of allowed
        values. A column that a row lacks counts as None.

    Raises:
      ValueError: no row has a column, and its name resembles a standard one; or
        no row has a metric, subset or layer that is another name but for one
        letter. Of other names there may be no rows, as in a run in progress.
    """
    if metric is not None:
      columns["metric"] = metric
    for name in columns:
      self._check_column(name)
    allowed = {name: _choices(value) for name, value in columns.items()}
    selected = Rows(
      row
      for row in self
      if all(row.get(name) in values for name, values in allowed.items())
    )
    for name in _STANDARD.keys() & allowed:
      found = {row.get(name) for row in selected}
      asked = {x for x in allowed[name] if isinstance(x, str)}
      self._check_names(name, asked - found)
    return selected

  def _check_names(self, column: str, names: set[str]) -> None:
    """Raises an error for a misspelt metric, subset or layer."""
    known = {*self.distinct(column), *_STANDARD[column]} if names else set()
    for name in names - known:
      meant = [x for x in sorted(known) if _is_misspelt(name, x)]
      if column == "layer":  # conv_a and conv_b are two.
        letters = sorted(name.lower())
        meant = [
          x
          for x in meant
          if len(x) != len(name) or sorted(x.lower()) == letters
        ]
      if meant:
        raise ValueError(
          f"No row has the {column} {name!r}; did you mean {meant[0]!r}?"
        )

  def _check_column(self, name: str) -> None:
    """Raises an error for a misspelt standard column.

    Further columns are those of a study, which a part of its rows may lack.
    """
    if name in COLUMNS or any(name in row for row in self):
      return
    similar = difflib.get_close_matches(name, COLUMNS, 1, _SIMILAR)
    if self and similar:
      raise ValueError(
        f"No row has a column {name!r}; did you mean {similar[0]!r}?"
      )

  def __repr__(self) -> str:
    """Says what the table has, where all of it would flood a terminal."""
    text = f"{len(self)} row{'' if len(self) == 1 else 's'}"
    for column in ("seed", "metric", "epoch", "layer", "subset"):
      names = list(map(str, self.distinct(column)))
      if len(names) > _MOST_SHOWN:
        names[_MOST_SHOWN - 2 : -1] = ["..."]
      if names:
        text += f"; {column} {', '.join(names)}"
    return f"Rows({text})"

  def _repr_html_(self) -> str | None:
    """Returns a table for notebooks, if pandas is there to make one."""
    try:
      import pandas
    except ImportError:
      return None
    return pandas.DataFrame(self)._repr_html_()

  def known(self) -> "Rows":
    """Drops the rows whose value is missing or NaN."""
    return Rows(row for row in self if has_value(row))

  def distinct(self, column: str) -> list:
    """Lists a column's distinct values except None, by first occurrence."""
    self._check_column(column)
    values = dict.fromkeys(row.get(column) for row in self)
    return [value for value in values if value is not None]

  def split(self, column: str) -> dict[Any, "Rows"]:
    """Groups the rows by a column's values, ascending, without None."""
    self._check_column(column)
    groups: dict[Any, Rows] = {}
    for row in self:
      if row.get(column) is not None:
        groups.setdefault(row[column], Rows()).append(row)
    return {value: groups[value] for value in sorted(groups)}

  def of_all_seeds(self, seeds: Iterable[int], *columns: str) -> "Rows":
    """Selects the rows at values of the columns that all the seeds have."""
    there: dict[tuple, set] = {}
    places = [tuple(row.get(column) for column in columns) for row in self]
    for row, place in zip(self, places, strict=True):
      there.setdefault(place, set()).add(row["seed"])
    pairs = zip(self, places, strict=True)
    return Rows(row for row, place in pairs if set(seeds) <= there[place])

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
    """Layer names by index in the network, ascending."""
    names = {
      row["layer_index"]: row["layer"]
      for row in self
      if row["layer"] is not None and row["layer_index"] is not None
    }
    return {index: names[index] for index in sorted(names)}

  def fact(self, metric: str) -> dict[int | None, Any]:
    """Returns a fact about each seed of one run, such as `best_epoch`.

    Raises:
      ValueError: the rows are of several runs, or of cells of a sweep that
        differ in it.
    """
    facts = self.where(metric, subset=None)
    # Runs, and the cells of a sweep, have the same seeds.
    of_seeds = facts.split("seed").values()
    if len({row.get("run") for row in facts}) > 1 or any(
      len(np.unique(of_seed.values)) > 1 for of_seed in of_seeds
    ):
      raise ValueError(
        "The rows are of several runs or cells of a sweep, each with its own"
        f" {metric}; select one, as with where(run=...) or where(width=...)."
      )
    return {row["seed"]: row["value"] for row in facts}

  def epochs(self, which: str) -> dict[int, int]:
    """Returns the `best` or the `last` epoch of each seed.

    Raises:
      ValueError: `which` is another word, or a seed has no row that names this
        epoch.
    """
    if which not in ("best", "last"):
      raise ValueError(
        f"The epoch is {which!r}; 'best' or 'last' was expected. Select an"
        " epoch by its number with where(epoch=...)."
      )
    epochs = self.fact(f"{which}_epoch")
    for seed in self.seeds:
      if seed not in epochs:
        raise ValueError(
          f"The rows do not say which epoch of seed {seed} is {which}."
        )
    return epochs

  def at(self, which: str) -> "Rows":
    """Selects the rows at each seed's own `best` or `last` epoch."""
    epochs = self.epochs(which)
    return Rows(
      row
      for row in self
      if row["epoch"] is not None and row["epoch"] == epochs.get(row["seed"])
    )

  def nearest(self, epochs: dict[int, int]) -> "Rows":
    """Selects each seed's rows at its epoch nearest to the one given for it.

    Of two epochs that are equally near it is the earlier.
    """
    selected = Rows()
    for seed, of_seed in self.split("seed").items():
      at = of_seed.split("epoch")
      selected += at[min(at, key=lambda e, seed=seed: abs(e - epochs[seed]))]
    return selected

  def last_hidden(self) -> "Rows":
    """Selects the deepest layer before the logits, or the logits if alone."""
    layers = self.layers
    hidden = [i for i, name in layers.items() if name != "logits"]
    return self.where(layer_index=(hidden or list(layers))[-1])

  def of_network(self, metric: str, subset: str, which: str) -> "Rows":
    """Selects a metric at each seed's `best` or `last` epoch, one row a seed.

    For metrics that are measured by layer, it selects the last hidden layer.
    """
    rows = self.at(which).where(metric, subset=subset)
    return rows.last_hidden() if rows.layers else rows

  def series(
    self, along: str, mean: Callable[[np.ndarray], Any] = np.mean
  ) -> Series:
    """Averages the rows over seeds at each value of a column.

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

  def mean(self, seeds: Iterable[int] = ()) -> tuple[float, float]:
    """Returns the mean and its standard error.

    A single row gives its value and its own error, NaN if it has none. Several
    rows, one for each seed, give the standard error over seeds.

    Args:
      seeds: those that the mean is over; if one has no row, both are NaN, as
        where its value is.

    Raises:
      ValueError: a seed has several rows.
    """
    if len({row.get("seed") for row in self}) < len(self):
      raise ValueError(
        "A mean is over seeds, of one row each; select these with where(...)."
        f" Given were {self!r}."
      )
    if not set(seeds) <= set(self.seeds):
      return math.nan, math.nan
    if len(self) == 1:
      error = self[0].get("stderr")
      return float(self.values[0]), math.nan if error is None else float(error)
    return mean_and_error(self.values)

  def chance_capacity(self) -> float:
    """Returns the capacity of structureless points: 2/M at κ = 0.

    It holds for layers of 2M features or more, and is higher in others. Older
    runs do not record it; for them κ is taken as 0.

    Raises:
      ValueError: the rows do not give it, or several cells' rows differ in it.
    """
    facts = self.where(layer=None)
    values = set(facts.where("chance_capacity").values)
    values = values or set(2 / facts.where("manifold_points").values)
    if len(values) != 1:
      raise ValueError(
        f"The rows give {len(values)} chance capacities, and one was expected;"
        " select the rows of one run or one cell of a sweep with where(...)."
      )
    return values.pop()

  def blind_accuracy(self) -> dict[int, float]:
    """Returns the highest accuracy that needs no image, by seed.

    It is that of the most frequent label, or of older runs 1/classes.
    """
    highest = self.fact("chance_accuracy")
    for row in self.where("majority_accuracy"):
      highest[row["seed"]] = max(highest.get(row["seed"], 0), row["value"])
    return highest

  def narrow(self) -> dict[int, str]:
    """Names the layers of fewer than 2M features, where chance is higher.

    Returns names by index. Of older runs at most the logits are known.
    """
    points = max(self.fact("manifold_points").values(), default=0)
    sizes = {r["layer_index"]: r["value"] for r in self.where("num_features")}
    for chance in self.fact("chance_accuracy").values():
      logits = {i: 1 / chance for i, n in self.layers.items() if n == "logits"}
      sizes = logits | sizes
    return {
      i: n
      for i, n in self.layers.items()
      if sizes.get(i, 2 * points) < 2 * points
    }


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
  """Returns a mean over seeds and its standard error; NaN for one seed."""
  if len(values) < 2:
    return float(values[0]) if len(values) else math.nan, math.nan
  return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def error_of_share(share, count):
  """Returns the standard error of a share of independent examples.

  It is the standard deviation of Beta(k + 1, n − k + 1), what k of n examples
  leave unknown after a flat prior. For many examples it is the binomial error,
  which would be 0 where all or none of a few are counted.

  Args:
    share: k/n, from 0 to 1; a number or an array, also of JAX.
    count: n.
  """
  likely = (share * count + 1) / (count + 2)
  return (likely * (1 - likely) / (count + 3)) ** 0.5


def has_value(row: Row) -> bool:
  """Returns whether a row's value is a number, not missing or NaN."""
  return row["value"] is not None and row["value"] == row["value"]


def tagged(rows: Iterable[Row], **columns: Any) -> list[Row]:
  """Prepends the same columns to each row."""
  return [columns | row for row in rows]


def _choices(value: Any) -> list:
  """Lists the allowed values of a column, given one or several."""
  if hasattr(value, "tolist"):  # An array, or a number of one.
    value = value.tolist()
  is_one = isinstance(value, str) or not isinstance(value, Iterable)
  return [value] if is_one else list(value)


def _is_misspelt(name: str, right: str) -> bool:
  """Returns whether names differ in case, in one letter, or in two swapped.

  Names that differ in a digit are different layers.
  """
  a, b = name.lower(), right.lower()
  for _ in range(2):  # Drops what they have in common at each end.
    same = itertools.takewhile(
      lambda pair: pair[0] == pair[1], zip(a, b, strict=False)
    )
    count = sum(1 for _ in same)
    a, b = a[count:][::-1], b[count:][::-1]
  is_one = max(len(a), len(b)) <= 1
  is_swap = len(a) == len(b) == 2 and a == b[::-1]
  return (is_one or is_swap) and not (a + b).isdigit()
