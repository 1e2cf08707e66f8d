"""Figures of a sweep over model sizes: figure 4C-E of the paper."""

import functools
import operator

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import figures, style

_MOST_CURVES = 6
_CHANGES = {
  "dimension": {"marker": "v", "ls": "-"},
  "radius": {"marker": "^", "ls": "--"},
}
_MARKS = {
  "interpolation_threshold": {
    "label": "99% of labels fitted",
    "color": "0.4",
    "lw": 0.9,
    "ls": "--",
  },
  "dip_parameters": {
    "label": "dip of test accuracy",
    "color": style.CYCLE[0],
    "lw": 3,
    "alpha": 0.5,
  },
}
_PAPERS = ("radius", "dimension", "capacity")
# Drawn where they are measured, beside the paper's three.
_FURTHER = ("probe_accuracy", "critical_features")


def _by_size(rows: runs.Rows) -> dict[int, runs.Rows]:
  """Groups the rows by the number of parameters."""
  sizes = {}
  for of_width in rows.split("width").values():
    sizes[next(iter(of_width.fact("num_parameters").values()))] = of_width
  return sizes


def _band(ax, sizes, choose, **look) -> None:
  """Draws a line over the sizes that have chosen rows, if there are any."""
  series = style.series_of_cells(sizes, choose)
  if len(series.x):
    style.draw_band(ax, *series, **look)


def _finish(figure: Figure, axes: np.ndarray, rows: runs.Rows) -> None:
  """Makes axes of parameter counts, marks threshold and dip, and explains."""
  facts = {row["metric"]: row["value"] for row in rows.where(seed=None).known()}
  for ax in axes.ravel():
    style.log_axis(ax.xaxis)
    ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    for metric, look in _MARKS.items():
      if metric in facts:
        ax.axvline(facts[metric], **look, zorder=0)
  for ax in axes[-1]:
    ax.set_xlabel("parameters")
  further = style.epoch_handles(marker="o")
  style.explain(figure, axes.ravel(), further=further, ncols=5)


def _draw(ax, sizes, metric: str, subset: str) -> None:
  """Draws a metric over sizes, at the best and the last epoch."""
  for which, drawn in style.EPOCHS.items():
    at_epoch = operator.methodcaller("of_network", metric, subset, which)
    _band(ax, sizes, at_epoch, **style.look_of(subset) | drawn)
  rows = next(iter(sizes.values()))
  style.metric_axis(ax, metric, rows)
  ax.set_ylabel(f"{subset} {style.label_of(metric)}")


def _draw_training(ax, sizes) -> None:
  """Draws training accuracy of clean and permuted examples."""
  for subset in ("unpermuted", "permuted"):
    at_last = operator.methodcaller("of_network", "accuracy", subset, "last")
    _band(ax, sizes, at_last, **style.look_of(subset), label=subset)
  style.draw_chance_accuracy(ax, next(iter(sizes.values())))
  ax.set_ylabel("training accuracy, last epoch")


def _draw_change(ax, sizes) -> None:
  """Draws the ratios of radius and dimension, last over best epoch."""
  for metric, look in _CHANGES.items():
    look = look | {"color": style.COLORS["test"]}
    name = f"test {style.label_of(metric).split(' (')[0]}"
    change = functools.partial(_change, metric=metric)
    _band(ax, sizes, change, **look, label=name)
  # On a linear axis, one nearly dead network would take all the space.
  style.log_axis(ax.yaxis)
  style.draw_level(ax, 1, "no change", ls="-.")
  ax.set_ylabel("last epoch / best epoch")


def _change(rows: runs.Rows, metric: str) -> runs.Rows:
  """Returns each seed's ratio of a metric, last epoch over best epoch."""
  last, best = (
    rows.of_network(metric, "test", which).split("seed")
    for which in ("last", "best")
  )
  return runs.Rows(
    {"seed": seed, "value": last[seed].values[0] / before.values[0]}
    for seed, before in best.items()
    # A dead network has no dimension, and an epoch may be missing.
    if before.values[0] and seed in last
  )


