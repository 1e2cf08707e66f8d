"""The picture of the method in the README and on the index of the docs.

  python -m benchmarks.picture

writes docs/picture.png in a minute. Everything in it is computed: hyperplanes
and anchor points solve quadratic programmes, and the shares of separable
labellings are counted.
"""

import io
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import PIL.Image
from absl import app, flags
from matplotlib import ticker
from scipy import spatial

from geomem import disk, geometry
from geomem.plots import style

# No colours of subsets: these mean something else in all other figures.
PLUS, MINUS, SMALL, LARGE = (style.CYCLE[i] for i in (3, 4, 5, 0))
_GREY = "0.55"

# Left panel: four classes in two features.
_ANGLES = (65, 130, 215, 325)  # Degrees.
SEPARABLE = (1, 1, -1, -1)
INSEPARABLE = (1, -1, 1, -1)

# Middle and right panels: two-dimensional manifolds of two sizes.
_RADII = {"small": 0.35, "large": 1.0}
_COLORS = {"small": SMALL, "large": LARGE}
NUM_MANIFOLDS = 20
_NUM_POINTS = 24
_NUM_FEATURES = 200
_NUM_LABELLINGS = 200
# Probes of the manifold in the middle; the first few also give a line.
_NUM_PROBES = 120
_NUM_LINES = 8


class Hyperplane(NamedTuple):
  """The maximum-margin hyperplane through the origin.

  Attributes:
    normal: w, with y w·x ≥ 1 for all points x, with equality on the margin.
    anchors: for each class that touches the margin, the mean of its points
      weighted by their multipliers.
  """

  normal: np.ndarray
  anchors: dict[int, np.ndarray]


def classes() -> np.ndarray:
  """Samples four classes of twelve points in two features, `[4, 12, 2]`."""
  rng = np.random.default_rng(3)
  angle = np.deg2rad(_ANGLES)
  centers = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  spread = rng.uniform(-0.33, 0.33, (4, 12, 2))
  return centers[:, None] + spread


def hyperplane(points: np.ndarray, labels: np.ndarray) -> Hyperplane:
  """Solves min ½‖w‖² subject to y w·x ≥ 1 through its dual."""
  signed = (labels[:, None, None] * points).reshape(-1, points.shape[-1])
  solution = geometry.solve_nonnegative_qp(
    (signed @ signed.T)[None], np.ones((1, 1, len(signed)))
  )
  assert solution.converged.all()
  lam = np.asarray(solution.lam[0, 0])
  by_class = lam.reshape(points.shape[:2])
  anchors = {
    i: weights @ points[i] / weights.sum()
    for i, weights in enumerate(by_class)
    if weights.any()
  }
  return Hyperplane(lam @ signed, anchors)


def draw_cloud(ax, points: np.ndarray, color: str) -> None:
  """Draws points and fills their convex hull."""
  corners = points[spatial.ConvexHull(points).vertices]
  ax.fill(*corners.T, color=color, alpha=0.18, lw=0)
  ax.plot(*points.T, "o", ms=2.5, color=color, mew=0)


def draw_line(ax, normal: np.ndarray, offset: float, **look) -> None:
  """Draws the points x with normal · x = offset."""
  middle = offset * normal / (normal @ normal)
  along = np.array([-normal[1], normal[0]]) / np.linalg.norm(normal)
  ax.axline(middle, middle + along, **look)


def hide_axes(ax, width: float, height: float) -> None:
  """Hides the axes, and sets their limits and an equal aspect ratio."""
  ax.set(xlim=(-width, width), ylim=(-height, height), xticks=[], yticks=[])
  ax.set_aspect("equal")
  ax.spines[:].set_visible(False)


def draw_labelling(ax, points: np.ndarray, labels: np.ndarray) -> None:
  """Draws the classes coloured by label, and their hyperplane if it exists."""
  for cloud, label in zip(points, labels, strict=True):
    color = PLUS if label > 0 else MINUS
    draw_cloud(ax, cloud, color)
    look = {"color": color, "ha": "center", "va": "center", "fontsize": 13}
    sign = "$+$" if label > 0 else "$-$"
    ax.annotate(sign, 1.5 * cloud.mean(axis=0), **look)
  ax.plot(0, 0, "+", color="k", ms=6, mew=0.8)
  flat = points.reshape(-1, 2)
  if geometry.is_separable(flat, np.repeat(labels, points.shape[1])):
    normal, anchors = hyperplane(points, labels)
    draw_line(ax, normal, 0, color="k", lw=1.2)
    for margin in (-1, 1):
      draw_line(ax, normal, margin, color="k", lw=0.8, ls=":")
    for anchor in anchors.values():
      ax.plot(*anchor, "o", color="k", ms=4)
    ax.set_title("separated by a hyperplane", fontsize=8)
  else:
    ax.set_title("separated by none", fontsize=8)
  hide_axes(ax, 2.0, 1.45)


def manifolds(size: str) -> np.ndarray:
  """Samples manifolds `[P, M, N]` of one size, centred on their joint mean."""
  points = geometry.synthetic_manifolds(
    jax.random.key(4),
    "balls",
    num_manifolds=NUM_MANIFOLDS,
    num_points=_NUM_POINTS,
    num_features=_NUM_FEATURES,
    dimension=2,
    radius=_RADII[size],
  )
  return np.asarray(points - points.mean(axis=(0, 1)))


