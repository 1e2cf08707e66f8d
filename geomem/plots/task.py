"""The figure of capacity for the task's labels, and what it is made of."""

import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style

THEORIES = {"capacity": "mean field", "glue_capacity": "GLUE"}
_LOOKS = {"capacity": ("#56B4E9", "o"), "glue_capacity": ("#CC79A7", "s")}
# A layer tells of memory where capacity has grown by that factor.
GROWN = 1.2


def mean_by_epoch(rows: runs.Rows) -> tuple[np.ndarray, np.ndarray]:
  """Returns epochs, and the means over seeds of what is known."""
  series = rows.known().series("epoch")
  return np.asarray(series.x, float), np.asarray(series.mean)


def plot_task(rows: runs.Rows) -> Figure:
  """Draws capacities of permuted examples, separability, and both readouts."""
  deepest = rows.last_hidden()
  permuted = deepest.where(subset="permuted")
  accuracy = rows.where("accuracy", layer=None)
  figure = style.new_figure(12.5, 3.2)
  axes = figure.subplots(1, 4)
  for metric, (color, marker) in _LOOKS.items():
    epochs, values = mean_by_epoch(permuted.where(metric))
    look = {"color": color, "marker": marker, "label": THEORIES[metric]}
    axes[0].plot(epochs, values / values[:1], **look)
    layers = rows.at("last").where(metric, subset="permuted")
    of_layer = grown(layers, at_first(rows.where(metric, subset="permuted")))
    axes[1].plot(list(of_layer), list(of_layer.values()), **look)
  axes[0].set_title("permuted, last hidden layer", fontsize=9)
  axes[0].set_ylabel("capacity / at the first epoch")
  axes[0].legend()
  axes[1].set_title("permuted, last epoch", fontsize=9)
  axes[1].set_ylabel("capacity / at the first epoch")
  names = rows.where("capacity").layers
  axes[1].set_xticks(list(names), list(names.values()), rotation=90, fontsize=6)
  axes[1].axhline(GROWN, color="0.6", lw=0.8, ls=":")
  epochs, inside = mean_by_epoch(permuted.where("glue_interior"))
  axes[2].plot(epochs, 1 - inside, color="#CC79A7", marker="s")
  axes[2].plot(
    *mean_by_epoch(accuracy.where(subset="permuted")),
    **style.look_of("permuted"),
  )
  lines = axes[2].get_lines()
  lines[0].set_label("separable labellings")
  lines[1].set_label("permuted accuracy")
  axes[2].set_title("separable and fitted", fontsize=9)
  axes[3].plot(
    *mean_by_epoch(accuracy.where(subset="test")),
    **style.look_of("test"),
    label="the network's readout",
  )
  axes[3].plot(
    *mean_by_epoch(deepest.where("probe_accuracy", subset="test")),
    color="0.4",
    marker="v",
    label="a new readout",
  )
  axes[3].set_title("test accuracy", fontsize=9)
  for ax in (axes[0], axes[2], axes[3]):
    ax.set_xlabel("epoch")
  for ax in axes[2:]:
    ax.set_ylim(-0.02, 1.02)
    ax.legend(fontsize=7)
  return figure


def at_first(rows: runs.Rows) -> runs.Rows:
  """Selects the rows of the first epoch."""
  return rows.where(epoch=min(rows.distinct("epoch"), default=0))


def grown(last: runs.Rows, first: runs.Rows) -> dict[int, float]:
  """Returns by layer how much larger values are, where both are there."""
  before = {i: rows.mean()[0] for i, rows in first.split("layer_index").items()}
  return {
    i: rows.mean()[0] / before[i]
    for i, rows in last.split("layer_index").items()
    if before.get(i)
  }
