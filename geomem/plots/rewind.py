"""Figures of layer rewinds, each drawn from the rows alone.

They show the paper's figure 4A-B for every kind of rewind.
"""

import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style
from geomem.plots.figures import epoch_axis

_PANELS = ("test", "permuted")
_TITLES = {
  "single": "one layer alone",
  "suffix": "from a layer on",
  "prefix": "up to a layer",
  "custom": "chosen layers",
}


def _by_kind(rows: runs.Rows) -> dict[str, dict[str, runs.Rows]]:
  """Groups rows by kind, and by the layer at the border of the rewind.

  All are in the network's order; the rows have suffixes in reverse order.
  """
  by_kind = {}
  for kind in _TITLES:
    of_kind = rows.where(layer=None, kind=kind, subset=runs.SUBSETS)
    border = {"suffix": 0, "prefix": -1}.get(kind)
    sets = {}
    for rewound in of_kind.distinct("rewound"):
      name = rewound if border is None else rewound.split("+")[border]
      sets[name] = of_kind.where(rewound=rewound)
    if sets:
      by_kind[kind] = dict(reversed(sets.items())) if border == 0 else sets
  return by_kind


def _panels(rows: runs.Rows) -> list[str]:
  """Lists the subsets to draw; a run without permuted labels has one."""
  return [subset for subset in _PANELS if subset in rows.subsets]


@style.in_style
def plot_rewind_accuracy(rows) -> Figure | None:
  """Draws accuracy after a rewind by epoch, one curve per layer.

  Each kind has a row of panels. The dashed line is the epoch's own network.
  """
  kinds = _by_kind(rows)
  if not kinds:  # Nothing has been rewound yet.
    return None
  networks = rows.where(layer=None, kind=None, subset=runs.SUBSETS)
  panels = _panels(networks)
  size, shape = (8.6, 2.5 * len(kinds) + 0.5), (len(kinds), len(panels))
  figure, axes = style.new_axes(*size, *shape, sharex=True, sharey=True)
  last = float(max(rows.fact("last_epoch").values()))
  for (kind, sets), row_of_axes in zip(kinds.items(), axes, strict=True):
    for subset, ax in zip(panels, row_of_axes, strict=True):
      whole = networks.where("accuracy", subset=subset)
      look = {"color": "0.4", "ls": "--", "label": "all layers", "zorder": 3}
      style.draw_series(ax, whole, "epoch", **look)
      curves = {
        name: chosen.where("accuracy", subset=subset)
        for name, chosen in sets.items()
      }
      style.draw_layers(ax, curves, "epoch")
      style.accuracy_axis(ax, rows)
      epoch_axis(ax, last)
      ax.set_title(f"{subset}, {_TITLES[kind]}")
    row_of_axes[0].set_ylabel("accuracy")
    style.list_beside(ax, len(sets))
  for ax in axes[:-1].ravel():
    ax.set_xlabel("")
  for ax in axes[-1]:
    ax.set_xlabel("epoch that layers are put back to")
  return figure


