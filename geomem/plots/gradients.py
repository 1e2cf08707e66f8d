"""Figures of the gradients and of their n^-1/2 law, drawn from rows alone."""

import itertools

import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style
from geomem.plots.figures import epoch_axis

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
_LEVEL = {"color": "0.6", "lw": 0.8, "zorder": 0}
_SUBSETS = ("unpermuted", "permuted")
# Colours and lines of the parts; no subset has one of these colours.
_PARTS = {
  "label": (style.CYCLE[0], "-"),
  "independent": (style.CYCLE[1], "--"),
  "total": (style.CYCLE[2], ":"),
}
_MAX_GROUPS = 4
_LINE = 9  # Points from one line of small text to the next.


def _rms(values) -> float:
  return float(np.sqrt(np.mean(np.square(values))))


def _by_seed(norms: runs.Rows) -> runs.Rows:
  """Returns the root mean square over draws, one row a seed and size."""
  return runs.Rows(
    draws[0]
    | {
      "value": _rms(draws.values),
      "stderr": runs.mean_and_error(draws.values)[1],
    }
    for of_size in norms.split("num_examples").values()
    for draws in of_size.split("seed").values()
  )


@style.in_style
def plot_gradient_law(rows: runs.Rows) -> Figure | None:
  """Draws the label part's norm by the number of examples.

  Points are root mean squares over draws and seeds, with errors over seeds (of
  one seed over draws), lines are the fits with
  their slopes, crosses estimate the unpermuted part without the noise of n
  examples, and the dashed line is the n^-1/2 of labels without structure. The
  right panel shows the slope of every layer.
  """
  if not rows.where("law_norm"):  # It is measured last.
    return None
  ratios = {"width_ratios": (1.1, 1)}
  figure, ((left, right),) = style.new_axes(9, 3.6, 1, 2, **ratios)
  ends = []
  for drawn, labels in itertools.product(_DRAWN, _LABELS):
    _draw_norms(left, rows, drawn, labels, ends)
    _draw_slopes(right, rows, drawn, labels)
  _draw_unbiased(left, rows)
  _draw_guide(left, rows.where("law_norm", labels="centered"))
  _log_axes(left, rows.where("law_norm"))
  _name_slopes(left, ends)
  left.set(xlabel="examples $n$", ylabel="norm of the label part")
  right.axhline(-0.5, **_GUIDE)
  right.axhline(0, color="0.4", lw=0.9, ls=":")
  right.set_ylabel("slope")
  handles, names = left.get_legend_handles_labels()
  # The legend is filled by columns: centred above raw, the crosses last.
  order = sorted(range(len(names)), key=lambda i: names[i] in _LAST)
  ordered = ([entries[i] for i in order] for entries in (handles, names))
  style.draw_legend(figure, *ordered, ncols=4)
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


def _draw_norms(ax, rows, drawn: str, labels: str, ends: list) -> None:
  norms = rows.where("law_norm", drawn=drawn, labels=labels)
  if not norms:
    return
  x, mean, error = _by_seed(norms).series("num_examples", _rms)
  name = f"{_DRAWN[drawn][0]}, {_LABELS[labels]}"
  ax.errorbar(x, mean, error, **_look(drawn, labels), label=name)
  fit = rows.where("law_slope", layer=None, drawn=drawn, labels=labels)
  slope, _ = fit.mean()
  middle = [np.exp(np.log(values).mean()) for values in (x, mean)]
  fitted = middle[1] * (x / middle[0]) ** slope
  color, line = _DRAWN[drawn][1], "-" if labels == "centered" else ":"
  ax.plot(x, fitted, color=color, ls=line, lw=1)
  if labels == "centered" and np.isfinite(slope):
    ends.append((fitted[-1], x[-1], slope, color))


def _name_slopes(ax, ends) -> None:
  """Writes slopes at the ends of lines, above each other where these are near.

  `ends` holds y and x of the end of each line, its slope and colour.
  """
  height = 72 * ax.get_position().height * ax.figure.get_figheight()
  low, high = np.log(ax.get_ylim())
  below = -np.inf
  for y, x, slope, color in sorted(ends):
    place = height * np.log(y) / (high - low)  # In points, like the letters.
    raised = max(place, below + _LINE)
    below = raised
    ax.annotate(
      f"{slope:.3f}".replace("-", "\N{MINUS SIGN}"),
      (x, y),
      (7, raised - place - 3),
      textcoords="offset points",
      color=color,
      fontsize=8,
    )


def _draw_unbiased(ax, rows) -> None:
  own = rows.where(drawn="own", labels="centered")
  squares = own.where("law_squared_norm_unbiased")
  if squares:
    x, mean, _ = squares.series("num_examples")
    root = np.sqrt(np.where(mean > 0, mean, np.nan))
    ax.plot(x, root, "x", color=_DRAWN["own"][1], label=_WITHOUT_NOISE, ms=6)


def _draw_guide(ax, rows: runs.Rows) -> None:
  """Draws the slope of labels without structure, below all points."""
  by_size = rows.known().split("num_examples")
  x, lowest = np.array([(n, of.values.min()) for n, of in by_size.items()]).T
  guide = (x / x[0]) ** -0.5
  # A fifth below the lowest point relative to the guide.
  ax.plot(x, 0.8 * (lowest / guide).min() * guide, **_GUIDE, label=_LAW)


def _draw_slopes(ax, rows, drawn: str, labels: str) -> None:
  slopes = rows.where("law_slope")
  layers = list(slopes.layers.values())
  of_labels = runs.Rows(
    row | {"place": layers.index(row["layer"])}
    for row in slopes.where(drawn=drawn, labels=labels)
    if row["layer"] is not None
  )
  if of_labels:
    ax.errorbar(*of_labels.series("place"), **_look(drawn, labels))
    style.layer_axis(ax, dict(enumerate(layers)))


