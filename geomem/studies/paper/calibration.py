"""Calibration: one unit of each kind of work, timed on the device at hand.

It runs the programs of the studies at their own sizes, on networks that are
trained for two epochs and dropped. The programs stay in the cache, so the
stages do not compile them again.
"""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from geomem import geometry, parallel, plots, shares, training
from geomem.geometry.simulation import FEWEST_DRAWS
from geomem.studies import experiment as experiments
from geomem.studies.measure import measure_network
from geomem.studies.measure_config import measured_layers
from geomem.studies.memorization import Memorization
from geomem.studies.paper.work import Work, operations

# Operations that take some seconds on a core, and on an accelerator.
_MOST_ON_CPU, _MOST = 1e11, 1e15
# The last layers, which are the smallest, are measured; an accelerator takes
# more at once.
_LAYERS = 4
# Points of a simulation; for more, the time is extrapolated.
_MOST_POINTS = 400


def calibrate(study: Memorization, path: pathlib.Path) -> Work:
  """Returns the seconds for each unit of an experiment's work.

  Programs count with the time to compile them, or to read them from the cache,
  and the disk that is timed is that of `path`.
  """
  step, network = _time_steps(study)
  image, program = _time_images(study, network)
  one_set, solver = _time_sets(study, network)
  draw = _time_draws(study)
  scratch = path / ".calibration"

  def remove() -> None:
    parallel.from_first(lambda: shutil.rmtree(scratch, ignore_errors=True))

  remove()  # That of a start that was killed.
  try:
    saved, figure = _time_disk(network, scratch), _time_figure(scratch)
  finally:
    remove()
  prices = Work(step, image, one_set, draw, saved, program, solver, figure, 0.0)
  return parallel.from_first(lambda: prices)


def _affordable(each: int, count: int) -> int:
  """Returns how many of `count` units of `each` operations to run."""
  most = _MOST_ON_CPU if jax.default_backend() == "cpu" else _MOST
  return max(1, min(count, int(most / max(each, 1))))


def _next(items: Iterator) -> tuple[Any, float]:
  """Returns the next item of an iterator, and the seconds until it is there."""
  start = time.perf_counter()
  return next(items), time.perf_counter() - start


def _seconds(call: Callable[[], Any]) -> float:
  """Returns the seconds of a call."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def _time_steps(study: Memorization) -> tuple[float, Any]:
  """Times a training step of all seeds; returns a network, too."""
  experiment, seeds = study.experiment, study.seeds
  # One epoch more than the compilation takes.
  recipe = experiment.recipe
  recipe = dataclasses.replace(recipe, epochs=max(2, recipe.epochs))
  each = 3 * operations(experiment.network) * recipe.batch_size * len(seeds)
  data = experiments.training_data(experiment, seeds[0])
  labels = jnp.stack([jnp.asarray(seed.labels.labels) for seed in seeds])
  steps = training.steps_per_epoch(labels.shape[1], recipe.batch_size)
  if (chosen := _affordable(each, steps)) < steps:
    number, steps = chosen * recipe.batch_size, chosen
    data, labels = (
      data._replace(images=data.images[:number]),
      labels[:, :number],
    )
  trained = training.train_seeds(
    jnp.stack([seed.training_key for seed in seeds]),
    experiment.network,
    data._replace(labels=labels),
    recipe,
  )
  next(trained)  # The initial states.
  next(trained)  # Compiles the step.
  (states, _), seconds = _next(trained)
  return seconds / steps, states[0].network


def _time_images(study: Memorization, network: Any) -> tuple[float, float]:
  """Times the forward pass of an image, and its compilation."""
  experiment = study.experiment
  images = experiment.test.images
  each = operations(experiment.network)
  images = images[: _affordable(each, len(images))]

  def forward() -> Any:
    return training.predict_logits(
      experiment.network, network, images, experiment.mean, experiment.std
    )

  first, second = (_seconds(forward) for _ in range(2))
  return second / len(images), max(0.0, first - second)


def _time_sets(study: Memorization, network: Any) -> tuple[float, float]:
  """Times a manifold set of the last hidden layers, and the compilation."""
  experiment, seed = study.experiment, study.seeds[0]
  measure, names = study.config.measure, experiment.network.layer_names
  subsets = len(seed.manifolds)
  points = sum(indices.size for indices in seed.manifolds.values())
  at_once = max(1, shares.entries_at_once() // subsets)
  number = max(_LAYERS, at_once)
  layers = measured_layers(measure.layers, names)[-number:]
  if _affordable(operations(experiment.network), points) < points:
    layers = names[:1]  # The images themselves, which need no network.

  def rows() -> Iterator:
    return measure_network(
      experiment, seed, network, layers, measure.chosen, measure.options
    )

  _, first = _next(rows())  # Of all layers that are taken at once.
  start = time.perf_counter()
  count = sum(1 for _ in rows())
  each = (time.perf_counter() - start) / count
  return each / subsets, max(0.0, first - at_once * each)


def _time_draws(study: Memorization) -> float:
  """Times a simulated dichotomy, on few manifolds if there are many points.

  The time grows with the third power of the number of points.
  """
  num_manifolds, num_points = next(
    iter(study.seeds[0].manifolds.values())
  ).shape
  few = max(2, min(num_manifolds, _MOST_POINTS // num_points))
  centers = np.random.default_rng(0).normal(size=(2, few, 1, few * num_points))
  shape = (few, num_points, few * num_points)
  points = centers[0] + np.random.default_rng(1).normal(size=shape)

  def draw() -> None:
    geometry.simulated_capacity(
      jax.random.key(0), points, num_draws=FEWEST_DRAWS
    )

  draw()  # Imports SciPy.
  return _seconds(draw) / FEWEST_DRAWS * (num_manifolds / few) ** 3


def _time_disk(network: Any, scratch: pathlib.Path) -> float:
  """Times the writing of a network, with opening and closing."""

  def save(name: str) -> None:
    with training.Checkpoints(scratch / name) as saved:
      saved.save(0, network)

  save("first")
  return _seconds(lambda: save("second"))


def _time_figure(scratch: pathlib.Path) -> float:
  """Times drawing a figure of eight panels."""

  def draw() -> None:
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes in figure.subplots(2, 4).flat:
      axes.errorbar(range(10), range(10), yerr=1, label="a")
      axes.legend()
    plots.save_figure(figure, scratch / f"figure{jax.process_index()}")

  draw()  # Finds the fonts.
  return _seconds(draw)
