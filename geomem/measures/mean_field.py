"""The mean-field geometry: capacity, radius and dimension of a layer."""

from geomem import geometry
from geomem.measures.measure import Measure, Metric

METRICS = (
  Metric("capacity", r"capacity $\alpha_M$", "log", has_chance=True),
  Metric("radius", r"radius $R_M$ (centre norms)", "log"),
  Metric("dimension", r"dimension $D_M$"),
  Metric("center_correlation", r"centre correlation $\rho$"),
  Metric("rank", "shared directions removed $K$"),
  Metric("interior", "share of probes inside the cone"),
  Metric("residual", "largest KKT residual", "log"),
  Metric("converged", "share of manifolds solved"),
  Metric("center_left", "least share of a centre's norm left"),
)


def compute(key, stats, options):
  """Computes the geometry of one subset; see `geometry.manifold_geometry`."""
  return geometry.manifold_geometry(
    key,
    stats,
    kappa=options.kappa,
    num_probes=options.num_probes,
    centers=options.centers,
  )


def summarize(found: geometry.ManifoldGeometry) -> dict:
  """Averages over the manifolds; residual and center_left are the worst."""
  return {
    "capacity": (found.mean_capacity, found.mean_capacity_stderr),
    "radius": (found.mean_radius, found.mean_radius_stderr),
    "dimension": (found.mean_dimension, found.mean_dimension_stderr),
    "center_correlation": (found.center_correlation, None),
    "rank": (found.rank, None),
    "interior": (found.interior.mean(axis=-1), None),
    "residual": (found.residual.max(axis=-1), None),
    "converged": (found.converged.mean(axis=-1), None),
    "center_left": (found.center_left.min(axis=-1), None),
  }


MEAN_FIELD = Measure("mean_field", METRICS, compute, summarize)
