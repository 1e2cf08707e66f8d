"""Measures of a network's layers.

A measure is a file in this package and a line in `MEASURES`; rows, figures, the
report and `experiments.measure` follow from it.
"""

from geomem.measures.activations import layer_blocks
from geomem.measures.collapse import COLLAPSE
from geomem.measures.few_shot import FEW_SHOT
from geomem.measures.glue import GLUE
from geomem.measures.layers import measure_layers
from geomem.measures.mean_field import MEAN_FIELD
from geomem.measures.measure import Measure, Metric, Options
from geomem.measures.neighbors import NEIGHBORS
from geomem.measures.probe import PROBE
from geomem.measures.spectrum import SPECTRUM
from geomem.measures.statistics import layer_statistics

MEASURES = {
  "mean_field": MEAN_FIELD,
  "spectrum": SPECTRUM,
  "collapse": COLLAPSE,
  "glue": GLUE,
  "few_shot": FEW_SHOT,
  "neighbors": NEIGHBORS,
  "probe": PROBE,
}

METRICS = {
  metric.name: metric
  for measure in MEASURES.values()
  for metric in measure.metrics
}


def __dir__() -> list[str]:
  """Lists the public names, and not the modules behind them."""
  return sorted(__all__)


__all__ = [
  "MEASURES",
  "METRICS",
  "Measure",
  "Metric",
  "Options",
  "layer_blocks",
  "layer_statistics",
  "measure_layers",
]
