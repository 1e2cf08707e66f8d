"""Run directories: config, origin, tidy result rows, done marker."""

from geomem.runs.directory import (
  BusyError,
  Parent,
  RunError,
  is_complete,
  parent_of,
  read_config,
  read_content,
)
from geomem.runs.rows import COLUMNS, chance_capacity, has_value, read_rows
from geomem.runs.run import Run

__all__ = [
  "COLUMNS",
  "BusyError",
  "Parent",
  "Run",
  "RunError",
  "chance_capacity",
  "has_value",
  "is_complete",
  "parent_of",
  "read_config",
  "read_content",
  "read_rows",
]
