"""The figures of layer rewinds, each from the rows alone.

The paper's figure 4A-B, and the same for every kind of rewind.
"""

import matplotlib
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


def _sets(rows: runs.Rows, kind: str | None) -> dict[str | None, runs.Rows]:
  """Groups rows of whole networks by what is rewound, in their order."""
  sets: dict[str | None, runs.Rows] = {}
  for row in rows.where(layer=None, kind=kind):
    if row["subset"]:
      sets.setdefault(row.get("rewound"), runs.Rows()).append(row)
  return sets


def _by_kind(rows) -> dict[str, dict[str, list[dict]]]:
  """Groups rows by kind, and by the layer at the rewind's border.

  All in the network's order, in which rows hold the suffixes backwards.
  """
  found = {}
  for kind in _TITLES:
    border = {"suffix": 0, "prefix": -1}.get(kind)
    named = [
      (rewound if border is None else rewound.split("+")[border], chosen)
      for rewound, chosen in _sets(rows, kind).items()
    ]
    if named:
      found[kind] = dict(named[::-1] if kind == "suffix" else named)
  return found


def plot_rewind_accuracy(rows) -> Figure:
  """Draws accuracy after a rewind by epoch, one curve a layer.

  A row of panels for each kind. Dashed: the network of that epoch itself.
  """
  kinds, whole = _by_kind(rows), _sets(rows, None)[None]
  figure = style.new_figure(8.6, 2.5 * len(kinds) + 0.5)
  axes = figure.subplots(
    len(kinds), len(_PANELS), sharex=True, sharey=True, squeeze=False
  )
  last = float(max(rows.fact("last_epoch").values()))
  for (kind, sets), row_of_axes in zip(kinds.items(), axes, strict=True):
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.93, len(sets)))
    for subset, ax in zip(_PANELS, row_of_axes, strict=True):
      x, mean, _ = whole.where("accuracy", subset=subset).series("epoch")
      ax.plot(x, mean, color="0.4", ls="--", label="all layers", zorder=3)
      for (name, chosen), color in zip(sets.items(), colors, strict=True):
        series = chosen.where("accuracy", subset=subset).series("epoch")
        look = {"color": color, "marker": ".", "label": name}
        style.draw_series(ax, series, **look)
      style.draw_chance_accuracy(ax, rows)
      epoch_axis(ax, last)
      ax.set_ylim(-0.02, 1.02)
      ax.set_title(f"{subset}, {_TITLES[kind]}")
    row_of_axes[0].set_ylabel("accuracy")
    ax.legend(
      loc="center left",
      bbox_to_anchor=(1, 0.5),
      fontsize=6.5,
      ncols=1 + len(sets) // 10,
      columnspacing=1,
    )
  for ax in axes[:-1].ravel():
    ax.set_xlabel("")
  for ax in axes[-1]:
    ax.set_xlabel("epoch that layers are put back to")
  return figure


def plot_rewind_heatmaps(rows) -> Figure:
  """Draws what rewinds change of test and permuted accuracy.

  By layer and epoch, against the network of the last epoch: red is higher, blue
  lower. Dashed: the best epoch.
  """
  kinds, whole = _by_kind(rows), rows.at("last").where("accuracy", kind=None)
  last = {
    subset: whole.where(subset=subset, layer=None).mean()[0]
    for subset in _PANELS
  }
  depth = max(map(len, kinds.values()))
  figure = style.new_figure(7.6, (0.2 * depth + 0.7) * len(kinds) + 0.4)
  axes = figure.subplots(len(kinds), len(_PANELS), squeeze=False)
  for (kind, sets), row_of_axes in zip(kinds.items(), axes, strict=True):
    for subset, ax in zip(_PANELS, row_of_axes, strict=True):
      found = [
        chosen.where("accuracy", subset=subset).series("epoch")
        for chosen in sets.values()
      ]
      epochs = found[0][0]
      image = ax.imshow(
        np.stack([mean for _, mean, _ in found]) - last[subset],
        aspect="auto",
        cmap=style.DIVERGING,
        vmin=-1,
        vmax=1,
      )
      ax.set_yticks(range(len(sets)), sets, fontsize=7)
      style.epoch_columns(ax, epochs)
      ax.set_title(f"{subset}, {_TITLES[kind]}")
      style.mark_best(ax, rows, epochs)
    row_of_axes[0].set_ylabel("layer")
  for ax in axes[-1]:
    ax.set_xlabel("epoch that layers are put back to")
  figure.colorbar(
    image, ax=axes, label="accuracy, less that of the last epoch's network"
  )
  style.explain(figure, axes[:, 0])
  return figure


def _nearest(rows: runs.Rows, best: dict[int, int]) -> runs.Rows:
  """Selects each seed's rows at the epoch that is nearest to its best one."""
  found = runs.Rows()
  for seed, here in rows.split("seed").items():
    epochs = here.distinct("epoch")
    nearest = min(sorted(epochs), key=lambda e: abs(e - best[seed]))
    found += here.where(epoch=nearest)
  return found


def plot_recovered(rows) -> Figure:
  """Draws what rewinds to the best epoch recover, and forget."""
  kinds, best = _by_kind(rows), rows.fact("best_epoch")
  figure = style.new_figure(8.0, 3.4)
  axes = figure.subplots(1, 2)
  panels = [("recovered", "test"), ("accuracy", "permuted")]
  markers = zip(style.CYCLE, "o<>D", strict=False)
  for (kind, sets), (color, marker) in zip(
    kinds.items(), markers, strict=False
  ):
    look = {"color": color, "marker": marker, "label": _TITLES[kind]}
    for (metric, subset), ax in zip(panels, axes, strict=True):
      found = [
        _nearest(chosen, best).where(metric, subset=subset)
        for chosen in sets.values()
      ]
      if all(found):
        mean, error = np.array([of_set.mean() for of_set in found]).T
        ax.errorbar(list(sets), mean, error, capsize=2, **look)
  axes[0].set_ylabel("test accuracy recovered")
  axes[1].set_ylabel("permuted accuracy")
  style.draw_level(axes[0], 0, "last epoch (0) and best epoch (1)")
  style.draw_level(axes[0], 1)
  style.draw_chance_accuracy(axes[1], rows)
  axes[1].set_ylim(-0.02, 1.02)
  for ax in axes:
    ax.set_xlabel("layer, put back to the best epoch")
    ax.tick_params(axis="x", rotation=90, labelsize=7)
  style.explain(figure, axes, ncols=3)
  return figure


REWIND = {
  "accuracy_by_epoch": plot_rewind_accuracy,
  "heatmaps": plot_rewind_heatmaps,
  "recovered": plot_recovered,
}
