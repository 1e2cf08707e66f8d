"""Figures of a sweep of the memorization experiment."""

import itertools
import math
import operator

from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style

_AXES = ("permuted_fraction", "width", "model")
# Where they are swept, models need no word that says so.
_PREFIXES = {"model": ""}
_METRICS = ("capacity", "radius", "dimension")
# The depth of a departure at no layer: above 1, the last hidden layer.
NO_DEPARTURE = 1.25
_DEEPEST = 1.02  # Layers are drawn up to here, no departure above it.
_GROUP_MARKERS = "sD^vP"
_GROUP_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)))


def _layout(rows) -> tuple[str, list[str]]:
  """Returns the swept column on the x-axis, and those that make groups."""
  swept = [column for column in rows[0] if column not in runs.COLUMNS]
  order = {axis: place for place, axis in enumerate(_AXES)}
  first, *others = sorted(swept, key=lambda axis: order.get(axis, len(order)))
  return first, others


def _groups(rows, columns: list[str]) -> dict[str, runs.Rows]:
  """Groups the rows by several columns; the names are for titles."""
  groups = {"": rows}
  for column in columns:
    prefix = _PREFIXES.get(column, f"{_words(column)} ")
    groups = {
      ", ".join(filter(None, (name, f"{prefix}{value}"))): part
      for name, of_name in groups.items()
      for value, part in of_name.split(column).items()
    }
  return groups


def _words(column: str) -> str:
  return column.replace("_", " ")


def _cells(rows, x_column: str) -> dict[float, runs.Rows]:
  """Returns the cells by x, or by their position where x is a name."""
  return {
    position if isinstance(x, str) else x: cell
    for position, (x, cell) in enumerate(rows.split(x_column).items())
  }


def _x_axis(ax, rows, column: str) -> None:
  values = list(rows.split(column))
  names = [v if isinstance(v, str) else f"{v:g}" for v in values]
  is_named = isinstance(values[0], str)
  if column == "width":
    ax.set_xscale("log")
  style.name_ticks(ax, range(len(values)) if is_named else values, names)
  ax.xaxis.minorticks_off()
  if is_named:
    ax.set_xlim(-0.5, len(values) - 0.5)
  ax.set_xlabel(_words(column))


@style.in_style
def plot_last_layer(rows) -> Figure | None:
  """Draws the deepest measured hidden layer against the swept column.

  Each group, such as a model, has a row of panels; open symbols and faint lines
  are the best epoch, filled symbols the last. Without it, the result is None.
  """
  if not rows.where(_METRICS):
    return None
  x_column, group_columns = _layout(rows)
  groups = _groups(rows, group_columns)
  size, shape = (10, 2.7 * len(groups) + 0.6), (len(groups), 3)
  figure, axes = style.new_axes(*size, *shape, sharex=True, sharey="col")
  for (group, of_group), row_of_axes in zip(groups.items(), axes, strict=True):
    for metric, ax in zip(_METRICS, row_of_axes, strict=True):
      _draw_subsets(ax, of_group, x_column, metric)
      _x_axis(ax, of_group, x_column)
    row_of_axes[1].set_title(group)
  further = style.epoch_handles(marker="o")
  style.explain(figure, axes[0], further=further, ncols=7)
  return figure


def _draw_subsets(ax, rows, x_column: str, metric: str) -> None:
  cells = _cells(rows, x_column)
  for subset in rows.where(metric).subsets:
    for which, drawn in style.EPOCHS.items():
      look = style.look_of(subset) | drawn
      at_epoch = operator.methodcaller("of_network", metric, subset, which)
      series = style.series_of_cells(cells, at_epoch)
      label = subset if which == "last" else None
      ax.errorbar(*series, **look, label=label)
  style.metric_axis(ax, metric, rows)


@style.in_style
def plot_departure(rows) -> Figure | None:
  """Draws where permuted capacity departs from chance, and how far.

  On the left is the depth of the first layer that stays above chance at the
  last epoch, on the right the capacity of the last hidden layer. Faint depths
  are of single seeds; where only some of them depart, there is no mean. Without
  permuted capacities, the result is None.
  """
  if not rows.where("capacity", subset="permuted"):
    return None
  x_column, group_columns = _layout(rows)
  figure, ((left, right),) = style.new_axes(8.4, 3.4, 1, 2)
  looks = itertools.cycle(zip(_GROUP_LINES, _GROUP_MARKERS, strict=True))
  for group, of_group in _groups(rows, group_columns).items():
    line, marker = next(looks)
    look = {"color": style.COLORS["permuted"], "ls": line, "marker": marker}
    look["label"] = group or "permuted"
    cells = _cells(of_group, x_column)
    left.errorbar(*style.series_of_cells(cells, _departure), **look)
    for of_seed in of_group.split("seed").values():
      x, depth, _ = style.series_of_cells(_cells(of_seed, x_column), _departure)
      left.plot(x, depth, **look | {"ls": "", "alpha": 0.4, "label": None})
    at_last = operator.methodcaller(
      "of_network", "capacity", "permuted", "last"
    )
    right.errorbar(*style.series_of_cells(cells, at_last), **look)
  left.set_ylabel("layer of departure from chance")
  left.set_yticks([0, 0.5, 1], ["first\nhidden", "middle", "last\nhidden"])
  top = 2 * NO_DEPARTURE - _DEEPEST
  left.set_ylim(-0.08, top)
  left.axhspan(_DEEPEST, top, color="0.93", zorder=0, label="no layer departs")
  right.set_ylabel(f"permuted {style.label_of('capacity')}")
  style.log_axis(right.yaxis)
  style.draw_chance(right, rows)
  for ax in (left, right):
    _x_axis(ax, rows, x_column)
  style.explain(figure, axes=(left, right))
  return figure


def _departure(cell: runs.Rows) -> runs.Rows:
  """Returns the depths of all seeds, or NaN where only some of them depart."""
  depths = cell.where("departure_depth")
  departs = depths.values < NO_DEPARTURE
  some = 0 < departs.sum() < len(departs)
  return runs.Rows([{"value": math.nan}]) if some else depths


MEMORIZATION_SWEEP = {
  "last_layer": plot_last_layer,
  "departure": plot_departure,
}
