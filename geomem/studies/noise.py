"""Memorization as a function of permuted fraction, architecture and width."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from geomem import plots, runs
from geomem.plots.noise import NO_DEPARTURE
from geomem.studies.finding import (
  believable,
  doubts,
  grouped,
  last_measured,
  with_error,
)
from geomem.studies.presets import make_config
from geomem.studies.sweep import Sweep, make_axes, of_cells

_UNKNOWN = "an unknown layer"

# The multiple of chance that counts as a departure; points without structure
# scatter by less than a tenth over layers.
DEPARTED = 1.25


def departure_layer(capacity: np.ndarray, chance: float) -> int | float | None:
  """Returns the index of the layer from which capacity stays above chance.

  It is None if the last layer is at chance, and NaN if it depends on a layer
  whose capacity is unknown (NaN). The layers are the hidden ones, in order.
  """
  below = np.flatnonzero(capacity < DEPARTED * chance)
  first = int(below[-1]) + 1 if below.size else 0
  if np.isnan(capacity[first:]).any():
    return math.nan
  return first if first < len(capacity) else None


def summarize_noise(rows: runs.Rows) -> tuple[list[runs.Row], list[str]]:
  """Finds where permuted capacity departs from chance, by cell and seed.

  Returns:
    Rows of the metric `departure_depth`, the relative position of the layer
    among the hidden ones (0 the first, 1 the last or only one, `NO_DEPARTURE`
    if none departs, NaN if a layer in doubt decides), and sentences: one for
    each cell, and its doubts.
  """
  axes = [name for name in rows[0] if name not in runs.COLUMNS]
  cells = grouped(rows, *axes)
  further, sentences = [], []
  for values, cell in cells.items():
    columns = dict(zip(axes, values, strict=True))
    departures = []
    if cell.of_network("capacity", "permuted", "last"):
      of_seeds = cell.split("seed").values()
      departures = [_departure(of_seed, cell.layers) for of_seed in of_seeds]
    further += runs.tagged(departures, **columns)
    name = ", ".join(f"{k} {v}" for k, v in columns.items())
    said = [_sentence(cell, departures), *doubts(cell)]
    sentences += [f"{name}: {sentence}" for sentence in said]
  return further, sentences


def _departure(rows: runs.Rows, layers: dict[int, str]) -> runs.Row:
  """Finds the departure of one seed at its last epoch."""
  last = believable(rows.at("last").where(subset="permuted"))
  # From the input, 0, to the logits. Some may not be measured, such as those
  # behind the last one that is, if that is not the logits.
  end = max(layers) + (0 if "logits" in layers.values() else 2)
  hidden = range(1, end)
  values = {r["layer_index"]: r["value"] for r in last.where("capacity")}
  chance = rows.chance_capacity()
  for i in rows.narrow():  # Where chance is higher, this may be chance.
    if values.get(i, 0) >= DEPARTED * chance:
      values[i] = math.nan
  departure = departure_layer(
    np.array([values.get(i, math.nan) for i in hidden], float), chance
  )
  index, depth = None, math.nan
  if departure is None:
    depth = NO_DEPARTURE
  elif not math.isnan(departure):
    index = hidden[departure]
    depth = departure / (len(hidden) - 1) if len(hidden) > 1 else 1.0
  ((seed, epoch),) = rows.epochs("last").items()
  place = {"seed": seed, "epoch": epoch, "subset": "permuted"}
  place |= {"layer": layers.get(index), "layer_index": index}
  return place | {"metric": "departure_depth", "value": depth}


def _sentence(cell: runs.Rows, departures: list[runs.Row]) -> str:
  subsets = cell.where("capacity").subsets
  subset = "permuted" if "permuted" in subsets else "unpermuted"
  if not cell.of_network("capacity", subset, "last"):
    return f"{subset} capacity was not measured at the last epoch."
  numbers = ", ".join(
    f"{metric} {with_error(of_network.mean(cell.seeds)[0])}"
    for metric in ("capacity", "radius", "dimension")
    for of_network in (cell.of_network(metric, subset, "last"),)
  )
  text = f"{subset} {numbers} in {last_measured(cell)} at the last epoch"
  if departures:
    layers = [
      str(row["layer"] or "no layer") if runs.has_value(row) else _UNKNOWN
      for row in departures
    ]
    text += f"; permuted capacity departs from chance at {', '.join(layers)}"
    if _UNKNOWN in layers:
      text += (
        " (where unknown, it depends on a layer that is not to be believed, was"
        " not measured, or has fewer than 2M features, where chance is higher)"
      )
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
