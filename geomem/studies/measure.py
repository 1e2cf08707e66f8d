"""The measuring study: further measures of a finished training run."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from geomem import geometry, parallel, plots, runs
from geomem.studies.doubts import doubts
from geomem.studies.measure_config import MeasuringConfig, measured_layers
from geomem.studies.measured_epochs import SavedEpochs, check_saved
from geomem.studies.measuring import geometry_stage
from geomem.studies.of_run import OfRun
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import TrainedRun


class Measuring(OfRun):
  """Measurements of the layers of a finished run at saved epochs.

  They use the manifolds and the probes of the run itself. Rows that the run has
  measured in the same way are copied from it.
  """

  name = "measure"
  figures = plots.MEASURE

  def __init__(self, config: MeasuringConfig, trained: TrainedRun):
    """Checks the layer names, and that the chosen epochs are saved."""
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    measured_layers(config.layers, names)
    saved = self.saved_epochs()
    check_saved(config.measure_epochs, {e for of in saved.values() for e in of})
    self.epochs = {
      seed: SavedEpochs(epochs, trained.best(seed), trained.last(seed))
      for seed, epochs in saved.items()
    }
    measures = (measure.name for measure in config.chosen)
    self.directory = self._directory("measure", *measures)

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields the facts, and the geometry of all seeds."""
    del run
    yield self.facts_stage()
    stage = geometry_stage(
      self.trained.experiment,
      self.trained.seeds,
      self.epochs,
      self.trained.state,
      self.config,
    )
    measured = self._known()
    yield stage._replace(units=[_of(unit, measured) for unit in stage.units])

  def facts(self) -> runs.Rows:
    """Returns the run's facts, with the chance capacity at this study's κ."""
    points = self.trained.rows.fact("manifold_points")
    chance = {
      seed: float(geometry.simplex_capacity(int(count), self.config.kappa))
      for seed, count in points.items()
    }
    return runs.Rows(
      row | {"value": chance[row["seed"]]}
      if row["metric"] == "chance_capacity"
      else row
      for row in super().facts()
    )

  def _directory(self, *parts: str) -> pathlib.Path:
    """Returns a directory whose name includes the chosen epochs."""
    chosen = self.config.measure_epochs
    epochs = chosen.split(",") if chosen else ()
    return self.trained.path / "-".join([*parts, *epochs])

  def _known(self) -> dict[tuple[int, int], runs.Rows]:
    """Returns the rows of the run by seed and epoch, if they can be copied.

    It must be complete, with the same settings and revision of geomem.
    """
    names = [field.name for field in dataclasses.fields(MeasuringConfig)]
    names.remove("measure_epochs")
    config, run_config = self.config, self.trained.experiment.config.measure
    if any(
      getattr(config, name) != getattr(run_config, name) for name in names
    ):
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
    """Returns the doubts about the rows."""
    del config
    return doubts(rows)

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns the metrics of the last hidden layer by subset."""
    if not rows.layers:
      return ""
    deepest = rows.last_hidden()
    metrics = deepest.where(subset=runs.SUBSETS).distinct("metric")
    (layer,) = deepest.layers.values()
    width = max(map(len, metrics)) + 2
    lines = [f"{'':{width}}" + "".join(f"{s:>14}" for s in deepest.subsets)]
    lines[0] += f"   (layer {layer})"
    for which in ("best", "last"):
      at_epoch = runs.Rows(row for row in rows.at(which) if row["layer"])
      if not at_epoch:
        lines.append(f"{which} epoch: not measured")
        continue
      lines.append(f"{which} epoch")
      for metric in metrics:
        of_metric = at_epoch.where(metric, layer=layer)
        cells = [
          f"{of_metric.where(subset=subset).mean()[0]:14.4g}"
          for subset in deepest.subsets
        ]
        lines.append(f"  {metric:{width - 2}}" + "".join(cells))
    return "\n".join(lines)


def _of(unit: Unit, known: dict[tuple[int, int], runs.Rows]) -> Unit:
  """Returns a unit that copies its rows if they are known."""
  rows = known.get((unit.key["seed"], unit.key["epoch"]))
  if rows is None:
    return unit
  step = Step(rows, size=unit.size, done_before=True)
  return unit._replace(work=lambda: iter([step]))
