"""Stages of work that measure the saved networks of a training run."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from geomem import measures, runs
from geomem.studies import experiment as experiments
from geomem.studies.experiment import Experiment, Seed
from geomem.studies.measure_config import MeasuringConfig, measured_layers
from geomem.studies.study import Stage, Step, Unit


def measure_network(
  experiment: Experiment,
  seed: Seed,
  state: Any,
  layers: Sequence[str],
  chosen: Sequence[measures.Measure],
  options: measures.Options,
) -> Iterator[Step]:
  """Measures layers of a network; yields a step with the rows of each."""
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


def geometry_stage(
  experiment: Experiment,
  seed: Seed,
  epochs: Sequence[int],
  load: Callable[[int], Any],
  measure: MeasuringConfig,
) -> Stage:
  """Makes the stage that measures a seed at every epoch.

  Args:
    experiment: the run's.
    seed: the seed.
    epochs: those to measure.
    load: from an epoch to the network's state.
    measure: which measures, and of which layers.
  """
  layers = measured_layers(measure.layers, experiment.network.layer_names)

  def work(epoch):
    state = load(epoch)
    columns = {"seed": seed.number, "epoch": epoch}
    try:
      for step in measure_network(
        experiment, seed, state, layers, measure.chosen, measure.options
      ):
        facts = {"epoch": epoch} | step.facts
        yield Step(runs.tagged(step.rows, **columns), facts=facts)
    except ValueError as error:
      raise ValueError(f"Seed {seed.number}, epoch {epoch}, {error}") from error

  units = [
    Unit(
      {"stage": "geometry", "seed": seed.number, "epoch": epoch},
      lambda epoch=epoch: work(epoch),
      len(layers),
    )
    for epoch in epochs
  ]
  return Stage(f"geometry, seed {seed.number}", units)
