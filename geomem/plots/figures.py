"""Figures of a memorization run, each drawn from its rows alone."""

from collections.abc import Callable

import numpy as np
from matplotlib import colors, patches
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geomem import runs
from geomem.plots import style

METRICS = ("capacity", "radius", "dimension")
_MOST_COLUMNS = 4
_FAINT = {"alpha": 0.35, "lw": 1}


def epoch_axis(ax, last: float | int) -> None:
  """Makes the x-axis one of epochs: linear from 0 to 1, then logarithmic."""
  ax.set_xscale("symlog", linthresh=1, linscale=0.4)
  width = ax.figure.get_figwidth() / ax.get_subplotspec().get_gridspec().ncols
  digits = len(f"{last:.0f}")
  # In points: on a narrow panel, numbers that are closer would overlap.
  decade = 61 * width / (np.log10(max(last, 1)) + 0.5)
  factors = (1, 2, 5) if decade > 18 * digits + 10 else (1,)
  ticks = np.outer(10 ** np.arange(digits), factors).ravel()
  ticks = [0, *ticks[ticks <= last]]
  ax.set_xticks(ticks, [str(t) for t in ticks])
  ax.minorticks_off()
  ax.set_xlim(-0.15, last * 1.1)
  ax.set_xlabel("epoch")


def plot_accuracy(rows: runs.Rows) -> Figure | None:
  """Draws the accuracy of the subsets by epoch, and marks the best epochs.

  Faint points are of epochs that only some of the seeds have.
  """
  return _plot_scores(rows, "accuracy", "accuracy", style.accuracy_axis)


def plot_loss(rows: runs.Rows) -> Figure | None:
  """Draws the loss of the subsets and the training loss by epoch.

  The training loss is the mean over the steps of an epoch, for every epoch.
  Faint points are of epochs that only some of the seeds have.
  """
  return _plot_scores(rows, "loss", "loss (nats)", _loss_axis)


@style.in_style
def _plot_scores(
  rows: runs.Rows, metric: str, label: str, make_axis: Callable
) -> Figure | None:
  """Draws a score of the subsets by epoch, on an axis that is made for it."""
  scores = rows.where(metric)
  if not scores:
    return None
  figure, ((ax,),) = style.new_axes(5.4, 3.6)
  style.draw_subsets(ax, scores, "epoch")
  make_axis(ax, rows)
  style.mark_best(ax, rows)
  epoch_axis(ax, float(max(rows.distinct("epoch"))))
  ax.set_ylabel(label)
  style.explain(figure, [ax], ncols=3)
  return figure


def _loss_axis(ax, rows: runs.Rows) -> None:
  """Adds the training loss, and makes the axis logarithmic."""
  steps = rows.where("training_loss")  # Old runs have none.
  if steps:
    look = {"color": style.INK, "lw": 1, "zorder": 1, "label": "in training"}
    style.draw_series(ax, steps, "epoch", **look)
  style.log_axis(ax.yaxis)


def plot_geometry_by_layer(rows: runs.Rows) -> Figure | None:
  """Draws capacity, radius and dimension by layer, at the best and last epoch.

  The paper's figure 3; faint lines in the second row repeat the first. Bands
  are standard errors over seeds, or over probes where there is one seed.
  """
  return plot_by_layer(rows, METRICS)


