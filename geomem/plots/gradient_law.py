"""The figure of the n^-1/2 law, drawn from the rows alone."""

import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style

# How labels were drawn -> name, colour, marker.
_DRAWN = {
  "own": ("unpermuted", style.COLORS["unpermuted"], "o"),
  "shuffled": ("permuted", style.COLORS["permuted"], "s"),
  "independent": ("labels drawn anew", style.CYCLE[2], "v"),
}
_LABELS = {"centered": "centred", "raw": "raw"}
_WITHOUT_NOISE, _LAW = "unpermuted, without noise", "slope $-1/2$"
_LAST = (_WITHOUT_NOISE, _LAW)
_GUIDE = {"color": "0.5", "lw": 1.2, "ls": (0, (6, 3)), "zorder": 0}


def _rms(values) -> float:
  return float(np.sqrt(np.mean(np.square(values))))


def plot_gradient_law(rows: runs.Rows) -> Figure:
  """Draws the label part's norm by the number of examples.

  Points are root mean squares over draws and seeds, lines are the fits with
  their slopes, crosses estimate the unpermuted part without the noise of n
  examples, and the dashed line is the n^-1/2 of labels without structure. The
  right panel shows the slope of every layer.
  """
  rows = rows.known()
  figure = style.new_figure(9, 3.6)
  left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
  for drawn in _DRAWN:
    for labels in _LABELS:
      _draw_norms(left, rows, drawn, labels)
  _draw_unbiased(left, rows)
  _draw_guide(left, rows.where("law_norm", labels="centered"))
  _log_axes(left, rows.where("law_norm"))
  left.set_xlabel("examples $n$")
  left.set_ylabel("norm of the label part")
  for drawn in _DRAWN:
    for labels in _LABELS:
      _draw_slopes(right, rows, drawn, labels)
  right.axhline(-0.5, **_GUIDE)
  right.axhline(0, color="0.4", lw=0.9, ls=":")
  right.set_ylabel("slope")
  handles, names = left.get_legend_handles_labels()
  # The legend is filled by columns: centred above raw, the crosses last.
  order = sorted(range(len(names)), key=lambda i: names[i] in _LAST)
  figure.legend(
    [handles[i] for i in order],
    [names[i] for i in order],
    loc="outside upper center",
    ncols=4,
  )
  return figure


def _log_axes(ax, rows) -> None:
  """Labels logarithmic axes with plain numbers."""
  ax.set_xscale("log")
  style.log_axis(ax.yaxis)
  sizes = sorted({row["num_examples"] for row in rows})
  # The largest size may be too close to the power of two before it.
  ticks = [n for n in sizes if n == sizes[-1] or n < 0.75 * sizes[-1]]
  ax.set_xticks(ticks, [str(n) for n in ticks])
  ax.set_xlim(0.85 * sizes[0], 1.6 * sizes[-1])
  ax.minorticks_off()


def _look(drawn: str, labels: str) -> dict:
  _, color, marker = _DRAWN[drawn]
  fill = color if labels == "centered" else "none"
  return {"color": color, "marker": marker, "mfc": fill, "ms": 6, "ls": "none"}


def _draw_norms(ax, rows, drawn: str, labels: str) -> None:
  norms = rows.where("law_norm", drawn=drawn, labels=labels)
  if not norms:
    return
  x, mean, error = norms.series("num_examples", _rms)
  name = f"{_DRAWN[drawn][0]}, {_LABELS[labels]}"
  ax.errorbar(x, mean, error, **_look(drawn, labels), label=name)
  fit = rows.where("law_slope", layer=None, drawn=drawn, labels=labels)
  slope = np.mean([row["value"] for row in fit])
  middle = [np.exp(np.log(values).mean()) for values in (x, mean)]
  color = _DRAWN[drawn][1]
  line = "-" if labels == "centered" else ":"
  fitted = middle[1] * (x / middle[0]) ** slope
  ax.plot(x, fitted, color=color, ls=line, lw=1)
  if labels == "centered":
    # The two fits of random labels end close to each other.
    shift = {"shuffled": -9, "independent": 3}.get(drawn, -3)
    ax.annotate(
      f"{slope:.3f}".replace("-", "\N{MINUS SIGN}"),
      (x[-1], fitted[-1]),
      (7, shift),
      textcoords="offset points",
      color=color,
      fontsize=8,
    )


def _draw_unbiased(ax, rows) -> None:
  metric = "law_squared_norm_unbiased"
  squares = rows.where(metric, drawn="own", labels="centered")
  if squares:
    x, mean, _ = squares.series("num_examples")
    root = np.sqrt(np.where(mean > 0, mean, np.nan))
    color = _DRAWN["own"][1]
    ax.plot(x, root, "x", color=color, label=_WITHOUT_NOISE, ms=6)


def _draw_guide(ax, rows: runs.Rows) -> None:
  """Draws the slope of labels without structure, below all points."""
  x, mean, _ = rows.series("num_examples", np.min)
  guide = (x / x[0]) ** -0.5
  # A fifth below the lowest point relative to the guide.
  ax.plot(x, 0.8 * (mean / guide).min() * guide, **_GUIDE, label=_LAW)


def _draw_slopes(ax, rows, drawn: str, labels: str) -> None:
  slopes = rows.where("law_slope")
  layers = list(slopes.layers.values())
  of_labels = runs.Rows(
    row | {"place": layers.index(row["layer"])}
    for row in slopes.where(drawn=drawn, labels=labels)
    if row["layer"] is not None
  )
  if not of_labels:
    return
  ax.errorbar(*of_labels.series("place"), **_look(drawn, labels))
  ax.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
