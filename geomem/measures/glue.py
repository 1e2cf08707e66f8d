"""GLUE: the capacity for the labels of a task, correlations included.

No directions are removed, so only two of the options apply: the labellings and
the number of probes, of which there are at least two. See `geometry.glue`.
"""

from geomem import geometry
from geomem.measures.measure import Measure, Metric

METRICS = (
  Metric("glue_capacity", r"GLUE capacity $\alpha$", "log"),
  Metric("glue_radius", "GLUE radius $R$"),
  Metric("glue_dimension", "GLUE dimension $D$"),
  Metric("glue_utility", "GLUE utility"),
  Metric("critical_features", r"features for half of the labellings", "log"),
  Metric("glue_center_cosine", "GLUE cosine of centres"),
  Metric("glue_axis_cosine", "GLUE cosine of axes"),
  Metric("glue_interior", "GLUE, share of labellings not separable"),
  Metric("glue_converged", "GLUE, share of problems solved"),
)


def compute(key, products, options):
  """Computes GLUE of one subset."""
  return geometry.glue(
    key, products, labels=options.labels, num_probes=max(2, options.num_probes)
  )


def summarize(result: geometry.Glue) -> dict:
  """Returns the metrics by name, with their standard errors."""
  return {
    "glue_capacity": (result.capacity, result.capacity_stderr),
    "glue_radius": (result.radius, result.radius_stderr),
    "glue_dimension": (result.dimension, result.dimension_stderr),
    "glue_utility": (result.utility, result.utility_stderr),
    "critical_features": (
      result.critical_features,
      result.capacity_stderr / result.capacity * result.critical_features,
    ),
    "glue_center_cosine": (result.center_cosine, None),
    "glue_axis_cosine": (result.axis_cosine, None),
    "glue_interior": (result.interior, None),
    "glue_converged": (result.converged.mean(axis=-1), None),
  }


GLUE = Measure("glue", METRICS, compute, summarize, statistic="points")
