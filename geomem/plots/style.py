"""One look for all figures: colours, sizes, and how they are saved."""

import io
import pathlib

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from geomem import disk

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
LABELS = {
  "capacity": r"capacity $\alpha_M$",
  "radius": r"radius $R_M$ (centre norms)",
  "dimension": r"dimension $D_M$",
  "accuracy": "accuracy",
}
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
  """An empty figure, in inches."""
  matplotlib.rcParams.update(_STYLE)
  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def draw_band(ax, x, mean, error, **look) -> None:
  """A line, in a band of one standard error."""
  x, mean, error = (np.asarray(values, float) for values in (x, mean, error))
  (line,) = ax.plot(x, mean, **look)
  ax.fill_between(
    x, mean - error, mean + error, color=line.get_color(), alpha=0.2, lw=0
  )


def look_of(subset: str) -> dict[str, str]:
  """Colour and marker of a subset."""
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
