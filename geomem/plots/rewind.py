"""The figures of layer rewinds, each from the rows alone.

The paper's figure 4A-B, and the same for every kind of rewind.
"""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from geomem import runs
from geomem.plots import style
from geomem.plots.figures import epoch_axis, mark_best

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


def _chance(rows) -> float:
  return next(iter(rows.fact("chance_accuracy").values()))


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
      ax.axhline(_chance(rows), color="0.4", lw=0.9, ls=":", label="chance")
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
  """Draws test and permuted accuracy by layer and epoch."""
  kinds = _by_kind(rows)
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
        np.stack([mean for _, mean, _ in found]),
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
      )
      ax.set_yticks(range(len(sets)), sets, fontsize=7)
      ax.set_xticks(range(len(epochs)), epochs, fontsize=7)
      ax.set_title(f"{subset}, {_TITLES[kind]}")
      mark_best(ax, rows, epochs)
    row_of_axes[0].set_ylabel("layer")
  for ax in axes[-1]:
    ax.set_xlabel("epoch that layers are put back to")
  figure.colorbar(image, ax=axes, label="accuracy")
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
        ax.errorbar(list(sets), mean, error, **look)
  axes[0].set_ylabel("test accuracy recovered")
  axes[1].set_ylabel("permuted accuracy")
  axes[0].axhline(1, color="0.4", lw=0.9, ls="--")
  axes[1].axhline(_chance(rows), color="0.4", lw=0.9, ls=":", label="chance")
  axes[1].set_ylim(-0.02, 1.02)
  for ax in axes:
    ax.set_xlabel("layer, put back to the best epoch")
    ax.tick_params(axis="x", rotation=90, labelsize=7)
  handles, labels = axes[1].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside upper center", ncols=4)
  return figure


REWIND = {
  "accuracy_by_epoch": plot_rewind_accuracy,
  "heatmaps": plot_rewind_heatmaps,
  "recovered": plot_recovered,
}
