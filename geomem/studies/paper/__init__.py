"""Reproduction of the paper: its figures as stages, its claims as a table."""

from geomem.studies.paper.comparison import compare
from geomem.studies.paper.stages import (
  SCALES,
  STAGES,
  PaperStage,
  Scale,
  choose,
  make,
)
from geomem.studies.paper.table import Paper

__all__ = [
  "SCALES",
  "STAGES",
  "Paper",
  "PaperStage",
  "Scale",
  "choose",
  "compare",
  "make",
]
