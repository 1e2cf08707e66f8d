"""Run directories: config, origin, tidy result rows, done marker."""

from geomem.runs.clock import Clock, read_duration
from geomem.runs.directory import (
  BusyError,
  Parent,
  RunError,
  differing_field,
  flat_config,
  is_complete,
  is_of_this_revision,
  parent_of,
  read_config,
  read_content,
  read_rows,
  read_runs,
  walk,
)
from geomem.runs.lines import COLUMNS, Row
from geomem.runs.rows import (
  SUBSETS,
  Rows,
  Series,
  error_of_share,
  has_value,
  mean_and_error,
  tagged,
)
from geomem.runs.run import Run, is_held
from geomem.runs.shared import SharedRun, open_run

__all__ = [
  "COLUMNS",
  "SUBSETS",
  "BusyError",
  "Clock",
  "Parent",
  "Row",
  "Rows",
  "Run",
  "RunError",
  "Series",
  "SharedRun",
  "differing_field",
  "error_of_share",
  "flat_config",
  "has_value",
  "is_complete",
  "is_held",
  "is_of_this_revision",
  "mean_and_error",
  "open_run",
  "parent_of",
  "read_config",
  "read_content",
  "read_duration",
  "read_rows",
  "read_runs",
  "tagged",
  "walk",
]
