"""Geometry of class manifolds by replica mean-field theory.

Letters of the equations:
  P  manifolds, index μ        S  points of a manifold, with a 1 appended
  M  points of a manifold      t  probe, a standard normal vector
  N  features                  v  the vector nearest to t with S v ≥ κ
  T  probes                    λ  multipliers of the points
  D  dimension of the frame    s̃  anchor point, Sᵀλ / Σλ
  K  shared directions         G  Gram matrix S Sᵀ
  κ  margin                    C  Gram matrix of the centres
"""

from geomem.geometry.anchors import Anchors, anchors
from geomem.geometry.centers import center_correlation, shared_directions
from geomem.geometry.manifold import ManifoldGeometry
from geomem.geometry.measurement import manifold_geometry
from geomem.geometry.qp import (
  NonnegativeQP,
  QPSolution,
  solve_nonnegative_qp,
)
from geomem.geometry.statistics import (
  GramStatistics,
  gram_statistics,
  sum_statistics,
)
from geomem.geometry.streaming import project_points, statistics_by_manifold

__all__ = [
  "Anchors",
  "GramStatistics",
  "ManifoldGeometry",
  "NonnegativeQP",
  "QPSolution",
  "anchors",
  "center_correlation",
  "gram_statistics",
  "manifold_geometry",
  "project_points",
  "shared_directions",
  "solve_nonnegative_qp",
  "statistics_by_manifold",
  "sum_statistics",
]
