"""The figure of capacity for the task's labels, and its statistics."""

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
# A layer shows memorization where its capacity has grown by this factor.
GROWN = 1.2
# Random curves, whose spread is the error of a half rise.
_NUM_CURVES = 1000


def mean_by_epoch(rows: runs.Rows) -> tuple[np.ndarray, np.ndarray]:
  """Returns the epochs of all seeds, and means: NaN where one is unknown.

  Seeds may end early: the mean of those that remain would be another curve.
  """
  series = rows.of_all_seeds(rows.seeds, "epoch").series("epoch")
  return np.asarray(series.x, float), np.asarray(series.mean)


def half_rise(epochs, values, half: float | None = None) -> float:
  """Returns the epoch at which a curve is half way from minimum to last value.

  The last such crossing counts, interpolated linearly between epochs; NaN where
  the curve is empty or ends at its minimum. `half` is another value to cross.
  """
  if not len(values):
    return float("nan")
  half = (values.min() + values[-1]) / 2 if half is None else half
  below = np.flatnonzero(values < half)
  if not below.size or below[-1] == len(values) - 1:
    return float("nan")
  i = below[-1]
  fraction = (half - values[i]) / (values[i + 1] - values[i])
  return float(epochs[i] + fraction * (epochs[i + 1] - epochs[i]))


def half_rise_with_error(series: runs.Series) -> tuple[float, float]:
  """Computes `half_rise` of a curve, and propagates the values' errors to it.

  The error is the standard deviation over curves whose values are drawn
  independently with their errors; NaN where most of these have no half rise.
  """
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(_NUM_CURVES, len(series.x)))
  curves = series.mean + noise * series.stderr
  epochs = np.array([half_rise(series.x, curve) for curve in curves])
  epochs = epochs[np.isfinite(epochs)]
  enough = len(epochs) > _NUM_CURVES / 2
  error = float(epochs.std()) if enough else math.nan
  return half_rise(series.x, series.mean), error


@style.in_style
def plot_task(rows: runs.Rows) -> Figure | None:
  """Draws capacities of permuted examples, separability, and both readouts.

  The panel by layer is left out where there is only one layer.
  """
  if not rows.layers:
    return None
  has_layers = len(rows.where("capacity").layers) > 1
  count = 4 if has_layers else 3
  figure, (axes,) = style.new_axes(3.15 * count, 3.2, 1, count)
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
    style.accuracy_axis(ax, rows)
  style.explain(figure, axes, ncols=5)
  return figure


def _look(metric: str) -> dict[str, str]:
  color, marker = _LOOKS[metric]
  return {"color": color, "marker": marker, "label": THEORIES[metric]}


def _draw_by_epoch(ax, rows: runs.Rows) -> None:
  permuted = rows.last_hidden().where(subset="permuted")
  for metric in _LOOKS:
    epochs, values = mean_by_epoch(permuted.where(metric))
    ax.plot(epochs, values / values[:1], **_look(metric))
  (layer,) = rows.last_hidden().layers.values()
  ax.set_title(f"permuted, {layer}", fontsize=9)
  ax.set_ylabel("capacity / at the first epoch")


def _draw_by_layer(ax, rows: runs.Rows) -> None:
  left_out = {"glue_capacity": inseparable(rows)}
  for metric in _LOOKS:
    last = rows.at("last").where(metric, subset="permuted")
    growth = grown(last, at_first(rows).where(metric))
    for i in left_out.get(metric, ()):
      growth.pop(i, None)
    factors, errors = zip(*growth.values(), strict=True) if growth else ((), ())
    style.draw_band(ax, list(growth), factors, errors, **_look(metric))
  ax.set_title("permuted, last epoch", fontsize=9)
  ax.set_ylabel("capacity / at the first epoch")
  style.layer_axis(ax, rows.where("capacity").layers, fontsize=6)
  style.draw_level(ax, GROWN, f"grown {GROWN:g} times", ls="-.")


def _draw_fitted(ax, rows: runs.Rows) -> None:
  permuted = rows.last_hidden().where(subset="permuted")
  epochs, inside = mean_by_epoch(permuted.where("glue_interior"))
  look = {"color": style.CYCLE[5], "marker": "P"}
  ax.plot(epochs, 1 - inside, **look, label="separable labellings")
  accuracy = rows.where("accuracy", layer=None, subset="permuted")
  look = style.look_of("permuted") | {"label": "permuted accuracy"}
  ax.plot(*mean_by_epoch(accuracy), **look)
  ax.set_title("separable and fitted", fontsize=9)


def _draw_readouts(ax, rows: runs.Rows) -> None:
  accuracy = rows.where("accuracy", layer=None, subset="test")
  look = style.look_of("test") | {"label": "the network's readout"}
  style.draw_series(ax, accuracy, "epoch", **look)
  probe = rows.last_hidden().where("probe_accuracy", subset="test")
  look = {"color": "0.4", "marker": "v", "label": "a new readout"}
  style.draw_series(ax, probe, "epoch", **look)
  ax.set_title("test accuracy", fontsize=9)


def at_first(rows: runs.Rows) -> runs.Rows:
  """Selects the capacities of permuted examples at the first epoch measured.

  It is the same for both theories: where one is unknown there, so is growth.
  """
  capacities = rows.where(tuple(THEORIES), subset="permuted")
  first = min(capacities.distinct("epoch"), default=0)
  return capacities.where(epoch=first)


def grown(last: runs.Rows, first: runs.Rows) -> dict[int, tuple[float, float]]:
  """Returns the growth factor and its error, for layers that are in both.

  The error follows from the errors over seeds or, for one seed, of its rows.
  Both are NaN where a capacity is unknown.
  """
  seeds = {*first.seeds, *last.seeds}
  of_first = first.split("layer_index").items()
  before = {i: rows.mean(seeds) for i, rows in of_first}
  factors = {}
  for i, rows in last.split("layer_index").items():
    old, old_error = before.get(i, (0.0, 0.0))
    if old:
      new, error = rows.mean(seeds)
      relative = math.hypot(error / new, old_error / old) if new else 0.0
      factors[i] = new / old, new / old * relative
  return factors


def inseparable(rows: runs.Rows) -> dict[int, str]:
  """Names layers where most labellings are not separable at the last epoch.

  There GLUE's capacity is at its bound, which depends on the number of features
  and says nothing about the manifolds.
  """
  interior = rows.at("last").where("glue_interior", subset="permuted")
  return {
    i: interior.layers[i]
    for i, of_layer in interior.split("layer_index").items()
    if of_layer.mean()[0] > 0.5
  }
