"""The stage that measures the saved networks of a training run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from geomem import measures, runs
from geomem.studies import experiment as experiments
from geomem.studies.experiment import Experiment, Seed
from geomem.studies.measure_config import MeasuringConfig, measured_layers
from geomem.studies.measured_epochs import SavedEpochs, places_to_measure
from geomem.studies.study import Stage, Step, Unit


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


def geometry_stage(
  experiment: Experiment,
  seeds: Sequence[Seed],
  epochs: Mapping[int, SavedEpochs],
  load: Callable[[int, int], Any],
  measure: MeasuringConfig,
) -> Stage:
  """Returns the stage that measures the chosen epochs of all seeds.

  All seeds share one stage, so that the epochs that figure 3 needs come first.

  Args:
    experiment: the experiment of the run.
    seeds: the seeds.
    epochs: the epochs of each seed.
    load: function from a seed and an epoch to the network's state.
    measure: the measures, layers and epochs to measure.
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
