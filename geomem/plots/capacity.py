"""Figures of simulated against theoretical capacity, such as figure 1B."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geomem import runs
from geomem.plots import style

_TITLES = {
  "none": "centres as they are",
  "low_rank": "shared directions removed",
}
_CHANCE = f"chance = 2/M\n{style.CHANCE_HOLDS}"
_SIMULATED = "simulation,\nif separable in all features"
_MARKERS = "osD^vP"


def _looks(rows: runs.Rows) -> dict[str, dict]:
  """Returns the colour and marker of each subset, or family of manifolds."""
  return {
    group: {
      "color": style.COLORS.get(group, style.CYCLE[i % len(style.CYCLE)]),
      "marker": style.MARKERS.get(group, _MARKERS[i % len(_MARKERS)]),
    }
    for i, group in enumerate(rows.subsets or rows.distinct("subset"))
  }


def _identity(row) -> tuple:
  names = ("seed", "epoch", "layer", "subset", "centers", "manifold_radius")
  return tuple(row.get(name) for name in names)


def believed_capacities(rows: runs.Rows) -> runs.Rows:
  """Selects theoretical capacities that are known and to be believed.

  Old rows do not say whether their problems were solved.
  """
  solved = rows.where("converged")
  bad = {
    _identity(row)
    for row in solved
    if not (runs.has_value(row) and row["value"] >= 1)
  }
  return runs.Rows(
    row for row in rows.where("capacity").known() if _identity(row) not in bad
  )


def pair_capacities(rows: runs.Rows) -> list[tuple[runs.Row, runs.Row]]:
  """Pairs theory and simulation of the same manifolds, if both are known."""
  simulated = rows.where("simulated_capacity").known()
  partners = {_identity(row): row for row in simulated}
  return [
    (row, partners[_identity(row)])
    for row in believed_capacities(rows)
    if _identity(row) in partners
  ]


def name_of_set(columns: dict) -> str:
  """Names the manifold set of a row of the capacity study."""
  names = ("layer", "subset", "manifold_radius", "epoch")
  words = {"manifold_radius": "R=", "epoch": "epoch "}
  return " ".join(
    f"{words.get(name, '')}{columns[name]}"
    for name in names
    if columns.get(name) is not None
  )


def _pairs(rows: runs.Rows) -> np.ndarray:
  """Returns `[n, 4]`: theory, its error, simulation, its error."""
  pairs = [
    (a["value"], a["stderr"], b["value"], b["stderr"])
    for a, b in pair_capacities(rows)
  ]
  return np.array(pairs, float).reshape(-1, 4)  # No error is NaN.


def _points(rows) -> list[int]:
  """Lists M, the points per manifold; old rows do not record it."""
  return [int(m) for m in rows.where("manifold_points").distinct("value")]


def _draw_scatter(ax, rows, looks, line) -> None:
  """Draws simulation against theory, with the line of equality."""
  band = {"color": "0.9", "lw": 0, "zorder": 0, "label": "within 10%"}
  ax.fill_between(line, line / 1.1, line * 1.1, **band)
  ax.plot(line, line, color="0.5", lw=0.8, zorder=1)
  if len(_points(rows)) == 1:
    (chance,) = 2 / np.array(_points(rows))
    style.draw_level(ax, chance, _CHANCE)
    ax.axvline(chance, color="0.4", lw=0.9, ls=":", zorder=0)
  for group, look in looks.items():
    x, dx, y, dy = _pairs(rows.where(subset=group)).T
    look = look | {"ls": "", "lw": 0.8, "ms": 4, "alpha": 0.8}
    ax.errorbar(x, y, dy, dx, label=group, **look)
  for axis in (ax.xaxis, ax.yaxis):
    style.log_axis(axis)
  ax.set(xlim=line, ylim=line, box_aspect=1)
  ax.set_xlabel(r"capacity $\alpha_M$, mean-field theory")
  ax.set_ylabel("capacity, simulated")


@style.in_style
def plot_capacity(rows) -> Figure | None:
  """Draws simulated against theoretical capacity: figure 1B.

  One panel for each treatment of the centres, all with the same limits; the
  grey band is within 10%. Sets that are not separable, or not to be believed,
  are left out; without any others, the result is None.
  """
  everything = _pairs(rows)[:, [0, 2]]
  if not everything.size:
    return None
  treatments, looks = rows.distinct("centers"), _looks(rows)
  count = len(treatments)
  figure, (axes,) = style.new_axes(3.6 * count + 0.2, 5, 1, count)
  line = np.array([everything.min() / 1.3, everything.max() * 1.3])
  for ax, centers in zip(axes, treatments, strict=True):
    _draw_scatter(ax, rows.where(centers=centers), looks, line)
    ax.set_title(_TITLES[centers])
  style.explain(figure, axes, ncols=3 if len(looks) > 4 else 6)
  return figure


def _draw_series(ax, rows, along: str, look) -> None:
  """Draws theory as a line, simulation as markers, the null as dash-dots.

  A mean of the seeds that are separable alone would be too large: where one is
  not, there is no marker.
  """
  x, mean, _ = rows.where("capacity").series(along)
  ax.plot(x, mean, color=look["color"])
  x, mean, error = rows.where("simulated_capacity").series(along)
  ax.errorbar(x, mean, error, ls="", lw=0.8, **look)
  x, mean, _ = rows.where("null_capacity").series(along)
  ax.plot(x, mean, color=look["color"], ls="-.", lw=0.9)
  for m in _points(rows):
    style.draw_level(ax, 2 / m, _CHANCE)
  style.log_axis(ax.yaxis)


def _explain(figure: Figure) -> None:
  handles = [
    Line2D([], [], color="0.3", label="theory"),
    Line2D([], [], color="0.3", ls="", marker="o", label=_SIMULATED),
    Line2D([], [], color="0.3", ls="-.", lw=0.9, label="labels shuffled"),
    Line2D([], [], color="0.4", ls=":", lw=0.9, label=_CHANCE),
  ]
  style.explain(figure, [], further=handles, ncols=4)


@style.in_style
def plot_capacity_by_layer(rows) -> Figure | None:
  """Draws theory and simulation by layer, with shared directions removed.

  A column for each subset; a row for each epoch of a seed, earlier first.
  """
  rows = rows.where(centers="low_rank")
  if not rows.where("capacity"):
    return None
  looks = _looks(rows)
  ranked = {
    seed: sorted(measured.distinct("epoch"))
    for seed, measured in rows.split("seed").items()
  }
  count = max(map(len, ranked.values()))
  points = "".join(f", M = {m}" for m in _points(rows))
  size = 2.5 * len(looks) + 0.4, 2.3 * count + 0.9
  figure, axes = style.new_axes(
    *size, count, len(looks), sharex=True, sharey=True
  )
  for number, row_of_axes in enumerate(axes):
    chosen = {s: e[min(number, len(e) - 1)] for s, e in ranked.items()}
    measured = runs.Rows(r for r in rows if r["epoch"] == chosen[r["seed"]])
    epochs = style.name_epochs(chosen.values())
    for (group, look), ax in zip(looks.items(), row_of_axes, strict=True):
      _draw_series(ax, measured.where(subset=group), "layer_index", look)
      ax.set_title(f"{group}, {epochs}{points}")
      style.layer_axis(ax, rows.layers)
    row_of_axes[0].set_ylabel(style.label_of("capacity"))
  _explain(figure)
  return figure


@style.in_style
def plot_capacity_by_radius(rows) -> Figure | None:
  """Draws theory and simulation of synthetic manifolds by radius."""
  looks = _looks(rows)
  looks.pop("points", None)
  if not looks:
    return None
  figure, (axes,) = style.new_axes(
    2.1 * len(looks) + 0.4, 3.1, 1, len(looks), sharey=True
  )
  for (group, look), ax in zip(looks.items(), axes, strict=True):
    of_group = rows.where(subset=group)
    # If both treatments exist, this is `low_rank`: shared directions removed.
    of_group = of_group.where(centers=min(of_group.distinct("centers")))
    _draw_series(ax, of_group, "manifold_radius", look)
    style.log_axis(ax.xaxis)
    ax.set_title(", ".join([group, *(f"M = {m}" for m in _points(of_group))]))
    ax.set_xlabel("radius (centre norms)")
  axes[0].set_ylabel(style.label_of("capacity"))
  _explain(figure)
  return figure


def plot_capacity_along(rows) -> Figure | None:
  """Draws capacity by layer for a run, by radius for synthetic manifolds."""
  if rows.layers:
    return plot_capacity_by_layer(rows)
  return plot_capacity_by_radius(rows)


CAPACITY = {"capacity": plot_capacity, "capacity_along": plot_capacity_along}
