"""The style of all figures: colours, axes, legends, and saving."""

import contextlib
import functools
import io
import pathlib
from collections.abc import Callable, Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geomem import disk, measures, runs

# Okabe and Ito's palette, which is safe for the colour-blind; the hues follow
# the paper's legend. Markers also tell subsets apart, for print without colour.
COLORS = {
  "unpermuted": "#0072B2",
  "permuted": "#E69F00",
  "restored": "#009E73",
  "test": "#D55E00",
}
MARKERS = {"unpermuted": "o", "permuted": "s", "restored": "^", "test": "D"}
# For everything but subsets: kinds of rewinds, parts of gradients, families of
# manifolds. Subsets use none of these, so that each colour has one meaning.
INK = "#222222"
CYCLE = ("#CC79A7", "#56B4E9", INK, "#882255", "#999933", "#6A51A3")
# The two epochs differ in how a subset's colour is drawn.
EPOCHS = {
  "best": {"mfc": "w", "alpha": 0.55, "lw": 1},
  "last": {"mfc": None, "alpha": 1, "lw": 1.3},
}
# Points without structure have a capacity of 2/M in 2M features and more; in
# M they have a tenth more, in a third of M 1.8 times as much.
CHANCE_HOLDS = "with 2M features or more"
# More names of layers than this overlap along an axis, and more letters of
# names side by side.
_MOST_NAMES = 24
_MOST_LETTERS = 32
# A longer name, as of many layers that are rewound together, loses its middle.
_LONGEST = 25
# Of more decades, not each has a tick.
_MOST_DECADES = 12
# Choices of ticks within a decade; the first with enough ticks is used.
_FACTORS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
_STYLE = {
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "legend.frameon": False,
  "lines.markersize": 4,
  "lines.linewidth": 1.3,
  "pdf.fonttype": 42,
}


def in_style(draw: Callable) -> Callable:
  """Makes a function draw in this style; other figures keep their own."""

  @functools.wraps(draw)
  def styled(*arguments, **options):
    with matplotlib.rc_context(_STYLE):
      return draw(*arguments, **options)

  return styled


def new_figure(width: float | int, height: float | int) -> Figure:
  """Makes an empty figure of the given size in inches."""
  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def new_axes(
  width: float | int, height: float | int, *shape: int, **options
) -> tuple[Figure, np.ndarray]:
  """Makes a figure of the given size in inches, and its rows of axes."""
  figure = new_figure(width, height)
  return figure, figure.subplots(*shape, squeeze=False, **options)


def shades(count: int) -> np.ndarray:
  """Returns colours of an ordered set, all dark enough for white paper."""
  return matplotlib.colormaps["viridis"](np.linspace(0, 0.8, count))


def draw_band(ax, x, mean, error, **look) -> None:
  """Draws a line with a band of one standard error; of one point, a bar."""
  x, mean, error = (np.asarray(values, float) for values in (x, mean, error))
  (line,) = ax.plot(x, mean, **look)
  ax.fill_between(
    x, mean - error, mean + error, color=line.get_color(), alpha=0.2, lw=0
  )
  if np.isfinite(mean).sum() == 1:  # A band of one point has no width.
    bar = {"fmt": "none", "ecolor": line.get_color(), "alpha": 0.5}
    ax.errorbar(x, mean, error, **bar, elinewidth=1, capsize=2)


def label_of(metric: str) -> str:
  """Returns the label of a metric's axis."""
  entry = measures.METRICS.get(metric)
  return entry.label if entry else metric


def draw_series(ax, rows: runs.Rows, along: str, **look) -> None:
  """Draws the mean over seeds along a column, with its standard error.

  What only some of the seeds have, as where seeds end at epochs of their own,
  are faint points: their mean would be another curve.
  """
  of_all = rows.of_all_seeds(rows.seeds, along)
  draw_band(ax, *of_all.series(along), **look)
  drawn = set(map(id, of_all))
  others = [row for row in rows if id(row) not in drawn]
  if others:
    points = [row[along] for row in others], runs.Rows(others).values
    faint = {"ls": "", "alpha": 0.35, "label": None}
    ax.plot(*points, **{"marker": "."} | look | faint)


def draw_subsets(ax, rows: runs.Rows, along: str) -> None:
  """Draws a curve along a column for each subset."""
  for subset in rows.subsets:
    of_subset = rows.where(subset=subset)
    draw_series(ax, of_subset, along, **look_of(subset), label=subset)


def draw_layers(ax, curves: dict[str, runs.Rows], along: str) -> None:
  """Draws a curve along a column for each layer, shaded by depth."""
  colors = shades(len(curves))
  for (name, rows), color in zip(curves.items(), colors, strict=True):
    look = {"color": color, "marker": ".", "label": shorten(name)}
    draw_series(ax, rows, along, **look)