@style.in_style
def plot_by_layer(rows: runs.Rows, metrics) -> Figure | None:
  """Draws metrics by layer, a column each, at the best and the last epoch.

  Where neither was measured, the first and last measured epochs are drawn;
  without any, the result is None. Many metrics continue in further rows.
  """
  at = _epochs_to_draw(rows, tuple(metrics))
  if not at:
    return None
  columns = min(len(metrics), _MOST_COLUMNS)
  high, count = len(at), -(-len(metrics) // columns)
  size = 10 * columns / 3, 2.6 * high * count + 0.4
  figure, axes = style.new_axes(*size, high * count, columns)
  for ax in axes[-high:, len(metrics) - columns * (count - 1) :].ravel():
    ax.remove()
  for i in range(count):
    group = metrics[columns * i : columns * (i + 1)]
    _draw_rows(axes[high * i : high * (i + 1), : len(group)], rows, at, group)
  label = f"{next(iter(at))} again"
  faint = [Line2D([], [], color="0.3", **_FAINT, label=label)]
  style.explain(figure, axes.ravel(), further=faint[: high - 1], ncols=6)
  return figure


def _epochs_to_draw(
  rows: runs.Rows, metrics: tuple[str, ...]
) -> dict[str, runs.Rows]:
  """Selects the rows of at most two epochs, by the names of these epochs."""
  measured = runs.Rows(
    row for row in rows.where(metrics) if row["layer"] is not None
  )
  if not measured:
    return {}
  facts = rows.where(layer=None)
  at = {
    f"{which} epoch": runs.Rows(facts + measured).at(which).where(metrics)
    for which in ("best", "last")
  }
  if not any(at.values()):
    epochs = sorted(measured.distinct("epoch"))
    chosen = dict.fromkeys([*epochs[:1], *epochs[-1:]])
    at = {f"epoch {epoch:g}": measured.where(epoch=epoch) for epoch in chosen}
  return {name: selected for name, selected in at.items() if selected}


def _draw_rows(axes, rows: runs.Rows, at, metrics) -> None:
  """Draws the earlier epoch above the later one, with one scale per metric."""
  first, last = next(iter(at.values())), list(at)[-1]
  for (name, at_epoch), row_of_axes in zip(at.items(), axes, strict=True):
    for metric, ax, above in zip(metrics, row_of_axes, axes[0], strict=True):
      measured = at_epoch.where(metric)
      if ax is not above:  # First: one may have nothing for a logarithm.
        ax.sharey(above)
      for subset in measured.subsets if ax is not above else ():
        x, mean, _ = first.where(metric, subset=subset).series("layer_index")
        ax.plot(x, mean, color=style.COLORS[subset], **_FAINT)
      style.draw_subsets(ax, measured, "layer_index")
      style.metric_axis(ax, metric, rows)
      style.layer_axis(ax, rows.layers)
      if name != last:
        ax.tick_params(labelbottom=False)
      if ax is not above:
        ax.autoscale(axis="y")
    title = _title(name, at_epoch, len(rows.seeds))
    row_of_axes[len(metrics) // 2].set_title(title)


def _title(name: str, rows: runs.Rows, num_seeds: int) -> str:
  """Returns an epoch's title, with the numbers of all best or last epochs."""
  some = len(rows.seeds)
  part = f" ({some} of {num_seeds} seeds)" if some < num_seeds else ""
  if not name.endswith("epoch"):
    return name + part
  epochs = sorted(rows.distinct("epoch"))
  plural = "s" if len(epochs) > 1 else ""
  return f"{name}{plural}: {', '.join(f'{e:g}' for e in epochs)}{part}"


@style.in_style
def plot_capacity_heatmaps(rows: runs.Rows) -> Figure | None:
  """Draws capacity over chance by layer and epoch, one panel per subset.

  All panels share a scale: white is chance, red above it and blue below. The
  dashed line is the best epoch. A column averages the seeds measured there.
  Layers of fewer than 2M features are hatched: white is below their chance.
  """
  capacities = rows.where("capacity")
  if not capacities:
    return None
  chance = rows.chance_capacity()
  places, layers = zip(*capacities.layers.items(), strict=True)
  epochs = sorted(capacities.distinct("epoch"))
  grids = {}
  for subset in capacities.subsets:
    grids[subset] = np.full((len(layers), len(epochs)), np.nan)
    for epoch, column in capacities.where(subset=subset).split("epoch").items():
      x, mean, _ = column.series("layer_index")
      place = np.searchsorted(places, x), epochs.index(epoch)
      # What is not positive has no place on the scale.
      grids[subset][place] = np.where(mean > 0, mean, np.nan) / chance
  size = 2.6 * len(grids) + 1, 0.2 * len(layers) + 1.6
  figure, (axes,) = style.new_axes(*size, 1, len(grids), sharey=True)
  ratios = np.stack(list(grids.values()))
  low, high = np.nanmin(ratios, initial=0.8), np.nanmax(ratios, initial=1.25)
  farthest = max(high, 1 / low)
  for ax, (subset, grid) in zip(axes, grids.items(), strict=True):
    norm = colors.LogNorm(1 / farthest, farthest)
    image = style.draw_heatmap(ax, grid, epochs, rows, norm=norm)
    ax.set(title=subset, xlabel="epoch")
    for i in [places.index(i) for i in rows.narrow() if i in places]:
      label = "fewer than 2M features:\nchance is higher"
      look = {"fill": False, "ec": "0.4", "lw": 0, "hatch": "////"}
      ax.axhspan(i - 0.5, i + 0.5, **look, label=label)
  axes[0].set_yticks(range(len(layers)), layers)
  bar = figure.colorbar(
    image, ax=list(axes), label=rf"{style.label_of('capacity')} / chance"
  )
  style.log_axis(bar.ax.yaxis)
  bar.ax.set_ylim(low, high)
  bar.ax.axhline(1, color="k", lw=1.5)
  white = patches.Patch(fc="w", ec="0.4", label=style.chance_label(rows))
  style.explain(figure, axes, further=[white], ncols=4)
  return figure


def plot_measures(rows: runs.Rows) -> Figure | None:
  """Draws every metric of a run by layer, at the best and the last epoch."""
  return plot_by_layer(rows, rows.where(subset=runs.SUBSETS).distinct("metric"))


MEMORIZATION = {
  "accuracy": plot_accuracy,
  "loss": plot_loss,
  "geometry_by_layer": plot_geometry_by_layer,
  "capacity_by_epoch": plot_capacity_heatmaps,
}
MEASURE = {
  "by_layer": plot_measures,
  "capacity_by_epoch": plot_capacity_heatmaps,
}
