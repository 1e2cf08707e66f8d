"""The figure of capacity for the task's labels, and what it is made of."""

import math

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
# Of which the error of a half rise is the spread.
_NUM_CURVES = 1000


def mean_by_epoch(rows: runs.Rows) -> tuple[np.ndarray, np.ndarray]:
  """Returns epochs, and the means over seeds of what is known."""
  series = rows.known().series("epoch")
  return np.asarray(series.x, float), np.asarray(series.mean)


def half_rise(epochs, values) -> float:
  """Returns the epoch at which a curve is half way from its least to its last.

  Of the last such crossing, between epochs by the straight line; NaN where the
  curve ends at its least.
  """
  if not len(values):
    return float("nan")
  half = (values.min() + values[-1]) / 2
  below = np.flatnonzero(values < half)
  if not below.size or below[-1] == len(values) - 1:
    return float("nan")
  i = below[-1]
  share = (half - values[i]) / (values[i + 1] - values[i])
  return float(epochs[i] + share * (epochs[i + 1] - epochs[i]))


def half_rise_with_error(series: runs.Series) -> tuple[float, float]:
  """Computes `half_rise` of a curve, and the error that its values' give.

  The error is the standard deviation over curves whose values are drawn with
  their errors, independently. Where most of these never rise by half it is NaN.
  """
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(_NUM_CURVES, len(series.x)))
  curves = series.mean + noise * series.stderr
  found = np.array([half_rise(series.x, curve) for curve in curves])
  found = found[np.isfinite(found)]
  enough = len(found) > _NUM_CURVES / 2
  error = float(found.std()) if enough else math.nan
  return half_rise(series.x, series.mean), error


def plot_task(rows: runs.Rows) -> Figure:
  """Draws capacities of permuted examples, separability, and both readouts.

  The panel of the layers is left out where there is one.
  """
  has_layers = len(rows.where("capacity").layers) > 1
  count = 4 if has_layers else 3
  figure = style.new_figure(3.15 * count, 3.2)
  axes = figure.subplots(1, count)
  by_epoch, *by_layer, fitted, readouts = axes
  _draw_by_epoch(by_epoch, rows)
  for ax in by_layer:
    _draw_by_layer(ax, rows)
  _draw_fitted(fitted, rows)
  _draw_readouts(readouts, rows)
  last = max(rows.where("accuracy", layer=None).distinct("epoch"))
  for ax in (by_epoch, fitted, readouts):
    style.mark_best(ax, rows)
    epoch_axis(ax, last)
  for ax in (fitted, readouts):
    style.draw_chance_accuracy(ax, rows)
    ax.set_ylim(-0.02, 1.02)
  style.explain(figure, axes, ncols=4)
  return figure


def _look(metric: str) -> dict[str, str]:
  color, marker = _LOOKS[metric]
  return {"color": color, "marker": marker, "label": THEORIES[metric]}


def _draw_by_epoch(ax, rows: runs.Rows) -> None:
  permuted = rows.last_hidden().where(subset="permuted")
  for metric in _LOOKS:
    epochs, values = mean_by_epoch(permuted.where(metric))
    ax.plot(epochs, values / values[:1], **_look(metric))
  ax.set_title("permuted, last hidden layer", fontsize=9)
  ax.set_ylabel("capacity / at the first epoch")


def _draw_by_layer(ax, rows: runs.Rows) -> None:
  left_out = {"glue_capacity": inseparable(rows)}
  for metric in _LOOKS:
    last = rows.at("last").where(metric, subset="permuted")
    of_layer = grown(last, at_first(rows.where(metric, subset="permuted")))
    for i in left_out.get(metric, ()):
      of_layer.pop(i, None)
    factors, errors = (
      zip(*of_layer.values(), strict=True) if of_layer else ((), ())
    )
    style.draw_band(ax, list(of_layer), factors, errors, **_look(metric))
  names = rows.where("capacity").layers
  ax.set_title("permuted, last epoch", fontsize=9)
  ax.set_ylabel("capacity / at the first epoch")
  ax.set_xticks(list(names), list(names.values()), rotation=90, fontsize=6)
  style.draw_level(ax, GROWN)


def _draw_fitted(ax, rows: runs.Rows) -> None:
  permuted = rows.last_hidden().where(subset="permuted")
  epochs, inside = mean_by_epoch(permuted.where("glue_interior"))
  look = _look("glue_capacity") | {"label": "separable labellings"}
  ax.plot(epochs, 1 - inside, **look)
  accuracy = rows.where("accuracy", layer=None, subset="permuted")
  look = style.look_of("permuted") | {"label": "permuted accuracy"}
  ax.plot(*mean_by_epoch(accuracy), **look)
  ax.set_title("separable and fitted", fontsize=9)


def _draw_readouts(ax, rows: runs.Rows) -> None:
  accuracy = rows.where("accuracy", layer=None, subset="test")
  look = style.look_of("test") | {"label": "the network's readout"}
  style.draw_series(ax, accuracy.known().series("epoch"), **look)
  probe = rows.last_hidden().where("probe_accuracy", subset="test")
  look = {"color": "0.4", "marker": "v", "label": "a new readout"}
  style.draw_series(ax, probe.known().series("epoch"), **look)
  ax.set_title("test accuracy", fontsize=9)


def at_first(rows: runs.Rows) -> runs.Rows:
  """Selects the rows of the first epoch."""
  return rows.where(epoch=min(rows.distinct("epoch"), default=0))


def grown(last: runs.Rows, first: runs.Rows) -> dict[int, tuple[float, float]]:
  """Returns by layer how much larger values are, where both are there.

  With its error: that over seeds, or of one seed that of its rows.
  """
  before = {i: rows.mean() for i, rows in first.split("layer_index").items()}
  found = {}
  for i, rows in last.split("layer_index").items():
    old, old_error = before.get(i, (0.0, 0.0))
    if old:
      new, error = rows.mean()
      relative = math.hypot(error / new, old_error / old) if new else 0.0
      found[i] = new / old, new / old * relative
  return found


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