@style.in_style
def plot_model_size(rows) -> Figure | None:
  """Draws accuracy and test geometry by number of parameters.

  Of the vertical lines, the dashed one is the interpolation threshold and the
  broad one the dip. Bands are standard errors over seeds.
  """
  if not rows:  # No width is complete.
    return None
  has_geometry = "test" in rows.where("dimension").subsets
  shape = (2, 3) if has_geometry else (1, 2)
  size = 10 * shape[1] / 3, 2.8 * shape[0]
  figure, axes = style.new_axes(*size, *shape, sharex=True)
  sizes = _by_size(rows)
  _draw(axes[0, 0], sizes, "accuracy", "test")
  _draw_training(axes[0, 1], sizes)
  if has_geometry:
    _draw_change(axes[0, 2], sizes)
    for metric, ax in zip(_PAPERS, axes[1], strict=True):
      _draw(ax, sizes, metric, "test")
  _finish(figure, axes, rows)
  return figure


@style.in_style
def plot_geometry_by_size(rows) -> Figure | None:
  """Draws the deepest hidden layer measured by size, a row for each subset.

  Test has no row where `plot_model_size` shows all of its metrics. Without any
  of the metrics, the result is None.
  """
  subsets = rows.where(_PAPERS + _FURTHER).subsets
  metrics = [name for name in _PAPERS + _FURTHER if rows.where(name)]
  if not metrics:
    return None
  if len(subsets) > 1 and not rows.where(_FURTHER):
    subsets = [subset for subset in subsets if subset != "test"]
  size = 3.3 * len(metrics), 2.5 * len(subsets) + 0.4
  shape = len(subsets), len(metrics)
  figure, axes = style.new_axes(*size, *shape, sharex=True)
  sizes = _by_size(rows)
  for subset, row_of_axes in zip(subsets, axes, strict=True):
    for metric, ax in zip(metrics, row_of_axes, strict=True):
      _draw(ax, sizes, metric, subset)
  _finish(figure, axes, rows)
  return figure


@style.in_style
def plot_size_by_epoch(rows) -> Figure | None:
  """Draws test accuracy and dimension over epochs, for at most six sizes."""
  sizes = list(_by_size(rows).items())
  if not sizes:
    return None
  count = min(len(sizes), _MOST_CURVES)
  chosen = np.unique(np.linspace(0, len(sizes) - 1, count).round().astype(int))
  shades = style.shades(len(sizes))
  metrics = ["accuracy"]
  metrics += ["dimension"] if rows.where("dimension", subset="test") else []
  count = len(metrics)
  figure, (axes,) = style.new_axes(4.2 * count, 3.4, 1, count)
  for index in chosen:
    parameters, of_size = sizes[index]
    color = shades[index]
    label = f"{parameters:,.0f}"
    look = {"color": color, "label": label}
    accuracy = of_size.where("accuracy", subset="test")
    style.draw_series(axes[0], accuracy, "epoch", **look)
    dimension = of_size.where("dimension", subset="test")
    if dimension:
      of_layer = dimension.last_hidden()
      style.draw_series(axes[1], of_layer, "epoch", **look)
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center", title="parameters")
  style.draw_chance_accuracy(axes[0], sizes[0][1])
  for ax, metric in zip(axes, metrics, strict=True):
    figures.epoch_axis(ax, max(rows.distinct("epoch")))
    ax.set_ylabel(f"test {style.label_of(metric)}")
  # Chance is no size: it has a legend of its own.
  entries = axes[0].get_legend_handles_labels()
  chance = [found[len(handles) :] for found in entries]
  if all(chance):
    style.draw_legend(figure, *chance, ncols=1)
  return figure


MODEL_SIZE = {
  "model_size": plot_model_size,
  "geometry_by_size": plot_geometry_by_size,
  "size_by_epoch": plot_size_by_epoch,
}