def _groups(rows) -> list[list[str]]:
  """Splits the layers with parameters into at most four consecutive groups."""
  layers = list(rows.where("norm", part="total").layers.values())
  parts = np.array_split(layers, min(_MAX_GROUPS, len(layers)))
  return [list(part) for part in parts]


def _group_rows(rows, metric: str, group, mode, subset, part) -> runs.Rows:
  """Combines a metric of several layers, by seed and epoch.

  Squared norms add up; a projection is an inner product with the total,
  divided by the total's norm.
  """
  rows = rows.where(mode=mode, subset=subset, layer=group)

  def by_layer(metric, **columns):
    selected = rows.where(metric, **columns)
    return {
      (row["seed"], row["epoch"], row["layer"]): value
      for row, value in zip(selected, selected.values, strict=True)
    }

  totals = by_layer("norm", part="total")
  values = by_layer(metric, part=part, labels="centered")
  combined = runs.Rows()
  for seed, epoch in sorted({key[:2] for key in totals}):
    total = np.array([totals[seed, epoch, layer] for layer in group])
    value = np.array([values.get((seed, epoch, n), np.nan) for n in group])
    if metric == "norm":
      of_group = np.linalg.norm(value)
    else:
      of_group = value @ total / max(np.linalg.norm(total), 1e-30)
    combined.append({"seed": seed, "epoch": epoch, "value": of_group})
  return combined


@style.in_style
def plot_gradient_parts(rows) -> Figure | None:
  """Draws the two parts by epoch and group of layers: figure A.1.

  Norms are above, signed projections on the total gradient below; the parts'
  projections add up to the total's norm. Training mode has rows of its own
  where it was measured.
  """
  if not rows.where("norm"):
    return None
  groups = _groups(rows)
  modes = [m for m in ("evaluation", "training") if rows.where("norm", mode=m)]
  shape = (2 * len(modes), len(groups))
  size = 2.6 * shape[1] + 0.6, 2.2 * shape[0] + 0.6
  figure, axes = style.new_axes(*size, *shape, sharex=True, sharey="row")
  names = {"norm": "norm", "projection": "projection on total"}
  for (mode, metric), row_of_axes in zip(
    itertools.product(modes, names), axes, strict=True
  ):
    for ax, group in zip(row_of_axes, groups, strict=True):
      for subset, part in itertools.product(_SUBSETS, ("label", "independent")):
        combined = _group_rows(rows, metric, group, mode, subset, part)
        look = {"color": style.COLORS[subset], "ls": _PARTS[part][1]}
        label = f"{subset}, {part}"
        style.draw_series(ax, combined, "epoch", **look, label=label)
      if metric == "norm":
        ax.set_yscale("log")
      else:
        # The projection at the first epoch is far larger than later ones.
        ax.set_yscale("symlog", linthresh=1)
        ax.axhline(0, **_LEVEL)
      style.mark_best(ax, rows)
    where = f"\n({mode} mode)" if len(modes) > 1 else ""
    row_of_axes[0].set_ylabel(names[metric] + where)
  for ax, group in zip(axes[0], groups, strict=True):
    ax.set_title(" to ".join(dict.fromkeys((group[0], group[-1]))))
  for ax in axes[-1]:
    epoch_axis(ax, float(max(rows.where("norm").distinct("epoch"))))
  style.explain(figure, axes[0][:1])
  return figure


@style.in_style
def plot_gradient_comparison(rows) -> Figure | None:
  """Draws permuted against unpermuted, and how far parts cancel.

  Values are of the whole network, in evaluation mode, with centred labels. The
  ratio is drawn as measured, and without the noise of a finite set.
  """
  if not rows.where("ratio"):
    return None
  figure, (axes,) = style.new_axes(10.5, 3.5, 1, 3)
  at = {"layer": None, "mode": "evaluation"}
  label = {"part": "label", "labels": "centered"}
  ratios = {
    "ratio": ("as measured", None),
    "ratio_unbiased": ("less the noise of n\n(below 0: only noise)", "w"),
  }
  for metric, (name, fill) in ratios.items():
    values = rows.where(metric, **at, **label)
    look = {"color": _PARTS["label"][0], "marker": "o", "mfc": fill}
    _draw(axes[0], values, **look, label=f"label part, {name}")
  for level in (0, 1):
    axes[0].axhline(level, **_LEVEL)
  axes[0].set_ylabel("norm, permuted / unpermuted")
  for part, (color, line) in _PARTS.items():
    labels, name = "centered", f"{part} part"
    if part == "total":
      labels, name = None, part
    values = rows.where("cosine", **at, part=part, labels=labels)
    _draw(axes[1], values, color=color, ls=line, label=name, marker="o")
  axes[1].set_ylabel("cosine, permuted with unpermuted")
  axes[1].set_ylim(-1.05, 1.05)
  axes[1].axhline(0, **_LEVEL)
  values = rows.where("cancellation", **at, labels="centered")
  style.draw_subsets(axes[2], values, "epoch")
  axes[2].set_ylabel("cancellation of the two parts")
  axes[2].set_ylim(-0.02, 1.02)
  last = max(rows.where("ratio", **at, **label).distinct("epoch"))
  for ax in axes:
    style.mark_best(ax, rows)
    epoch_axis(ax, last)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
    ax.legend(**place, fontsize=7.5, columnspacing=1)
  return figure


def _draw(ax, rows, **look) -> None:
  if rows:
    style.draw_series(ax, rows, "epoch", **look)


GRADIENTS = {
  "gradient_parts": plot_gradient_parts,
  "gradient_comparison": plot_gradient_comparison,
  "gradient_law": plot_gradient_law,
}
