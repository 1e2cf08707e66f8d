"""Plots: rows to figures."""

from geomem.plots.events import write_events
from geomem.plots.figures import (
  plot_accuracy,
  plot_capacity_heatmaps,
  plot_geometry_by_layer,
)
from geomem.plots.gallery import FIGURES, draw_all
from geomem.plots.gradients import (
  plot_gradient_comparison,
  plot_gradient_law,
  plot_gradient_parts,
)
from geomem.plots.report import write_report
from geomem.plots.style import save_figure

__all__ = [
  "FIGURES",
  "draw_all",
  "plot_accuracy",
  "plot_capacity_heatmaps",
  "plot_geometry_by_layer",
  "plot_gradient_comparison",
  "plot_gradient_law",
  "plot_gradient_parts",
  "save_figure",
  "write_events",
  "write_report",
]