@style.in_style
def plot_rewind_heatmaps(rows) -> Figure | None:
  """Draws how rewinds change test and permuted accuracy, by layer and epoch.

  Values are relative to the network of the last epoch: red is higher, blue
  lower. The dashed line is the best epoch.
  """
  kinds, at_last = _by_kind(rows), rows.at("last").where("accuracy", kind=None)
  if not kinds:
    return None
  of_last = at_last.where(layer=None)
  last = {
    (row["seed"], row["subset"]): value
    for row, value in zip(of_last, of_last.values, strict=True)
  }
  depth = max(map(len, kinds.values()))
  panels = _panels(at_last)
  size = 7.6, (0.2 * depth + 0.7) * len(kinds) + 0.4
  shape = len(kinds), len(panels)
  figure, axes = style.new_axes(*size, *shape)
  for (kind, sets), row_of_axes in zip(kinds.items(), axes, strict=True):
    for subset, ax in zip(panels, row_of_axes, strict=True):
      # A column may be of some seeds only: each is compared with itself.
      curves = [
        runs.Rows(
          row | {"value": value - last[row["seed"], subset]}
          for row, value in zip(chosen, chosen.values, strict=True)
        ).series("epoch")
        for chosen in (
          of_set.where("accuracy", subset=subset) for of_set in sets.values()
        )
      ]
      grid = np.stack([mean for _, mean, _ in curves])
      limits = {"vmin": -1, "vmax": 1}
      image = style.draw_heatmap(ax, grid, curves[0].x, rows, **limits)
      ax.set_yticks(range(len(sets)), map(style.shorten, sets), fontsize=7)
      ax.set_title(f"{subset}, {_TITLES[kind]}")
    row_of_axes[0].set_ylabel("layer")
  for ax in axes[-1]:
    ax.set_xlabel("epoch that layers are put back to")
  figure.colorbar(
    image, ax=axes, label="accuracy, less that of the last epoch's network"
  )
  style.explain(figure, axes.ravel())
  return figure


@style.in_style
def plot_recovered(rows) -> Figure | None:
  """Draws what rewinds to the best epoch recover (test), forget (permuted).

  A seed that was not rewound to its best epoch is drawn at the nearest one, and
  the epochs are named. Seeds without a loss, which have nothing to recover, are
  left out where others have one.
  """
  best = rows.epochs("best")
  drawn = rows.where("recovered").seeds or rows.seeds
  kinds = _by_kind(rows.where(seed=tuple(drawn)))
  if not kinds:
    return None
  epochs = {
    (row["seed"], row["epoch"])
    for sets in kinds.values()
    for chosen in sets.values()
    for row in chosen.nearest(best)
  }
  names = list(dict.fromkeys(n for sets in kinds.values() for n in sets))
  figure, (axes,) = style.new_axes(8.0, 3.4, 1, 2)
  panels = [("recovered", "test"), ("accuracy", "permuted")]
  looks = dict(
    zip(_TITLES, zip(style.CYCLE, "o<>D", strict=False), strict=True)
  )
  for kind, sets in kinds.items():
    color, marker = looks[kind]
    look = {"color": color, "marker": marker, "label": _TITLES[kind]}
    for (metric, subset), ax in zip(panels, axes, strict=True):
      by_set = [
        chosen.nearest(best).where(metric, subset=subset)
        for chosen in sets.values()
      ]
      if all(by_set):
        mean, error = np.array([of_set.mean() for of_set in by_set]).T
        places = [names.index(name) for name in sets]
        ax.errorbar(places, mean, error, capsize=2, **look)
  axes[0].set_ylabel("test accuracy recovered")
  axes[1].set_ylabel("permuted accuracy")
  style.draw_level(axes[0], 0, "last epoch (0) and best epoch (1)", ls="-.")
  style.draw_level(axes[0], 1, ls="-.")
  style.accuracy_axis(axes[1], rows)
  place = "the best epoch"
  if any(epoch != best[seed] for seed, epoch in epochs):
    place = f"{style.name_epochs(e for _, e in epochs)}, not the best"
  seeds = ""
  if drawn != rows.seeds:
    seeds = f"\n(seeds that lost accuracy: {', '.join(map(str, drawn))})"
  for ax in axes:
    ax.set_xlabel(f"layer, put back to {place}{seeds}")
    style.layer_axis(ax, dict(enumerate(map(style.shorten, names))))
    ax.set_xlim(-0.5, len(names) - 0.5)
  reasons = ("no test accuracy was lost", "no labels were permuted")
  for ax, reason in zip(axes, reasons, strict=True):
    if not ax.containers:
      look = {"ha": "center", "va": "center", "transform": ax.transAxes}
      ax.text(0.5, 0.5, reason, **look)
  style.explain(figure, axes, ncols=3)
  return figure


REWIND = {
  "accuracy_by_epoch": plot_rewind_accuracy,
  "heatmaps": plot_rewind_heatmaps,
  "recovered": plot_recovered,
}
