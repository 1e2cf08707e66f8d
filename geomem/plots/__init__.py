"""Plots: rows to figures, pages and event files."""

from geomem.plots.capacity import plot_capacity, plot_capacity_along
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
from geomem.plots.model_size import (
  plot_geometry_by_size,
  plot_model_size,
  plot_size_by_epoch,
)
from geomem.plots.noise import plot_departure, plot_last_layer
from geomem.plots.report import write_report
from geomem.plots.rewind import (
  plot_recovered,
  plot_rewind_accuracy,
  plot_rewind_heatmaps,
)
from geomem.plots.style import save_figure

__all__ = [
  "FIGURES",
  "draw_all",
  "plot_accuracy",
  "plot_capacity",
  "plot_capacity_along",
  "plot_capacity_heatmaps",
  "plot_departure",
  "plot_geometry_by_layer",
  "plot_geometry_by_size",
  "plot_gradient_comparison",
  "plot_gradient_law",
  "plot_gradient_parts",
  "plot_last_layer",
  "plot_model_size",
  "plot_recovered",
  "plot_rewind_accuracy",
  "plot_rewind_heatmaps",
  "plot_size_by_epoch",
  "save_figure",
  "write_events",
  "write_report",
]
