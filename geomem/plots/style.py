"""One look for all figures: colours, sizes, and how they are saved."""

import io
import pathlib

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from geomem import disk, measures, runs

# Okabe and Ito's colours, which the colour-blind tell apart; the hues follow
# the paper's legend. Markers say the same once more, for print without colour.
COLORS = {
  "unpermuted": "#0072B2",
  "permuted": "#E69F00",
  "restored": "#009E73",
  "test": "#D55E00",
}
MARKERS = {"unpermuted": "o", "permuted": "s", "restored": "^", "test": "D"}
# For what has no colour of its own.
CYCLE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_STYLE = {
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "legend.frameon": False,
  "lines.markersize": 4,
  "lines.linewidth": 1.3,
  "pdf.fonttype": 42,
}


def new_figure(width: float | int, height: float | int) -> Figure:
  """Makes an empty figure, in inches."""
  matplotlib.rcParams.update(_STYLE)
  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def draw_band(ax, x, mean, error, **look) -> None:
  """Draws a line in a band of one standard error."""
  x, mean, error = (np.asarray(values, float) for values in (x, mean, error))
  (line,) = ax.plot(x, mean, **look)
  ax.fill_between(
    x, mean - error, mean + error, color=line.get_color(), alpha=0.2, lw=0
  )


def label_of(metric: str) -> str:
  """Returns the label of a metric's axis."""
  known = measures.METRICS.get(metric)
  return known.label if known else metric


def draw_series(ax, series: runs.Series, **look) -> None:
  """Draws a series as a line, in a band of one standard error."""
  draw_band(ax, *series, **look)


def log_axis(axis) -> None:
  """Makes an axis logarithmic, over about a decade, with plain numbers."""
  axis.axes.set_yscale("log")
  axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
  axis.set_minor_formatter(ticker.NullFormatter())


def metric_axis(ax, metric: str, rows: runs.Rows) -> None:
  """Scales and labels a y-axis for a metric, with its chance level."""
  known = measures.METRICS.get(metric)
  ax.set_ylabel(label_of(metric))
  if known and known.scale == "log":
    log_axis(ax.yaxis)
  if known and known.has_chance:
    draw_chance(ax, rows)


def draw_chance(ax, rows: runs.Rows) -> None:
  """Draws a line at the capacity of points without structure."""
  ax.axhline(
    rows.chance_capacity(), color="0.4", lw=0.9, ls=":", label="chance"
  )


def look_of(subset: str) -> dict[str, str]:
  """Returns colour and marker of a subset."""
  return {"color": COLORS[subset], "marker": MARKERS[subset]}


def save_figure(figure: Figure, path: pathlib.Path) -> list[pathlib.Path]:
  """Writes PNG and PDF beside each other, each whole or not at all."""
  with disk.explained(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
  disk.remove_partial(path.parent)
  written = []
  for suffix in (".png", ".pdf"):
    # In memory first: on a disk that is full, Matplotlib's own errors are many.
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=160)
    target = path.with_suffix(suffix)
    disk.write_whole(target, buffer.getvalue())
    written.append(target)
  return written
