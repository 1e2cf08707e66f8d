"""The figure of capacity for the task's labels, and what it is made of."""

import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style
from geomem.plots.figures import epoch_axis

THEORIES = {"capacity": "mean field", "glue_capacity": "GLUE"}
_LOOKS = {
  "capacity": (style.CYCLE[1], "o"),
  "glue_capacity": (style.CYCLE[0], "s"),
}
# A layer tells of memory where capacity has grown by that factor.
GROWN = 1.2


def mean_by_epoch(rows: runs.Rows) -> tuple[np.ndarray, np.ndarray]:
  """Returns epochs, and the means over seeds of what is known."""
  series = rows.known().series("epoch")
  return np.asarray(series.x, float), np.asarray(series.mean)


def plot_task(rows: runs.Rows) -> Figure:
  """Draws capacities of permuted examples, separability, and both readouts.

  The panel of the layers is left out where there is one.
  """
  deepest = rows.last_hidden()
  permuted = deepest.where(subset="permuted")
  accuracy = rows.where("accuracy", layer=None)
  names = rows.where("capacity").layers
  count = 4 if len(names) > 1 else 3
  figure = style.new_figure(3.15 * count, 3.2)
  axes = figure.subplots(1, count)
  by_layer = axes[1] if len(names) > 1 else None
  at_bound = inseparable(rows)
  for metric, (color, marker) in _LOOKS.items():
    epochs, values = mean_by_epoch(permuted.where(metric))
    look = {"color": color, "marker": marker, "label": THEORIES[metric]}
    axes[0].plot(epochs, values / values[:1], **look)
    if by_layer:
      layers = rows.at("last").where(metric, subset="permuted")
      of_layer = grown(layers, at_first(rows.where(metric, subset="permuted")))
      if metric == "glue_capacity":
        of_layer = {i: x for i, x in of_layer.items() if i not in at_bound}
      by_layer.plot(list(of_layer), list(of_layer.values()), **look)
  axes[0].set_title("permuted, last hidden layer", fontsize=9)
  axes[0].set_ylabel("capacity / at the first epoch")
  if by_layer:
    by_layer.set_title("permuted, last epoch", fontsize=9)
    by_layer.set_ylabel("capacity / at the first epoch")
    by_layer.set_xticks(
      list(names), list(names.values()), rotation=90, fontsize=6
    )
    style.draw_level(by_layer, GROWN)
  fitted, readouts = axes[-2:]
  epochs, inside = mean_by_epoch(permuted.where("glue_interior"))
  color, marker = _LOOKS["glue_capacity"]
  fitted.plot(epochs, 1 - inside, color=color, marker=marker)
  fitted.plot(
    *mean_by_epoch(accuracy.where(subset="permuted")),
    **style.look_of("permuted"),
  )
  lines = fitted.get_lines()
  lines[0].set_label("separable labellings")
  lines[1].set_label("permuted accuracy")
  fitted.set_title("separable and fitted", fontsize=9)
  readouts.plot(
    *mean_by_epoch(accuracy.where(subset="test")),
    **style.look_of("test"),
    label="the network's readout",
  )
  readouts.plot(
    *mean_by_epoch(deepest.where("probe_accuracy", subset="test")),
    color="0.4",
    marker="v",
    label="a new readout",
  )
  readouts.set_title("test accuracy", fontsize=9)
  for ax in (axes[0], fitted, readouts):
    style.mark_best(ax, rows)
    epoch_axis(ax, max(accuracy.distinct("epoch")))
  for ax in (fitted, readouts):
    style.draw_chance_accuracy(ax, rows)
    ax.set_ylim(-0.02, 1.02)
  style.explain(figure, axes, ncols=4)
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


def inseparable(rows: runs.Rows) -> dict[int, str]:
  """Names layers where most labellings are not separable at the last epoch.

  GLUE's capacity is at its bound there, which the number of features sets: it
  tells nothing of the manifolds.
  """
  found = rows.at("last").where("glue_interior", subset="permuted")
  return {
    i: found.layers[i]
    for i, of_layer in found.split("layer_index").items()
    if of_layer.mean()[0] > 0.5
  }
