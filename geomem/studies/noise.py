"""Memorization as a function of permuted fraction, architecture and width."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from geomem import plots, runs
from geomem.studies.presets import make_config
from geomem.studies.sweep import Sweep, make_axes, of_cells

# The multiple of chance that counts as a departure; points without structure
# scatter by less than a tenth over layers.
DEPARTED = 1.25


def departure_layer(
  capacity: np.ndarray, chance: float, departed: float = DEPARTED
) -> int | None:
  """Returns the first layer from which capacity stays above chance.

  Args:
    capacity: `[layers]` of the hidden layers, in order.
    chance: capacity of points without structure.
    departed: the multiple of chance that counts as a departure.

  Returns:
    Its index in `capacity`, or None if the last layer is at chance.
  """
  below = np.flatnonzero(capacity < departed * chance)
  first = int(below[-1]) + 1 if below.size else 0
  return first if first < len(capacity) else None


def summarize_noise(rows: runs.Rows) -> tuple[list[runs.Row], list[str]]:
  """Finds where permuted capacity departs from chance, by cell and seed.

  Returns:
    Rows of the metric `departure_depth`, the relative position of the layer
    among the hidden ones (0 the first, 1 the last, above 1 if none departs),
    and one sentence for each cell.
  """
  axes = [name for name in rows[0] if name not in runs.COLUMNS]
  cells: dict[tuple, runs.Rows] = {}
  for row in rows:
    cell = tuple(row[axis] for axis in axes)
    cells.setdefault(cell, runs.Rows()).append(row)
  further, sentences = [], []
  for values, cell in cells.items():
    columns = dict(zip(axes, values, strict=True))
    departures = [
      row
      for of_seed in cell.split("seed").values()
      for row in _departure(of_seed)
    ]
    further += runs.tagged(departures, **columns)
    name = ", ".join(f"{k} {v}" for k, v in columns.items())
    sentences.append(f"{name}: {_sentence(cell, departures)}")
  return further, sentences


def _departure(rows: runs.Rows) -> list[runs.Row]:
  """Finds the departure of one seed at its last epoch, if it was measured."""
  capacity = rows.at("last").where("capacity", subset="permuted")
  layers = rows.layers
  hidden = [i for i, n in layers.items() if n not in ("input", "logits")]
  by_index = {row["layer_index"]: row["value"] for row in capacity}
  if not by_index:
    return []
  departure = departure_layer(
    np.array([by_index[i] for i in hidden]), chance=rows.chance_capacity()
  )
  # Without a departure, the position is one past the last layer.
  place = len(hidden) if departure is None else departure
  return [
    {
      "seed": capacity[0]["seed"],
      "epoch": capacity[0]["epoch"],
      "layer": None if departure is None else layers[hidden[departure]],
      "layer_index": None if departure is None else hidden[departure],
      "subset": "permuted",
      "metric": "departure_depth",
      "value": place / max(len(hidden) - 1, 1),
    }
  ]


def _sentence(cell: runs.Rows, departures: list[runs.Row]) -> str:
  subsets = cell.where("capacity").subsets
  subset = "permuted" if "permuted" in subsets else "unpermuted"
  if not cell.of_network("capacity", subset, "last"):
    return f"{subset} capacity was not measured at the last epoch."
  numbers = ", ".join(
    f"{metric} {cell.of_network(metric, subset, 'last').mean()[0]:.3f}"
    for metric in ("capacity", "radius", "dimension")
  )
  text = f"{subset} {numbers} in the last hidden layer at the last epoch"
  if departures:
    layers = [str(row["layer"] or "none") for row in departures]
    text += f"; permuted capacity departs from chance at {', '.join(layers)}"
  return text + "."


def memorization_sweep(
  axes: dict[str, Sequence[Any]],
  *,
  preset: str | None = None,
  share: str | None = None,
  **fields: Any,
) -> Sweep:
  """Makes a sweep of the memorization study.

  Args:
    axes: the values of each swept field.
    preset: one of the presets of `memorization`.
    share: this process's part of the cells.
    **fields: the config fields that all cells share.

  Raises:
    ValueError: an axis has no values, or a field is invalid.
  """
  axes = make_axes(axes)
  first = {name: values[0] for name, values in axes.items()}
  config = make_config("memorization", preset, **(fields | first))
  name = MemorizationSweep.name
  return Sweep(name, config, axes, summarize_noise, share)


class MemorizationSweep:
  """Figures and findings of a sweep of the memorization study."""

  name = "memorization_sweep"
  figures = plots.MEMORIZATION_SWEEP

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[str]:
    """Returns sentences on where permuted capacity departs from chance."""
    return summarize_noise(of_cells(config, rows))[1]
