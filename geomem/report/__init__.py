"""Reports: run directories as one page, or as TensorBoard event files."""

from geomem.report.events import live_events, write_events
from geomem.report.page import write_report

__all__ = ["live_events", "write_events", "write_report"]
