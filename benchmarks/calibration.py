"""How capacity, radius and dimension depend on the number of points.

Manifolds of a known shape are sampled about independent centres, measured by
mean-field theory and by GLUE, and compared with the true values. For spheres,
balls and ellipsoids these are the mean-field numbers of the whole manifold.
"""

import jax
import jax.numpy as jnp
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
  """Returns the semi-axes: equal, or falling as 1/√i for ellipsoids.

  Σ R_i² = D R², so that points of all shapes have the same mean square.
  """
  weights = 1 / np.arange(1, D + 1) if shape == "ellipsoids" else np.ones(D)
  return (R * np.sqrt(D * weights / weights.sum())).astype(np.float32)


def truth_of(shape: str, D: int, R: float) -> dict[str, float]:
  """Returns the mean-field numbers of the whole manifold.

  A Gaussian cloud has no edge: its capacity is NaN, and R and D are as given.
  """
  if shape == "clouds":
    return {"capacity": np.nan, "radius": R, "dimension": float(D)}
  axes = jnp.asarray(semi_axes(shape, D, R))
  truth = geometry.ellipsoid_geometry(
    jax.random.key(0), axes, num_probes=100_000
  )
  return {name: float(getattr(truth, name)) for name in _METRICS}


def draw(key, shape: str, D: int, R: float, M: int):
  """Samples manifolds `[P, M, N]` with a shape's semi-axes."""
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


def calibrate(shape: str, D: int, R: float, M: int) -> list[runs.Row]:
  """Returns a row per theory and metric: mean over draws, error and truth."""
  draws: dict[tuple[str, str], list[float]] = {}
  for number in range(NUM_DRAWS):
    key = jax.random.key(number)
    points = draw(key, shape, D, R, M)
    mean_field = geometry.manifold_geometry(
      key, points, centers=None, num_probes=NUM_PROBES
    )
    glue = geometry.glue(key, points, num_probes=NUM_PROBES)
    for metric in _METRICS:
      value = getattr(mean_field, f"mean_{metric}")
      draws.setdefault(("mean field", metric), []).append(float(value))
      value = getattr(glue, metric)
      draws.setdefault(("GLUE", metric), []).append(float(value))
  truth = truth_of(shape, D, R)
  return [
    {
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
    for (theory, metric), values in draws.items()
  ]


def _ratios(rows: runs.Rows) -> tuple[list, np.ndarray, np.ndarray]:
  """Returns M, and the ratio of measured to true values, with its error."""
  rows = sorted(rows, key=lambda row: row["points"])
  ratio = np.array([row["value"] / row["expected"] for row in rows])
  error = np.array([row["stderr"] / row["expected"] for row in rows])
  return [row["points"] for row in rows], ratio, error


@style.in_style
def plot_calibration(rows: runs.Rows):
  """Plots measured / true against M, for spheres and clouds at R = 1."""
  rows = rows.where(check="calibration", radius=1.0)
  figure = style.new_figure(9.2, 5.4)
  axes = figure.subplots(2, 3, sharex=True, sharey="col")
  dimensions = sorted(rows.distinct("dimension"))
  colors = style.shades(len(dimensions))
  looks = {"spheres": ("-", "o"), "clouds": ("--", "s")}
  for (theory, line), metric_axes in zip(
    (("mean field", 0), ("GLUE", 1)), axes, strict=True
  ):
    for metric, ax in zip(_METRICS, metric_axes, strict=True):
      for color, D in zip(colors, dimensions, strict=True):
        for shape, (dashes, marker) in looks.items():
          subset = rows.where(metric, theory=theory, dimension=D, case=shape)
          if subset and subset[0]["expected"] is not None:
            M, ratio, error = _ratios(subset)
            look = {"ls": dashes, "marker": marker, "color": color}
            label = f"{shape}, D = {D}"
            style.draw_band(ax, M, ratio, error, label=label, **look)
      style.draw_level(ax, 1, "the true value", ls="-.")
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
  figure.legend(handles, labels, loc="outside right center")
  return figure


def table_of(rows: runs.Rows, theory: str, metric: str) -> str:
  """Returns a Markdown table of measured / true values at R = 1."""
  rows = rows.where(metric, check="calibration", theory=theory, radius=1.0)
  sizes = sorted(rows.distinct("points"))
  lines = ["| shape, D | " + " | ".join(f"M = {M}" for M in sizes) + " |"]
  lines.append("|---" * (1 + len(sizes)) + "|")
  for shape in rows.distinct("case"):
    for D, subset in rows.where(case=shape).split("dimension").items():
      if subset[0]["expected"] is None:  # Clouds have no true capacity.
        continue
      subset_sizes, ratio, error = _ratios(subset)
      cells = {
        M: f"{r:.2f} ± {e:.2f}"
        for M, r, e in zip(subset_sizes, ratio, error, strict=True)
      }
      row = " | ".join(cells.get(M, "") for M in sizes)
      lines.append(f"| {shape}, {D} | {row} |")
  return "\n".join(lines)
