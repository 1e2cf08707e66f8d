"""The quadratic programmes at the heart of the geometry."""

from geomem.geometry.qp.nonnegative import (
  METHODS,
  QPSolution,
  solve_nonnegative_qp,
)
from geomem.geometry.qp.signed import solve_signed_qp

__all__ = ["METHODS", "QPSolution", "solve_nonnegative_qp", "solve_signed_qp"]