def list_beside(ax, count: int) -> None:
  """Lists the curves of so many layers on the right of a panel."""
  look = {"fontsize": 6.5, "ncols": 1 + count // 10, "columnspacing": 1}
  ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), **look)


def series_of_cells(
  cells: dict[float, runs.Rows], choose: Callable[[runs.Rows], runs.Rows]
) -> runs.Series:
  """Averages chosen rows of the cells of a sweep, which are by their place.

  One row a seed is chosen: where a seed of a cell has none, the mean is NaN.
  Cells without any are left out.
  """
  chosen = {x: choose(cell) for x, cell in cells.items()}
  drawn = [
    (x, *rows.mean(cells[x].seeds)) for x, rows in chosen.items() if rows
  ]
  return runs.Series(*np.array(drawn, float).reshape(-1, 3).T)


def name_epochs(epochs: Iterable[float | int]) -> str:
  """Formats `epoch 3`, or `epochs 2, 3` where seeds differ."""
  numbers = sorted(set(epochs))
  plural = "s" if len(numbers) > 1 else ""
  return f"epoch{plural} {', '.join(f'{epoch:g}' for epoch in numbers)}"


class _PlainTicks(ticker.Locator):
  """Ticks of a logarithmic axis: at least three, even on a short one."""

  def __call__(self):
    return self.tick_values(*self.axis.get_view_interval())

  def tick_values(self, vmin, vmax):
    """Returns powers of ten, with values between them if these are too few."""
    low, high = min(vmin, vmax), max(vmin, vmax)
    if not 0 < low <= high < np.inf:  # There is nothing to show, or NaN.
      return np.array([])
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    if len(powers) > _MOST_DECADES:
      return powers[:: -(-len(powers) // _MOST_DECADES)]
    for factors in _FACTORS:
      ticks = np.outer(powers, factors).ravel()
      ticks = ticks[(low <= ticks) & (ticks <= high)]
      if len(ticks) > 2:
        return ticks
    return ticker.MaxNLocator(6, steps=(1, 2, 5, 10)).tick_values(low, high)


def log_axis(axis) -> None:
  """Makes an axis logarithmic, with plain numbers.

  Where lines without a positive value are all that is drawn, it stays linear.
  """
  coordinate = f"get_{axis.axis_name}data"
  drawn = [getattr(line, coordinate)() for line in axis.axes.get_lines()]
  if drawn and not any((np.asarray(x, float) > 0).any() for x in drawn):
    return
  axis.axes.set(**{f"{axis.axis_name}scale": "log"})
  axis.set_major_locator(_PlainTicks())
  axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
  axis.set_minor_formatter(ticker.NullFormatter())


def metric_axis(ax, metric: str, rows: runs.Rows) -> None:
  """Scales and labels a y-axis for a metric, and draws its chance level."""
  entry = measures.METRICS.get(metric)
  ax.set_ylabel(label_of(metric))
  if entry and entry.scale == "log":
    log_axis(ax.yaxis)
  if entry and entry.chance == "chance_capacity":
    draw_chance(ax, rows)
  if metric == "accuracy":
    draw_chance_accuracy(ax, rows)
  if entry and entry.chance == "chance_accuracy":  # Of classes of equal size.
    _draw_accuracies(ax, rows.fact("chance_accuracy"))


def chance_label(rows: runs.Rows) -> str:
  """Labels the capacity of points without structure, and where it holds."""
  chance = rows.chance_capacity()
  points = {int(m) for m in rows.fact("manifold_points").values()}
  if len(points) != 1:
    return f"chance {chance:.3g}"
  (m,) = points
  # With a margin, chance is less than 2/M.
  law = " = 2/M" if np.isclose(chance, 2 / m, rtol=1e-3) else ""
  return f"chance{law} = {chance:.3g} (M = {m})\n{CHANCE_HOLDS}"


def draw_chance(ax, rows: runs.Rows) -> None:
  """Draws a line at the capacity of points without structure.

  Where the cells of a sweep differ in it, there is no such line.
  """
  with contextlib.suppress(ValueError):
    draw_level(ax, rows.chance_capacity(), chance_label(rows))


def draw_level(
  ax, level: float | int, label: str | None = None, ls: str | tuple = ":"
) -> None:
  """Draws a horizontal line at a reference level; only chance is dotted."""
  ax.axhline(level, color="0.4", lw=0.9, ls=ls, label=label, zorder=0)


def draw_chance_accuracy(ax, rows: runs.Rows) -> None:
  """Draws a line at the accuracy that needs no image."""
  _draw_accuracies(ax, rows.blind_accuracy())


def _draw_accuracies(ax, by_seed: dict[int, float]) -> None:
  for chance in set(by_seed.values()):  # Old runs do not record it.
    # Its dots are farther apart than those of chance capacity.
    draw_level(ax, chance, f"chance accuracy {chance:.3g}", ls=(0, (1, 4)))


def accuracy_axis(ax, rows: runs.Rows) -> None:
  """Limits a y-axis to shares from 0 to 1, and draws chance accuracy."""
  draw_chance_accuracy(ax, rows)
  ax.set_ylim(-0.02, 1.02)


def some_of(layers: dict[int, str]) -> tuple[list[int], list[str]]:
  """Returns the places and names of layers, of many only every so many."""
  step = -(-len(layers) // _MOST_NAMES) or 1
  return list(layers)[::step], list(layers.values())[::step]


def shorten(name: str) -> str:
  """Cuts the middle out of a name that would leave no room for its figure."""
  half = (_LONGEST - 1) // 2
  return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


def layer_axis(ax, layers: dict[int, str], fontsize: int = 7) -> None:
  """Labels an x-axis by layer, given the layers' names by place."""
  ax.set_xticks(*some_of(layers), rotation=90, fontsize=fontsize)


def name_ticks(ax, places, names: Sequence[str], **look) -> None:
  """Names the places of an x-axis, turned where they would overlap."""
  crowded = sum(len(name) + 1 for name in names) > _MOST_LETTERS
  ax.set_xticks(places, names, rotation=90 if crowded else 0, **look)


def mark_best(ax, rows: runs.Rows, places=None, **look) -> None:
  """Draws a vertical line at the best epoch of each seed.

  Where columns are epochs, `places` has their places; others are not marked.
  """
  look = {"color": "0.5", "lw": 0.8, "ls": "--", "zorder": 0} | look
  label = "best epoch"
  for best in sorted(set(rows.fact("best_epoch").values())):
    if places is None or best in places:
      place = best if places is None else places[best]
      ax.axvline(place, label=label, **look)
      label = None


def draw_heatmap(ax, grid, epochs, rows: runs.Rows, **scale):
  """Draws a grid with a column for each epoch, and marks the best ones.

  Unknown values are grey: white has a meaning. The last epoch is always
  labelled. Returns the image, for a colour bar.
  """
  image = ax.imshow(grid, aspect="auto", cmap="RdBu_r", **scale)
  if not np.isfinite(grid).all():
    ax.set_facecolor("0.6")
    ax.fill_between([], [], color="0.6", label="unknown")
  step = -(-len(epochs) // 14)
  labelled = list(range(len(epochs) - 1, -1, -step))[::-1]
  name_ticks(ax, labelled, [f"{epochs[i]:g}" for i in labelled], fontsize=7)
  places = {epoch: place for place, epoch in enumerate(epochs)}
  # Dark with a light outline is visible on every colour.
  outline = patheffects.withStroke(linewidth=3, foreground="w", alpha=0.8)
  look = {"color": "k", "lw": 1.2, "zorder": 2, "path_effects": (outline,)}
  mark_best(ax, rows, places, **look)
  return image


def explain(figure: Figure, axes, *, further=(), ncols: int = 5) -> None:
  """Draws one legend above all panels, with each label once."""
  entries = {}
  for ax in axes:
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
      entries.setdefault(label, handle)
  handles = [*entries.values(), *further]
  labels = [*entries, *(handle.get_label() for handle in further)]
  draw_legend(figure, handles, labels, ncols)


def draw_legend(figure: Figure, handles, labels, ncols: int) -> None:
  """Draws a legend above all panels, in fewer columns if it is too wide."""
  for count in range(ncols, 0, -1):
    look = {"loc": "outside upper center", "columnspacing": 1.2}
    legend = figure.legend(handles, labels, **look, ncols=count)
    box = legend.get_window_extent(figure.canvas.get_renderer())
    if box.width <= figure.bbox.width or count == 1:
      return
    legend.remove()


def epoch_handles(**look) -> list[Line2D]:
  """Makes the legend entries of the best and the last epoch."""
  return [
    Line2D([], [], **({"color": "0.3"} | look | drawn), label=f"{which} epoch")
    for which, drawn in EPOCHS.items()
  ]


def look_of(subset: str) -> dict[str, str]:
  """Returns the colour and marker of a subset."""
  return {"color": COLORS[subset], "marker": MARKERS[subset]}


@in_style
def save_figure(
  figure: Figure,
  path: pathlib.Path,
  suffixes: tuple[str, ...] = (".png", ".pdf"),
) -> list[pathlib.Path]:
  """Writes a file for each suffix, atomically; returns their paths."""
  with disk.explained(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
  disk.remove_partial(path.parent)
  # Laid out once for all files, as this takes longer than drawing.
  engine = figure.get_layout_engine()
  if engine is not None:
    engine.execute(figure)
  figure.set_layout_engine("none")
  for suffix in suffixes:
    # Drawn in memory first: on a full disk, Matplotlib raises various errors.
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=160)
    disk.write_whole(path.with_suffix(suffix), buffer.getvalue())
  figure.set_layout_engine(engine)
  return [path.with_suffix(suffix) for suffix in suffixes]
