"""Reproduction of the paper: its figures as stages, its claims as a table."""

from geomem.studies.paper.comparison import compare
from geomem.studies.paper.estimates import Estimate, Estimates, duration
from geomem.studies.paper.stages import (
  SCALES,
  STAGES,
  PaperStage,
  Scale,
  choose,
  make,
)
from geomem.studies.paper.table import Paper
from geomem.studies.paper.work import Work

__all__ = [
  "SCALES",
  "STAGES",
  "Estimate",
  "Estimates",
  "Paper",
  "PaperStage",
  "Scale",
  "Work",
  "choose",
  "compare",
  "duration",
  "make",
]
