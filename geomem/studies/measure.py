"""Applies further measures to the layers of a finished run.

  python -m experiments measure --run=runs/demo --measures=spectrum

measures every layer at every saved epoch, on the run's own manifolds, and
writes to RUN/measure-NAMES. Options that are not given have their defaults,
whatever the run used; options that differ from both, and chosen epochs, are
part of the name of the directory. Nothing is trained, and values that the run
has measured with the same settings are not measured again. Repeat the command
to resume what was interrupted.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from geomem import geometry, measures, parallel, plots, runs
from geomem.measures import statistics
from geomem.studies import experiment as experiments
from geomem.studies.experiment import Experiment, Seed
from geomem.studies.finding import grouped
from geomem.studies.measure_config import (
  MeasuringConfig,
  SavedEpochs,
  check_saved,
  measured_layers,
  places_to_measure,
)
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import OfRun, TrainedRun

_LONGEST_NAME = 60


def measure_network(
  experiment: Experiment,
  seed: Seed,
  state: Any,
  layers: Sequence[str],
  chosen: Sequence[measures.Measure],
  options: measures.Options,
) -> Iterator[Step]:
  """Yields a step with the rows of each measured layer of a network."""
  names = experiment.network.layer_names
  for layer, rows in measures.measure_layers(
    seed.geometry_key,
    chosen,
    options,
    experiments.measuring_forward(experiment),
    state,
    experiments.manifold_images(experiment, seed),
    layers,
  ):
    place = {"layer": layer, "layer_index": names.index(layer)}
    yield Step(runs.tagged(rows, **place), facts={"layer": layer})


def check_room(
  experiment: Experiment, seeds: Sequence[Seed], measure: MeasuringConfig
) -> None:
  """Raises ValueError if what the measures need does not fit in memory."""
  if "points" not in {one.statistic for one in measure.chosen}:
    return
  sizes = experiments.num_features(experiment.network)
  layers = measured_layers(measure.layers, experiment.network.layer_names)
  for seed in seeds:
    shape = np.shape(list(seed.manifolds.values()))
    statistics.check_room({name: 4 * sizes[name] for name in layers}, shape)


def geometry_stage(
  experiment: Experiment,
  seeds: Sequence[Seed],
  epochs: Mapping[int, SavedEpochs],
  load: Callable[[int, int], Any],
  measure: MeasuringConfig,
) -> Stage:
  """Returns the stage that measures the chosen epochs of all seeds.

  All seeds share one stage, so that the epochs that figure 3 needs come first.
  The function `load` takes a seed and an epoch to the state of the network.
  """
  layers = measured_layers(measure.layers, experiment.network.layer_names)
  by_number = {seed.number: seed for seed in seeds}

  def work(number, epoch):
    seed, state = by_number[number], load(number, epoch)
    columns = {"seed": seed.number, "epoch": epoch}
    try:
      for step in measure_network(
        experiment, seed, state, layers, measure.chosen, measure.options
      ):
        facts = columns | step.facts
        yield Step(runs.tagged(step.rows, **columns), facts=facts)
    except ValueError as error:
      raise ValueError(f"Seed {seed.number}, epoch {epoch}, {error}") from error

  units = [
    Unit(
      {"stage": "geometry", "seed": seed, "epoch": epoch},
      lambda seed=seed, epoch=epoch: work(seed, epoch),
      len(layers),
    )
    for seed, epoch in places_to_measure(measure.measure_epochs, epochs)
  ]
  return Stage("geometry", units)


def _named(option: str, value: str) -> str:
  """Names an option and its value, or the hash of a long one."""
  if len(value) > _LONGEST_NAME:
    value = hashlib.sha256(value.encode()).hexdigest()[:12]
  return f"{option}={value}"


class Measuring(OfRun):
  """Measurements of the layers of a finished run at saved epochs.

  They use the manifolds of the run itself and, of as many probes, its probes.
  Rows that the run has measured in the same way are copied from it.
  """

  name = "measure"
  figures = plots.MEASURE

  def __init__(self, config: MeasuringConfig, trained: TrainedRun):
    """Checks the layer names, K, and that chosen epochs are saved."""
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    measured_layers(config.layers, names)
    centers = config.options.centers
    geometry.check_centers(centers, trained.experiment.num_classes)
    saved = self.saved_epochs()
    there = sorted({epoch for of in saved.values() for epoch in of})
    check_saved(config.measure_epochs, there)
    self.epochs = {
      seed: SavedEpochs(epochs, trained.best(seed), trained.last(seed))
      for seed, epochs in saved.items()
    }
    if not places_to_measure(config.measure_epochs, self.epochs):
      raise ValueError(
        f"There is nothing to measure: {trained.path} has no network of"
        f" measure_epochs {config.measure_epochs}; it has those of epochs"
        f" {', '.join(map(str, there))}."
      )
    measures = (measure.name for measure in config.chosen)
    self.directory = self._directory("measure", *measures)

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields the facts, and the geometry of all seeds."""
    check_room(self.trained.experiment, self.trained.seeds, self.config)
    yield self.facts_stage()
    stage = geometry_stage(
      self.trained.experiment,
      self.trained.seeds,
      self.epochs,
      self.trained.state,
      self.config,
    )
    known = self._known()

    def copied(unit: Unit) -> Unit:
      rows = known.get((unit.key["seed"], unit.key["epoch"]))
      step = Step(rows or (), size=unit.size, done_before=True)
      return unit._replace(work=lambda: iter([step])) if rows else unit

    yield stage._replace(units=list(map(copied, stage.units)))

  def facts(self) -> runs.Rows:
    """Returns the run's facts, with the chance capacity at this study's κ.

    Older runs state none, which readers take for that at κ = 0.
    """
    facts, kappa = super().facts(), self.config.kappa
    others = [row for row in facts if row["metric"] != "chance_capacity"]
    chance = [
      row
      | {"metric": "chance_capacity"}
      | {"value": float(geometry.simplex_capacity(int(row["value"]), kappa))}
      for row in facts.where("manifold_points")
    ]
    return runs.Rows(others + chance)

  def _directory(self, *parts: str) -> pathlib.Path:
    """Returns a directory named by the epochs and by options of its own.

    These are neither the defaults nor the run's.
    """
    chosen = self.config.measure_epochs
    epochs = chosen.split(",") if chosen else ()
    of_run = self._options_unlike(self.trained.experiment.config.measure)
    new = self._options_unlike(type(self.config)())
    options = [_named(k, str(v)) for k, v in new.items() if k in of_run]
    return self.trained.path / "-".join([*parts, *epochs, *options])

  def _options_unlike(self, other: MeasuringConfig) -> dict[str, Any]:
    """Returns the options, by name, whose values are not those of the other."""
    return {
      field.name: value
      for field in dataclasses.fields(MeasuringConfig)
      if field.name not in ("measures", "measure_epochs")
      and (value := getattr(self.config, field.name))
      != getattr(other, field.name)
    }

  def _known(self) -> dict[tuple[int, int], runs.Rows]:
    """Returns the rows of the run by seed and epoch, if they can be copied.

    It must be complete, with the same settings and revision of geomem.
    """
    path, run_config = self.trained.path, self.trained.experiment.config.measure
    unlike = self.config.measures != run_config.measures
    unlike |= bool(self._options_unlike(run_config))
    if unlike or not parallel.from_first(
      lambda: runs.is_complete(path) and runs.is_of_this_revision(path)
    ):
      return {}
    rows = self.trained.rows.where(epoch=self.trained.rows.distinct("epoch"))
    measured = (row for row in rows if row["layer"] is not None)
    return grouped(measured, "seed", "epoch")

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
          f"{of_metric.where(subset=subset).mean(rows.seeds)[0]:14.4g}"
          for subset in deepest.subsets
        ]
        lines.append(f"  {metric:{width - 2}}" + "".join(cells))
    return "\n".join(lines)
