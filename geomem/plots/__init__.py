"""Plots: from rows to figures. Nothing here trains or solves."""

from geomem.plots.capacity import (
  CAPACITY,
  believed_capacities,
  name_of_set,
  pair_capacities,
  plot_capacity,
  plot_capacity_along,
)
from geomem.plots.figures import (
  MEASURE,
  MEMORIZATION,
  plot_accuracy,
  plot_by_layer,
  plot_capacity_heatmaps,
  plot_geometry_by_layer,
  plot_loss,
  plot_measures,
)
from geomem.plots.gradients import (
  GRADIENTS,
  plot_gradient_comparison,
  plot_gradient_law,
  plot_gradient_parts,
)
from geomem.plots.model_size import (
  MODEL_SIZE,
  plot_geometry_by_size,
  plot_model_size,
  plot_size_by_epoch,
)
from geomem.plots.noise import (
  MEMORIZATION_SWEEP,
  plot_departure,
  plot_last_layer,
)
from geomem.plots.rewind import (
  REWIND,
  plot_recovered,
  plot_rewind_accuracy,
  plot_rewind_heatmaps,
)
from geomem.plots.style import save_figure

__all__ = [
  "CAPACITY",
  "GRADIENTS",
  "MEASURE",
  "MEMORIZATION",
  "MEMORIZATION_SWEEP",
  "MODEL_SIZE",
  "REWIND",
  "believed_capacities",
  "name_of_set",
  "pair_capacities",
  "plot_accuracy",
  "plot_by_layer",
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
  "plot_loss",
  "plot_measures",
  "plot_model_size",
  "plot_recovered",
  "plot_rewind_accuracy",
  "plot_rewind_heatmaps",
  "plot_size_by_epoch",
  "save_figure",
]
