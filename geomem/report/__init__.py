"""Reports: run directories as one page, or as TensorBoard event files."""

from geomem.report.events import live_events, write_events
from geomem.report.page import by_name, write_report

__all__ = ["by_name", "live_events", "write_events", "write_report"]
