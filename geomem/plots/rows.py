"""Rows as arrays: the one way from results to axes."""

from collections import defaultdict

import numpy as np

SUBSETS = ("unpermuted", "permuted", "restored", "test")


def subsets_of(rows, metric: str) -> list[str]:
  """Subsets that have the metric, in the paper's order."""
  present = {row["subset"] for row in rows if row["metric"] == metric}
  return [subset for subset in SUBSETS if subset in present]


def fact(rows, metric: str) -> dict[int, int | float]:
  """A fact about each seed, such as `best_epoch`."""
  return {
    row["seed"]: row["value"]
    for row in rows
    if row["metric"] == metric and row["subset"] is None
  }


def layers_of(rows) -> dict[int, str]:
  """Layer names by their place in the network, in order."""
  names = {
    row["layer_index"]: row["layer"] for row in rows if row["layer"] is not None
  }
  return {index: names[index] for index in sorted(names)}


def series(rows, metric: str, subset: str, along: str, epochs=None):
  """Mean and error of a metric over seeds, along a column.

  Args:
    rows: the rows.
    metric: its name.
    subset: its subset.
    along: the column of the x-axis, `epoch` or `layer_index`.
    epochs: the epoch of each seed to look at; all by default.

  Returns:
    x, mean and error: the standard error over seeds, or the rows' own where
    there is one seed.
  """
  values, errors = defaultdict(list), defaultdict(list)
  for row in rows:
    if row["metric"] != metric or row["subset"] != subset:
      continue
    if epochs is not None and row["epoch"] != epochs[row["seed"]]:
      continue
    values[row[along]].append(row["value"])
    errors[row[along]].append(row["stderr"] or 0.0)
  x = np.array(sorted(values))
  mean = np.array([np.mean(values[i]) for i in x])
  error = np.array(
    [
      np.std(values[i], ddof=1) / np.sqrt(len(values[i]))
      if len(values[i]) > 1
      else errors[i][0]
      for i in x
    ]
  )
  return x, mean, error


def split_by(rows, column: str) -> dict:
  """The rows of each value of a column that a sweep adds, by growing value."""
  parts = defaultdict(list)
  for row in rows:
    if row.get(column) is not None:
      parts[row[column]].append(row)
  return {value: parts[value] for value in sorted(parts)}


def last_hidden(rows) -> list:
  """The rows of the deepest measured layer but the logits, or of these."""
  layers = layers_of(rows)
  places = [i for i, n in layers.items() if n != "logits"] or list(layers)
  return [row for row in rows if row["layer_index"] == places[-1]]


def at_epoch(rows, metric: str, subset: str, which: str):
  """Mean and error over seeds at each seed's `best` or `last` epoch.

  Returns:
    A pair, or None where the rows have no such metric.
  """
  epochs = fact(rows, f"{which}_epoch")
  if any(row["layer"] for row in rows if row["metric"] == metric):
    rows = last_hidden(rows)
  _, mean, error = series(rows, metric, subset, "metric", epochs)
  return (mean[0], error[0]) if len(mean) else None
