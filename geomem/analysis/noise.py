"""Memorization by the permuted fraction, the architecture and the width."""

from collections import defaultdict

import numpy as np

from geomem import runs
from geomem.analysis.findings import (
  epoch_of,
  last_hidden_layer,
  layer_means,
  of_layer,
)

# How far above chance counts as a departure; the scatter of structureless
# points over layers stays within a tenth.
DEPARTED = 1.25


def departure_layer(
  capacity: np.ndarray, chance: float, departed: float = DEPARTED
) -> int | None:
  """The first layer from which on capacity stays above chance.

  Args:
    capacity: `[layers]` of the hidden layers, in order.
    chance: capacity of points without structure.
    departed: the multiple of chance that counts.

  Returns:
    Its position, or None where the last layer is at chance.
  """
  below = np.flatnonzero(capacity < departed * chance)
  first = int(below[-1]) + 1 if below.size else 0
  return first if first < len(capacity) else None


def summarize_noise(rows: list[dict]) -> tuple[list[dict], list[str]]:
  """Where permuted capacity departs from chance, for every cell and seed.

  Gives rows of the metric `departure_depth`, the place of the layer among the
  hidden ones (0 the first, 1 the last; above 1 where none departs), and one
  sentence for every cell.
  """
  axes = [name for name in rows[0] if name not in runs.COLUMNS]
  cells = defaultdict(list)
  for row in rows:
    cells[tuple(row[axis] for axis in axes)].append(row)
  further, sentences = [], []
  for values, cell in cells.items():
    columns = dict(zip(axes, values, strict=True))
    found = [row for row in map(_departure, _by_seed(cell)) if row]
    further += [columns | row for row in found]
    name = ", ".join(f"{k} {v}" for k, v in columns.items())
    sentences.append(f"{name}: {_sentence(cell, found)}")
  return further, sentences


def _by_seed(cell: list[dict]) -> list[list[dict]]:
  seeds = sorted({row["seed"] for row in cell})
  return [[row for row in cell if row["seed"] == seed] for seed in seeds]


def _departure(rows: list[dict]) -> dict | None:
  """The departure of one seed at its last epoch, as a row."""
  names = {
    row["layer_index"]: row["layer"] for row in rows if row["layer"] is not None
  }
  hidden = [i for i in sorted(names) if names[i] not in ("input", "logits")]
  seed = rows[0]["seed"]
  last = epoch_of(rows, "last", seed)
  capacity = {
    row["layer_index"]: row["value"]
    for row in rows
    if (row["metric"], row["subset"], row["epoch"])
    == ("capacity", "permuted", last)
  }
  if not capacity:
    return None
  found = departure_layer(
    np.array([capacity[i] for i in hidden]), chance=runs.chance_capacity(rows)
  )
  # One layer past the last stands for none.
  place = len(hidden) if found is None else found
  return {
    "seed": seed,
    "epoch": last,
    "layer": None if found is None else names[hidden[found]],
    "layer_index": None if found is None else hidden[found],
    "subset": "permuted",
    "metric": "departure_depth",
    "value": place / max(len(hidden) - 1, 1),
  }


def _sentence(cell: list[dict], found: list[dict]) -> str:
  deepest = of_layer(cell, last_hidden_layer(cell))
  last = {
    metric: layer_means(deepest, metric, "last")
    for metric in ("capacity", "radius", "dimension")
  }
  subset = "permuted" if "permuted" in last["capacity"] else "unpermuted"
  numbers = ", ".join(
    f"{metric} {by[subset][0]:.3f}" for metric, by in last.items()
  )
  text = f"{subset} {numbers} in the last hidden layer at the last epoch"
  if found:
    layers = [str(row["layer"] or "none") for row in found]
    text += f"; permuted capacity departs from chance at {', '.join(layers)}"
  return text + "."
