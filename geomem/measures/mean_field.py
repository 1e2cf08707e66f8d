"""The mean-field geometry: capacity, radius and dimension of a layer."""

from geomem import geometry
from geomem.measures.measure import Measure, Metric

METRICS = (
  Metric("capacity", r"capacity $\alpha_M$", "log", "chance_capacity"),
  Metric("radius", r"radius $R_M$ (centre norms)", "log"),
  Metric("dimension", r"dimension $D_M$"),
  Metric("center_correlation", r"centre correlation $\rho$"),
  Metric("rank", "shared directions removed $K$"),
  Metric("interior", "share of probes inside the cone"),
  Metric("residual", "largest KKT residual", "log"),
  Metric("converged", "share of manifolds solved"),
  Metric("center_left", "least share of a centre's squared norm left"),
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


def summarize(result: geometry.ManifoldGeometry) -> dict:
  """Averages over the manifolds; residual and center_left are the worst."""
  return {
    "capacity": (result.mean_capacity, result.mean_capacity_stderr),
    "radius": (result.mean_radius, result.mean_radius_stderr),
    "dimension": (result.mean_dimension, result.mean_dimension_stderr),
    "center_correlation": (result.center_correlation, None),
    "rank": (result.rank, None),
    "interior": (result.interior.mean(axis=-1), None),
    "residual": (result.residual.max(axis=-1), None),
    "converged": (result.converged.mean(axis=-1), None),
    "center_left": (result.center_left.min(axis=-1), None),
  }


MEAN_FIELD = Measure("mean_field", METRICS, compute, summarize)