def frame_of(points: np.ndarray) -> np.ndarray:
  """Projects a manifold on its principal plane, in units of its centre norm."""
  center = points.mean(axis=0)
  left, values, _ = np.linalg.svd(points - center, full_matrices=False)
  return left[:, :2] * values[:2] / np.linalg.norm(center)


def draw_anchors(ax, points: np.ndarray, result, size: str) -> None:
  """Draws a manifold with the hyperplanes and anchors of random probes."""
  plane = frame_of(points)
  S = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
  t = np.random.default_rng(1).normal(size=(_NUM_PROBES, 3))
  solution = geometry.anchors(S.astype(np.float32), t.astype(np.float32))
  # The hyperplane of v meets the plane of the manifold in a line. Two cases are
  # not drawn: if no point binds it misses the manifold; if all bind v is zero.
  v = t + np.asarray(solution.lam) @ S
  slope = np.linalg.norm(v[:, :2], axis=1)
  touches = ~np.asarray(solution.interior) & (slope > 1e-3)
  color = _COLORS[size]
  draw_cloud(ax, plane, color)
  for normal in v[touches][:_NUM_LINES]:
    draw_line(ax, normal[:2], -normal[2], color=_GREY, lw=0.6, zorder=0)
  anchors = np.asarray(solution.anchor)
  ax.plot(*anchors[touches].T, "o", color="k", ms=2.5, mew=0)
  hide_axes(ax, 2.3, 1.6)
  ax.set_title(
    f"{size}: radius $R_M$ = {result.mean_radius:.2f},"
    f" dimension $D_M$ = {result.mean_dimension:.1f}",
    fontsize=8,
    color=color,
  )


def share_separable(points: np.ndarray, num_features: int) -> float:
  """Estimates the share of labellings separable after random projections."""
  rng = np.random.default_rng(num_features)
  count = len(points)
  separable = 0
  for _ in range(_NUM_LABELLINGS):
    positive = rng.permutation(count) < count // 2
    directions = rng.normal(size=(points.shape[-1], num_features))
    separable += geometry.is_separable(
      (points @ directions).reshape(-1, num_features),
      np.repeat(positive, points.shape[1]),
    )
  return separable / _NUM_LABELLINGS


def draw_capacity(ax, points: np.ndarray, result, size: str) -> None:
  """Plots the share of separable labellings against the load P/N."""
  color, capacity = _COLORS[size], float(result.mean_capacity)
  middle = NUM_MANIFOLDS / capacity
  features = np.unique(np.round(middle * np.geomspace(0.6, 1.7, 11)))
  shares = [share_separable(points, int(n)) for n in features]
  label = f"{size}: $\\alpha_M$ = {capacity:.2f}"
  ax.plot(NUM_MANIFOLDS / features, shares, "o-", color=color, label=label)
  ax.plot([capacity] * 2, [0, 0.5], "--", color=color, lw=1)


@style.in_style
def picture():
  """Draws the three panels side by side."""
  figure = style.new_figure(9.2, 3.7)
  left, middle, right = figure.subfigures(1, 3, width_ratios=(1, 1, 1.1))
  titles = {
    left: "Classes are clouds of points;\nlabels + and $-$ are random",
    middle: "Anchor points: where the\nhyperplanes touch a class",
    right: "Capacity: classes per feature at\n"
    "which half of the labellings separate",
  }
  for part, title in titles.items():
    part.suptitle(title, fontsize=9, fontweight="bold")
  points = classes()
  for ax, labels in zip(
    left.subplots(2, 1), (SEPARABLE, INSEPARABLE), strict=True
  ):
    draw_labelling(ax, points, np.array(labels))
  ax = right.subplots()
  for axes, size in zip(middle.subplots(2, 1), _RADII, strict=True):
    points = manifolds(size)
    result = geometry.manifold_geometry(
      jax.random.key(0), points, centers=None, num_probes=2000
    )
    draw_anchors(axes, points[0], result, size)
    draw_capacity(ax, points, result, size)
  ax.plot([], [], "--", color=_GREY, lw=1, label="by mean-field theory")
  ax.axhline(0.5, color=_GREY, lw=0.8, ls=":")
  ax.set(xlabel="classes / features, P/N", ylabel="labellings that separate")
  ax.set(xlim=(0, 2.8), ylim=(0, 1.02))
  ax.xaxis.set_major_locator(ticker.MultipleLocator(0.5))
  ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  ax.legend(loc="upper right", fontsize=8, handlelength=1.3)
  return figure


def main(argv: list[str]) -> None:
  """Writes the picture as PNG."""
  del argv
  drawn, content = io.BytesIO(), io.BytesIO()
  picture().savefig(drawn, format="png", dpi=150)
  # A palette makes the file four times smaller with no visible change.
  image = PIL.Image.open(drawn).convert("RGB").quantize(64)
  image.save(content, format="png", optimize=True)
  path = pathlib.Path(flags.FLAGS.docs) / "picture.png"
  disk.write_whole(path, content.getvalue())


if __name__ == "__main__":
  flags.DEFINE_string("docs", "docs", "directory of the picture")
  app.run(main)
