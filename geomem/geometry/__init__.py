"""Geometry of class manifolds by replica mean-field theory.

The letters of the equations:

    P  manifolds, index μ        S  points of a manifold, with a 1 appended
    M  points of a manifold      t  probe, a standard normal vector
    N  features                  v  the vector nearest to t with S v ≥ κ
    T  probes                    λ  multipliers of the points
    D  dimension of the frame    s̃  anchor point, Sᵀλ / Σλ
    K  shared directions         G  Gram matrix S Sᵀ
    κ  margin                    C  Gram matrix of the centres
"""

from geomem.geometry.by_label import manifolds
from geomem.geometry.centers import (
  center_correlation,
  check_centers,
  shared_directions,
)
from geomem.geometry.ellipsoids import (
  EllipsoidAnchors,
  EllipsoidGeometry,
  ellipsoid_anchors,
  ellipsoid_geometry,
)
from geomem.geometry.glue import Glue, glue
from geomem.geometry.labellings import LABELLINGS, draw_labels
from geomem.geometry.mean_field import Anchors, ManifoldGeometry, anchors
from geomem.geometry.measurement import manifold_geometry
from geomem.geometry.products import PointProducts, point_products
from geomem.geometry.qp.nonnegative import (
  METHODS,
  QPSolution,
  solve_nonnegative_qp,
)
from geomem.geometry.qp.signed import solve_signed_qp
from geomem.geometry.representation import (
  center_spectrum,
  explained_variance_dimension,
  participation_ratio,
  spectrum,
  within_spectrum,
)
from geomem.geometry.resampling import (
  Resampled,
  Summary,
  detectable_difference,
  shuffled_null,
  subsample,
)
from geomem.geometry.separability import is_separable
from geomem.geometry.similarity import label_alignment, linear_cka
from geomem.geometry.simulation import SimulatedCapacity, simulated_capacity
from geomem.geometry.statistics import (
  GramStatistics,
  gram_statistics,
  sum_statistics,
)
from geomem.geometry.streaming import project_points, statistics_by_manifold
from geomem.geometry.synthetic import (
  SHAPES,
  correlated_centers,
  independent_centers,
  synthetic_manifolds,
)
from geomem.geometry.theory import (
  ball_capacity,
  ball_radius,
  point_capacity,
  segment_capacity,
  simplex_capacity,
)


def __getattr__(name: str):
  """Imports jaxopt's solver on first access, because jaxopt loads slowly."""
  if name == "NonnegativeQP":
    from geomem.geometry.qp.jaxopt_solver import NonnegativeQP

    return NonnegativeQP
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  """Lists the public names, and not the modules behind them."""
  return sorted(__all__)


__all__ = [
  "LABELLINGS",
  "METHODS",
  "SHAPES",
  "Anchors",
  "EllipsoidAnchors",
  "EllipsoidGeometry",
  "Glue",
  "GramStatistics",
  "ManifoldGeometry",
  "NonnegativeQP",
  "PointProducts",
  "QPSolution",
  "Resampled",
  "SimulatedCapacity",
  "Summary",
  "anchors",
  "ball_capacity",
  "ball_radius",
  "center_correlation",
  "center_spectrum",
  "check_centers",
  "correlated_centers",
  "detectable_difference",
  "draw_labels",
  "ellipsoid_anchors",
  "ellipsoid_geometry",
  "explained_variance_dimension",
  "glue",
  "gram_statistics",
  "independent_centers",
  "is_separable",
  "label_alignment",
  "linear_cka",
  "manifold_geometry",
  "manifolds",
  "participation_ratio",
  "point_capacity",
  "point_products",
  "project_points",
  "segment_capacity",
  "shared_directions",
  "shuffled_null",
  "simplex_capacity",
  "simulated_capacity",
  "solve_nonnegative_qp",
  "solve_signed_qp",
  "spectrum",
  "statistics_by_manifold",
  "subsample",
  "sum_statistics",
  "synthetic_manifolds",
  "within_spectrum",
]
