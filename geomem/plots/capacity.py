"""Figures of simulated against theoretical capacity, such as figure 1B."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from geomem import runs
from geomem.plots import style

_TITLES = {"none": "centres as they are", "low_rank": "shared directions out"}
_CHANCE = "chance = 2/M"
_MARKERS = "osD^vP"


def _groups(rows: runs.Rows) -> list[str]:
  """Lists a run's subsets in the paper's order, or families of manifolds."""
  return rows.subsets or rows.distinct("subset")


def _look(groups: list[str]) -> dict[str, dict]:
  """Returns the colour and marker of each group."""
  return {
    group: {
      "color": style.COLORS.get(group, style.CYCLE[i % len(style.CYCLE)]),
      "marker": style.MARKERS.get(group, _MARKERS[i % len(_MARKERS)]),
    }
    for i, group in enumerate(groups)
  }


def _identity(row) -> tuple:
  names = ("seed", "epoch", "layer", "subset", "centers", "manifold_radius")
  return tuple(row.get(name) for name in names)


def believed_capacities(rows: runs.Rows) -> runs.Rows:
  """Selects theoretical capacities that are known and to be believed.

  Old rows do not say whether their problems were solved.
  """
  solved = rows.where("converged")
  bad = {_identity(row) for row in solved if not row["value"] >= 1}
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


def _draw_chance(ax, rows) -> None:
  """Draws the capacity of points without structure."""
  for m in _points(rows):
    style.draw_level(ax, 2 / m, _CHANCE)


def _draw_scatter(ax, rows, look, line) -> None:
  """Draws simulation against theory, with the line of equality."""
  ax.fill_between(
    line,
    line / 1.1,
    line * 1.1,
    color="0.9",
    lw=0,
    zorder=0,
    label="within 10 %",
  )
  ax.plot(line, line, color="0.5", lw=0.8, zorder=1)
  if len(_points(rows)) == 1:
    _draw_chance(ax, rows)
    ax.axvline(2 / _points(rows)[0], color="0.4", lw=0.9, ls=":", zorder=0)
  for group, kind in look.items():
    of_group = rows.where(subset=group)
    x, dx, y, dy = _pairs(of_group).T
    ax.errorbar(
      x, y, dy, dx, ls="", lw=0.8, ms=4, alpha=0.8, label=group, **kind
    )
  for axis in (ax.xaxis, ax.yaxis):
    style.log_axis(axis)
  ax.set(xlim=line, ylim=line, box_aspect=1)
  ax.set_xlabel(r"capacity $\alpha_M$, mean-field theory")
  ax.set_ylabel("capacity, simulated")


def plot_capacity(rows) -> Figure | None:
  """Draws simulated against theoretical capacity: figure 1B.

  One panel for each treatment of the centres, all with the same limits; the
  grey band is within 10 %. Sets that are not separable, or not to be believed,
  are left out; without any others, the result is None.
  """
  everything = _pairs(rows)[:, [0, 2]]
  if not everything.size:
    return None
  treatments = rows.distinct("centers")
  look = _look(_groups(rows))
  figure = style.new_figure(3.6 * len(treatments) + 0.2, 4.4)
  axes = figure.subplots(1, len(treatments), squeeze=False)[0]
  line = np.array([everything.min() / 1.3, everything.max() * 1.3])
  for ax, centers in zip(axes, treatments, strict=True):
    treated = rows.where(centers=centers)
    _draw_scatter(ax, treated, look, line)
    ax.set_title(_TITLES[centers])
  style.explain(figure, axes, ncols=3 if len(look) > 4 else 6)
  return figure


def _draw_series(ax, rows, along: str, kind) -> None:
  """Draws theory as a line, simulation as markers, the null as dash-dots.

  A mean of the seeds that are separable alone would be too large: where one is
  not, there is no marker.
  """
  x, mean, _ = rows.where("capacity").series(along)
  ax.plot(x, mean, color=kind["color"])
  x, mean, error = rows.where("simulated_capacity").series(along)
  ax.errorbar(x, mean, error, ls="", lw=0.8, **kind)
  x, mean, _ = rows.where("null_capacity").series(along)
  ax.plot(x, mean, color=kind["color"], ls="-.", lw=0.9)
  _draw_chance(ax, rows)
  style.log_axis(ax.yaxis)


def _explain(figure: Figure) -> None:
  handles = [
    Line2D([], [], color="0.3", label="theory"),
    Line2D([], [], color="0.3", ls="", marker="o", label="simulation"),
    Line2D([], [], color="0.3", ls="-.", lw=0.9, label="labels shuffled"),
    Line2D([], [], color="0.4", ls=":", lw=0.9, label=_CHANCE),
  ]
  figure.legend(handles=handles, loc="outside upper center", ncols=4)


def plot_capacity_by_layer(rows) -> Figure:
  """Draws theory and simulation by layer, with shared directions removed.

  A column for each subset; a row for each epoch of a seed, earlier first.
  """
  rows = rows.where(centers="low_rank")
  groups, layers = _groups(rows), rows.layers
  look = _look(groups)
  ranked = {
    seed: sorted(measured.distinct("epoch"))
    for seed, measured in rows.split("seed").items()
  }
  count = max(map(len, ranked.values()))
  points = "".join(f", M = {m}" for m in _points(rows))
  figure = style.new_figure(2.5 * len(groups) + 0.4, 2.3 * count + 0.9)
  axes = figure.subplots(
    count, len(groups), sharex=True, sharey=True, squeeze=False
  )
  for number, row_of_axes in enumerate(axes):
    chosen = {s: e[min(number, len(e) - 1)] for s, e in ranked.items()}
    measured = runs.Rows(r for r in rows if r["epoch"] == chosen[r["seed"]])
    for group, ax in zip(groups, row_of_axes, strict=True):
      of_group = measured.where(subset=group)
      _draw_series(ax, of_group, "layer_index", look[group])
      epochs = style.name_epochs(chosen.values())
      ax.set_title(f"{group}, {epochs}{points}")
      ax.set_xticks(
        list(layers), list(layers.values()), rotation=90, fontsize=7
      )
    row_of_axes[0].set_ylabel(style.label_of("capacity"))
  _explain(figure)
  return figure


def plot_capacity_by_radius(rows) -> Figure:
  """Draws theory and simulation of synthetic manifolds by radius."""
  groups = [group for group in _groups(rows) if group != "points"]
  look = _look(_groups(rows))
  figure = style.new_figure(2.1 * len(groups) + 0.4, 3.1)
  axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
  for group, ax in zip(groups, axes, strict=True):
    of_group = rows.where(subset=group)
    # If both treatments exist, this is `low_rank`: shared directions removed.
    treatment = min(of_group.distinct("centers"))
    of_group = of_group.where(centers=treatment)
    _draw_series(ax, of_group, "manifold_radius", look[group])
    style.log_axis(ax.xaxis)
    ax.set_title(", ".join([group, *(f"M = {m}" for m in _points(of_group))]))
    ax.set_xlabel("radius (centre norms)")
  axes[0].set_ylabel(style.label_of("capacity"))
  _explain(figure)
  return figure


def plot_capacity_along(rows) -> Figure:
  """Draws capacity by layer for a run, by radius for synthetic manifolds."""
  if rows.layers:
    return plot_capacity_by_layer(rows)
  return plot_capacity_by_radius(rows)


CAPACITY = {"capacity": plot_capacity, "capacity_along": plot_capacity_along}
