"""The measuring study: further measures of a finished training run."""

import functools
from collections.abc import Iterator
from typing import Any

from geomem import plots, runs
from geomem.studies.doubts import doubts
from geomem.studies.measure_config import MeasuringConfig, measured_layers
from geomem.studies.measuring import geometry_stage
from geomem.studies.of_run import OfRun
from geomem.studies.study import Stage
from geomem.studies.trained import TrainedRun


class Measuring(OfRun):
  """Measures every layer at every saved epoch of a finished run.

  On the manifolds, and with the probes, of the run itself.
  """

  name = "measure"
  figures = plots.MEASURE

  def __init__(self, config: MeasuringConfig, trained: TrainedRun):
    """Checks the names of the layers, and which networks are there."""
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    measured_layers(config.layers, names)
    self.epochs = self.saved_epochs()
    chosen = "-".join(one.name for one in config.chosen)
    self.directory = trained.path / f"measure-{chosen}"

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Measures every seed."""
    del run
    yield self.facts_stage()
    for seed in self.trained.seeds:
      yield geometry_stage(
        self.trained.experiment,
        seed,
        self.epochs[seed.number],
        functools.partial(self.trained.state, seed.number),
        self.config,
      )

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Names what is in doubt."""
    del config
    return doubts(rows)

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists the metrics of the last hidden layer by subset."""
    deepest = rows.last_hidden()
    metrics = deepest.where(subset=runs.SUBSETS).distinct("metric")
    (layer,) = deepest.layers.values()
    width = max(map(len, metrics)) + 2
    lines = [f"{'':{width}}" + "".join(f"{s:>14}" for s in deepest.subsets)]
    lines[0] += f"   (layer {layer})"
    for which in ("best", "last"):
      here = rows.at(which)
      lines.append(f"{which} epoch")
      for metric in metrics:
        of_metric = here.where(metric, layer=layer)
        cells = [
          f"{of_metric.where(subset=subset).mean()[0]:14.4g}"
          for subset in deepest.subsets
        ]
        lines.append(f"  {metric:{width - 2}}" + "".join(cells))
    return "\n".join(lines)
