"""The figures of a memorization run, each from its rows alone."""

import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style

METRICS = ("capacity", "radius", "dimension")


def epoch_axis(ax, last: float | int) -> None:
  """Makes an axis of epochs from 0 on, evenly spread in the logarithm."""
  ax.set_xscale("symlog", linthresh=1, linscale=0.4)
  ticks = [
    t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= last
  ]
  ax.set_xticks(ticks, [str(t) for t in ticks])
  ax.minorticks_off()
  ax.set_xlim(-0.15, last * 1.1)
  ax.set_xlabel("epoch")


def plot_accuracy(rows: runs.Rows) -> Figure:
  """Draws the accuracy of the subsets by epoch, and marks the best epoch."""
  figure = style.new_figure(5, 3.4)
  ax = figure.subplots()
  scores = rows.where("accuracy")
  for subset in scores.subsets:
    series = scores.where(subset=subset).series("epoch")
    style.draw_series(ax, series, **style.look_of(subset), label=subset)
  best = np.mean(list(rows.fact("best_epoch").values()))
  ax.axvline(best, color="0.5", lw=0.8, ls="--", label="best epoch", zorder=0)
  epoch_axis(ax, float(max(scores.distinct("epoch"))))
  ax.set_ylim(-0.02, 1.02)
  ax.set_ylabel("accuracy")
  figure.legend(
    loc="outside upper center", ncols=5, fontsize=7.5, columnspacing=1
  )
  return figure


def plot_geometry_by_layer(rows: runs.Rows) -> Figure:
  """Draws capacity, radius and dimension by layer, best and last epoch.

  The paper's figure 3; faint lines in the second row repeat the first. Bands
  are standard errors over seeds, over the probes where there is one seed.
  """
  return plot_by_layer(rows, METRICS)


def plot_by_layer(rows: runs.Rows, metrics) -> Figure:
  """Draws metrics by layer, a column each, at the best and the last epoch."""
  figure = style.new_figure(10 * len(metrics) / 3, 5.6)
  axes = figure.subplots(
    2, len(metrics), sharex=True, sharey="col", squeeze=False
  )
  places, layers = zip(*rows.layers.items(), strict=True)
  at = {which: rows.at(which) for which in ("best", "last")}
  for which, row_of_axes in zip(at, axes, strict=True):
    for metric, ax in zip(metrics, row_of_axes, strict=True):
      found = at[which].where(metric)
      for subset in found.subsets:
        if which == "last":
          x, mean, _ = (
            at["best"].where(metric, subset=subset).series("layer_index")
          )
          ax.plot(x, mean, color=style.COLORS[subset], alpha=0.3, lw=1)
        series = found.where(subset=subset).series("layer_index")
        look = style.look_of(subset)
        style.draw_series(ax, series, **look, label=subset)
      style.metric_axis(ax, metric, rows)
      step = max(1, len(layers) // 24)
      ax.set_xticks(places[::step], layers[::step])
      ax.tick_params(axis="x", rotation=90, labelsize=7)
    row_of_axes[len(metrics) // 2].set_title(f"{which} epoch")
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside upper center", ncols=5)
  return figure


def mark_best(ax, rows: runs.Rows, epochs) -> None:
  """Draws a dashed line at the best epoch, across the columns of a heatmap."""
  best = np.mean(list(rows.fact("best_epoch").values()))
  ax.axvline(np.interp(best, epochs, range(len(epochs))), color="w", ls="--")


def plot_capacity_heatmaps(rows: runs.Rows) -> Figure:
  """Draws capacity by layer and epoch, one panel a subset, one scale for all.

  Dashed: the best epoch.
  """
  found = rows.where("capacity")
  places, layers = zip(*found.layers.items(), strict=True)
  epochs = sorted(found.distinct("epoch"))
  grids = {}
  for subset in found.subsets:
    grids[subset] = np.full((len(layers), len(epochs)), np.nan)
    by_epoch = found.where(subset=subset).split("epoch")
    for column, epoch in enumerate(epochs):
      x, mean, _ = by_epoch[epoch].series("layer_index")
      grids[subset][np.searchsorted(places, x), column] = mean
  figure = style.new_figure(2.6 * len(grids) + 1, 0.2 * len(layers) + 1.6)
  axes = figure.subplots(1, len(grids), sharey=True, squeeze=False)[0]
  low = min(np.nanmin(grid) for grid in grids.values())
  high = max(np.nanmax(grid) for grid in grids.values())
  for ax, (subset, grid) in zip(axes, grids.items(), strict=True):
    image = ax.imshow(
      grid, aspect="auto", cmap="viridis", norm="log", vmin=low, vmax=high
    )
    ax.set_title(subset)
    step = max(1, len(epochs) // 6)
    ax.set_xticks(range(0, len(epochs), step), epochs[::step])
    ax.set_xlabel("epoch")
    mark_best(ax, rows, epochs)
  axes[0].set_yticks(range(len(layers)), layers)
  label = style.label_of("capacity")
  bar = figure.colorbar(image, ax=list(axes), label=label)
  style.log_axis(bar.ax.yaxis)
  chance = rows.chance_capacity()
  bar.ax.axhline(chance, color="w", lw=2)
  bar.ax.annotate(
    "chance",
    (-0.2, chance),
    xycoords=("axes fraction", "data"),
    fontsize=7,
    ha="right",
    va="center",
  )
  return figure


def plot_measures(rows: runs.Rows) -> Figure:
  """Draws every metric of a run by layer, at the best and the last epoch."""
  return plot_by_layer(rows, rows.where(subset=runs.SUBSETS).distinct("metric"))


MEMORIZATION = {
  "accuracy": plot_accuracy,
  "geometry_by_layer": plot_geometry_by_layer,
  "capacity_by_epoch": plot_capacity_heatmaps,
}
MEASURE = {"by_layer": plot_measures}
