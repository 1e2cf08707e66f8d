"""The figures of a memorization run, each from its rows alone."""

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import rows as table
from geomem.plots import style

_METRICS = ("capacity", "radius", "dimension")


def epoch_axis(ax, last: float | int) -> None:
  """Epochs from 0 on, evenly spread in the logarithm."""
  ax.set_xscale("symlog", linthresh=1, linscale=0.4)
  ticks = [
    t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= last
  ]
  ax.set_xticks(ticks, [str(t) for t in ticks])
  ax.minorticks_off()
  ax.set_xlim(-0.15, last * 1.1)
  ax.set_xlabel("epoch")


def plot_accuracy(rows) -> Figure:
  """Accuracy of the subsets by epoch; the best epoch is marked."""
  figure = style.new_figure(5, 3.4)
  ax = figure.subplots()
  for subset in table.subsets_of(rows, "accuracy"):
    x, mean, error = table.series(rows, "accuracy", subset, "epoch")
    style.draw_band(ax, x, mean, error, **style.look_of(subset), label=subset)
  best = np.mean(list(table.fact(rows, "best_epoch").values()))
  ax.axvline(best, color="0.5", lw=0.8, ls="--", label="best epoch", zorder=0)
  epoch_axis(ax, float(x.max()))
  ax.set_ylim(-0.02, 1.02)
  ax.set_ylabel("accuracy")
  figure.legend(
    loc="outside upper center", ncols=5, fontsize=7.5, columnspacing=1
  )
  return figure


def plot_geometry_by_layer(rows) -> Figure:
  """Capacity, radius and dimension by layer, at the best and last epoch.

  The paper's figure 3; faint lines in the second row repeat the first. Bands
  are standard errors over seeds, over the probes where there is one seed.
  """
  figure = style.new_figure(10, 5.6)
  axes = figure.subplots(2, 3, sharex=True, sharey="col")
  places, layers = zip(*table.layers_of(rows).items(), strict=True)
  epochs = {w: table.fact(rows, f"{w}_epoch") for w in ("best", "last")}
  for which, row_of_axes in zip(("best", "last"), axes, strict=True):
    for metric, ax in zip(_METRICS, row_of_axes, strict=True):
      for subset in table.subsets_of(rows, metric):
        color = style.COLORS[subset]
        if which == "last":
          x, mean, _ = table.series(
            rows, metric, subset, "layer_index", epochs["best"]
          )
          ax.plot(x, mean, color=color, alpha=0.3, lw=1)
        x, mean, error = table.series(
          rows, metric, subset, "layer_index", epochs[which]
        )
        look = style.look_of(subset)
        style.draw_band(ax, x, mean, error, **look, label=subset)
      if metric == "capacity":
        log_axis(ax.yaxis)
        draw_chance(ax, rows)
      ax.set_ylabel(style.LABELS[metric])
      step = max(1, len(layers) // 24)
      ax.set_xticks(places[::step], layers[::step])
      ax.tick_params(axis="x", rotation=90, labelsize=7)
    row_of_axes[1].set_title(f"{which} epoch")
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside upper center", ncols=5)
  return figure


def log_axis(axis) -> None:
  """A logarithmic axis over about a decade, with plain numbers."""
  axis.axes.set_yscale("log")
  axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
  axis.set_minor_formatter(ticker.NullFormatter())


def draw_chance(ax, rows) -> None:
  """A line at the capacity of points without structure."""
  ax.axhline(
    runs.chance_capacity(rows), color="0.4", lw=0.9, ls=":", label="chance"
  )


def mark_best(ax, rows, epochs) -> None:
  """A dashed line at the best epoch, across the columns of a heatmap."""
  best = np.mean(list(table.fact(rows, "best_epoch").values()))
  ax.axvline(np.interp(best, epochs, range(len(epochs))), color="w", ls="--")


def plot_capacity_heatmaps(rows) -> Figure:
  """Capacity by layer and epoch, one panel a subset, one scale for all.

  Dashed: the best epoch.
  """
  subsets = table.subsets_of(rows, "capacity")
  places, layers = zip(*table.layers_of(rows).items(), strict=True)
  epochs = sorted({row["epoch"] for row in rows if row["layer"] is not None})
  grids = []
  for subset in subsets:
    grid = np.full((len(layers), len(epochs)), np.nan)
    for column, epoch in enumerate(epochs):
      here = [row for row in rows if row["epoch"] == epoch]
      x, mean, _ = table.series(here, "capacity", subset, "layer_index")
      grid[np.searchsorted(places, x), column] = mean
    grids.append(grid)
  figure = style.new_figure(2.6 * len(subsets) + 1, 0.2 * len(layers) + 1.6)
  axes = figure.subplots(1, len(subsets), sharey=True, squeeze=False)[0]
  low = min(np.nanmin(grid) for grid in grids)
  high = max(np.nanmax(grid) for grid in grids)
  for ax, subset, grid in zip(axes, subsets, grids, strict=True):
    image = ax.imshow(
      grid, aspect="auto", cmap="viridis", norm="log", vmin=low, vmax=high
    )
    ax.set_title(subset)
    step = max(1, len(epochs) // 6)
    ax.set_xticks(range(0, len(epochs), step), epochs[::step])
    ax.set_xlabel("epoch")
    mark_best(ax, rows, epochs)
  axes[0].set_yticks(range(len(layers)), layers)
  bar = figure.colorbar(image, ax=list(axes), label=style.LABELS["capacity"])
  log_axis(bar.ax.yaxis)
  bar.ax.axhline(runs.chance_capacity(rows), color="w", lw=2)
  bar.ax.annotate(
    "chance",
    (-0.2, runs.chance_capacity(rows)),
    xycoords=("axes fraction", "data"),
    fontsize=7,
    ha="right",
    va="center",
  )
  return figure


MEMORIZATION = {
  "accuracy": plot_accuracy,
  "geometry_by_layer": plot_geometry_by_layer,
  "capacity_by_epoch": plot_capacity_heatmaps,
}
