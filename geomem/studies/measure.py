"""The measuring study: further measures of a finished training run."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from geomem import parallel, plots, runs
from geomem.studies.doubts import doubts
from geomem.studies.measure_config import MeasuringConfig, measured_layers
from geomem.studies.measured_epochs import SavedEpochs, check_saved
from geomem.studies.measuring import geometry_stage
from geomem.studies.of_run import OfRun
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import TrainedRun


class Measuring(OfRun):
  """Measures the layers of a finished run at saved epochs.

  On the manifolds, and with the probes, of the run itself. What the run has
  measured in the same way is taken over from it.
  """

  name = "measure"
  figures = plots.MEASURE

  def __init__(self, config: MeasuringConfig, trained: TrainedRun):
    """Checks the names of the layers, and which networks are there."""
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    measured_layers(config.layers, names)
    saved = self.saved_epochs()
    check_saved(config.measure_epochs, {e for of in saved.values() for e in of})
    self.epochs = {
      seed: SavedEpochs(epochs, trained.best(seed), trained.last(seed))
      for seed, epochs in saved.items()
    }
    measures = (one.name for one in config.chosen)
    self.directory = self._directory("measure", *measures)

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Measures every seed."""
    del run
    yield self.facts_stage()
    stage = geometry_stage(
      self.trained.experiment,
      self.trained.seeds,
      self.epochs,
      self.trained.state,
      self.config,
    )
    known = self._known()
    yield stage._replace(units=[_of(unit, known) for unit in stage.units])

  def _directory(self, *parts: str) -> pathlib.Path:
    """Names a directory that differs where the epochs do."""
    chosen = self.config.measure_epochs
    epochs = chosen.split(",") if chosen else ()
    return self.trained.path / "-".join([*parts, *epochs])

  def _known(self) -> dict[tuple[int, int], runs.Rows]:
    """Groups the rows of the run by seed and epoch, if it measured the same.

    That is with the same settings, and by the same revision of geomem.
    """
    names = [field.name for field in dataclasses.fields(MeasuringConfig)]
    names.remove("measure_epochs")
    asked, there = self.config, self.trained.experiment.config.measure
    if any(getattr(asked, name) != getattr(there, name) for name in names):
      return {}
    path = self.trained.path
    if not parallel.from_first(
      lambda: runs.is_complete(path) and runs.is_of_this_revision(path)
    ):
      return {}
    measured = runs.Rows(r for r in self.trained.rows if r["layer"] is not None)
    return {
      (seed, epoch): rows
      for seed, of_seed in measured.split("seed").items()
      for epoch, rows in of_seed.split("epoch").items()
    }

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Names what is in doubt."""
    del config
    return doubts(rows)

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists the metrics of the last hidden layer by subset."""
    if not rows.layers:
      return ""
    deepest = rows.last_hidden()
    metrics = deepest.where(subset=runs.SUBSETS).distinct("metric")
    (layer,) = deepest.layers.values()
    width = max(map(len, metrics)) + 2
    lines = [f"{'':{width}}" + "".join(f"{s:>14}" for s in deepest.subsets)]
    lines[0] += f"   (layer {layer})"
    for which in ("best", "last"):
      here = runs.Rows(row for row in rows.at(which) if row["layer"])
      if not here:
        lines.append(f"{which} epoch: not measured")
        continue
      lines.append(f"{which} epoch")
      for metric in metrics:
        of_metric = here.where(metric, layer=layer)
        cells = [
          f"{of_metric.where(subset=subset).mean()[0]:14.4g}"
          for subset in deepest.subsets
        ]
        lines.append(f"  {metric:{width - 2}}" + "".join(cells))
    return "\n".join(lines)


def _of(unit: Unit, known: dict[tuple[int, int], runs.Rows]) -> Unit:
  """Makes a unit take over the rows that are known, if they are."""
  rows = known.get((unit.key["seed"], unit.key["epoch"]))
  if rows is None:
    return unit
  step = Step(rows, size=unit.size, done_before=True)
  return unit._replace(work=lambda: iter([step]))
