"""Reports: run directories as one page, or as TensorBoard's event files."""

from geomem.report.events import write_events
from geomem.report.page import write_report

__all__ = ["write_events", "write_report"]
