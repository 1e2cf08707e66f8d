"""How capacity, radius and dimension depend on how many points are taken.

Manifolds of a known shape are drawn about independent centres, and measured by
mean-field theory and by GLUE: what comes out over what went in. Of spheres and
ellipsoids the whole manifold's mean-field numbers are known, too.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from geomem import geometry, runs
from geomem.plots import style

NUM_MANIFOLDS = 8
NUM_FEATURES = 200
NUM_PROBES = 200
NUM_DRAWS = 4
SHAPES = ("spheres", "balls", "ellipsoids", "clouds")
_METRICS = ("capacity", "radius", "dimension")


def semi_axes(shape: str, D: int, R: float) -> np.ndarray:
  """Returns the semi-axes: alike, or of ellipsoids falling as 1/√i.

  With Σ R_i² = D R², so that points have the same mean square.
  """
  weights = 1 / np.arange(1, D + 1) if shape == "ellipsoids" else np.ones(D)
  return (R * np.sqrt(D * weights / weights.sum())).astype(np.float32)


def truth_of(shape: str, D: int, R: float) -> dict[str, float]:
  """Returns the numbers of the whole manifold in mean-field theory.

  A Gaussian cloud has none: it has no edge. Its R and D are what it is made of.
  """
  if shape == "clouds":
    return {"capacity": np.nan, "radius": R, "dimension": float(D)}
  axes = jnp.asarray(semi_axes(shape, D, R))
  found = geometry.ellipsoid_geometry(
    jax.random.key(0), axes, num_probes=100_000
  )
  return {name: float(getattr(found, name)) for name in _METRICS}


def draw(key, shape: str, D: int, R: float, M: int):
  """Draws manifolds `[P, M, N]` with a shape's semi-axes."""
  kind = "spheres" if shape == "ellipsoids" else shape
  radius = R if shape == "clouds" else semi_axes(shape, D, R)
  return geometry.synthetic_manifolds(
    key,
    kind,
    num_manifolds=NUM_MANIFOLDS,
    num_points=M,
    num_features=NUM_FEATURES,
    dimension=D,
    radius=radius,
  )


def calibrate(shape: str, D: int, R: float, M: int) -> Iterator[runs.Row]:
  """Yields a row for each number: its mean over draws, error, and truth."""
  found: dict[tuple[str, str], list[float]] = {}
  for number in range(NUM_DRAWS):
    key = jax.random.key(number)
    points = draw(key, shape, D, R, M)
    mean_field = geometry.manifold_geometry(
      key, points, centers=None, num_probes=NUM_PROBES
    )
    glue = geometry.glue(key, points, num_probes=NUM_PROBES)
    for metric in _METRICS:
      value = getattr(mean_field, f"mean_{metric}")
      found.setdefault(("mean field", metric), []).append(float(value))
      value = getattr(glue, metric)
      found.setdefault(("GLUE", metric), []).append(float(value))
  truth = truth_of(shape, D, R)
  for (theory, metric), values in found.items():
    yield {
      "check": "calibration",
      "case": shape,
      "theory": theory,
      "dimension": D,
      "radius": R,
      "points": M,
      "metric": metric,
      "value": float(np.mean(values)),
      "stderr": float(np.std(values, ddof=1) / np.sqrt(len(values))),
      "expected": truth[metric],
    }


def _ratios(rows: runs.Rows) -> tuple[list, np.ndarray, np.ndarray]:
  """Returns M, and what was measured over what is true, with its error."""
  rows = sorted(rows, key=lambda row: row["points"])
  ratio = np.array([row["value"] / row["expected"] for row in rows])
  error = np.array([row["stderr"] / row["expected"] for row in rows])
  return [row["points"] for row in rows], ratio, error


def plot_calibration(rows: runs.Rows):
  """Draws measured over true numbers against M: spheres and clouds at R = 1."""
  rows = rows.where(check="calibration", radius=1.0)
  figure = style.new_figure(9.2, 5.4)
  axes = figure.subplots(2, 3, sharex=True, sharey="col")
  dimensions = sorted(rows.distinct("dimension"))
  colors = matplotlib.colormaps["viridis"](
    np.linspace(0, 0.9, max(2, len(dimensions)))
  )
  looks = {"spheres": ("-", "o"), "clouds": ("--", "s")}
  for (theory, line), metric_axes in zip(
    (("mean field", 0), ("GLUE", 1)), axes, strict=True
  ):
    for metric, ax in zip(_METRICS, metric_axes, strict=True):
      for color, D in zip(colors, dimensions, strict=False):
        for shape, (dashes, marker) in looks.items():
          here = rows.where(metric, theory=theory, dimension=D, case=shape)
          if here and here[0]["expected"] is not None:
            M, ratio, error = _ratios(here)
            look = {"ls": dashes, "marker": marker, "color": color}
            label = f"{shape}, D = {D}"
            style.draw_band(ax, M, ratio, error, label=label, **look)
      ax.axhline(1, color="0.4", lw=0.9, ls=":")
      ax.set_xscale("log")
      ax.set_xticks(sorted(rows.distinct("points")))
      ax.xaxis.set_major_formatter("{x:g}")
      ax.minorticks_off()
      if not line:
        ax.set_title(f"{metric}, measured / true")
      else:
        ax.set_xlabel("points of a manifold, M")
    metric_axes[0].set_ylabel(theory)
  handles, labels = axes[0, 1].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center", fontsize=7)
  return figure


def table_of(rows: runs.Rows, theory: str, metric: str) -> str:
  """Makes a Markdown table of measured over true numbers at R = 1."""
  rows = rows.where(metric, check="calibration", theory=theory, radius=1.0)
  sizes = sorted(rows.distinct("points"))
  lines = ["| shape, D | " + " | ".join(f"M = {M}" for M in sizes) + " |"]
  lines.append("|---" * (1 + len(sizes)) + "|")
  for shape in rows.distinct("case"):
    for D, found in rows.where(case=shape).split("dimension").items():
      if found[0]["expected"] is None:  # A cloud has no capacity of its own.
        continue
      sizes_there, ratio, error = _ratios(found)
      cells = {
        M: f"{r:.2f} ± {e:.2f}"
        for M, r, e in zip(sizes_there, ratio, error, strict=True)
      }
      row = " | ".join(cells.get(M, "") for M in sizes)
      lines.append(f"| {shape}, {D} | {row} |")
  return "\n".join(lines)
