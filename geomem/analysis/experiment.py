"""The experiment that all binaries share: data, labels, network, recipe."""

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from geomem import data, geometry, models, runs, training
from geomem.analysis.config import (
  ExperimentConfig,
  measured_layers,
  names_in,
  parse_centers,
  resolve,
)


class Experiment(NamedTuple):
  """What does not depend on the seed.

  Attributes:
    config: resolved.
    train: training split.
    test: test split.
    network: the network.
    recipe: the training recipe.
    mean: of the training pixels, by channel.
    std: of the training pixels, by channel.
  """

  config: ExperimentConfig
  train: data.Dataset
  test: data.Dataset
  network: models.Network
  recipe: training.TrainingConfig
  mean: np.ndarray
  std: np.ndarray

  @property
  def num_classes(self) -> int:
    """Classes in use."""
    return len(self.train.class_names)


class Seed(NamedTuple):
  """What depends on the seed, and nothing that training changes.

  Attributes:
    seed: the seed.
    labels: training labels and which are permuted.
    subsets: the paper's subsets by name.
    manifolds: `[P, M]` indices of each measured subset's analysis images.
    training_key: key of the training.
    geometry_key: key of the probes.
  """

  seed: int
  labels: data.PermutedLabels
  subsets: dict[str, data.Subset]
  manifolds: dict[str, np.ndarray]
  training_key: jax.Array
  geometry_key: jax.Array


def prepare(config: ExperimentConfig) -> Experiment:
  """Loads the data and builds the network; checks all that can be checked."""
  config = resolve(config)
  names_in(config.subsets, data.SUBSETS, "subset")
  names = [field.name for field in dataclasses.fields(training.TrainingConfig)]
  recipe = training.TrainingConfig(**{n: getattr(config, n) for n in names})
  train, test = (_load(config, split) for split in ("train", "test"))
  network = models.build(
    config.model,
    num_classes=len(train.class_names),
    image_shape=train.images.shape[1:],
    width=config.width,
    dtype=models.dtype_named(config.dtype),
  )
  measured_layers(config, network.layer_names)
  geometry.check_centers(parse_centers(config.centers), len(train.class_names))
  training.steps_per_epoch(len(train.labels), recipe.batch_size)
  moments = data.pixel_moments(train.images)
  return Experiment(config, train, test, network, recipe, *moments)


def _load(config: ExperimentConfig, split: str) -> data.Dataset:
  """What the config uses of a split; only that must fit the memory."""
  chosen = data.open_split(
    config.dataset, split, config.data_dir, config.image_size
  )
  if config.num_classes is not None:
    chosen = data.select_classes(chosen, config.num_classes)
  if split == "train" and config.examples_per_class is not None:
    chosen = data.limit_per_class(chosen, config.examples_per_class)
  return data.hold(chosen, config.memory_limit)


def prepare_seed(experiment: Experiment, seed: int) -> Seed:
  """Permutes the labels and samples the manifolds of one seed."""
  config = experiment.config
  keys = jax.random.split(jax.random.key(seed), 4)
  label_key, sample_key, training_key, geometry_key = keys
  labels = data.permute_labels(
    label_key,
    experiment.train.labels,
    config.permuted_fraction,
    redraw=config.redraw_labels,
  )
  subsets = data.make_subsets(labels, experiment.test.labels)
  manifolds = {
    name: data.sample_manifolds(
      sample_key, subset, experiment.num_classes, config.manifold_points
    )
    for name, subset in subsets.items()
    if name in names_in(config.subsets, data.SUBSETS, "subset")
  }
  return Seed(seed, labels, subsets, manifolds, training_key, geometry_key)


def training_data(experiment: Experiment, seed: Seed) -> training.TrainingData:
  """The training set under the seed's labels; on the device if in memory."""
  images = experiment.train.images
  if not isinstance(images, data.StreamedImages):
    images = jnp.asarray(images)
  return training.TrainingData(
    images,
    jnp.asarray(seed.labels.labels),
    jnp.asarray(experiment.mean),
    jnp.asarray(experiment.std),
  )


def manifold_images(
  experiment: Experiment, seed: Seed
) -> UInt8[np.ndarray, "subsets P M H W C"]:
  """The images of the manifolds of every measured subset."""
  images = [
    getattr(experiment, seed.subsets[name].source).images[chosen]
    for name, chosen in seed.manifolds.items()
  ]
  return np.stack(images)


def measuring_forward(experiment: Experiment):
  """`(state, uint8 images) -> activations`, one function for each network."""
  moments = (tuple(x.tolist()) for x in (experiment.mean, experiment.std))
  return _forward(experiment.network, *moments)


@functools.cache
def _forward(network: models.Network, mean: tuple, std: tuple):
  mean_array, std_array = np.float32(mean), np.float32(std)

  def forward(state, images):
    normalized = data.normalize(images, mean_array, std_array)
    return network.apply(state, normalized).activations

  return forward


def load_experiment(
  path: pathlib.Path | str, data_dir: str | None = None
) -> Experiment:
  """The experiment of a finished run, from the config in its directory.

  Args:
    path: the run directory.
    data_dir: where the data lie now, if not where they were.

  Raises:
    RunError: the directory is no run of `experiments.memorization`, or its
      training has not come to an end.
  """
  config = runs.read_config(path)
  known = {field.name for field in dataclasses.fields(ExperimentConfig)}
  if not known >= set(config):
    raise runs.RunError(
      f"{path} holds no run of experiments.memorization; its config has the"
      f" fields {sorted(set(config) - known)}."
    )
  done = {
    r["seed"] for r in runs.read_rows(path) if r["metric"] == "last_epoch"
  }
  seeds = set(range(config["seed"], config["seed"] + config["num_seeds"]))
  if not seeds <= done:
    raise runs.RunError(
      f"The run in {path} is not finished: seed {min(seeds - done)} has not"
      " been trained to its end. Give its own command again first."
    )
  if data_dir is not None:
    config["data_dir"] = data_dir
  return prepare(ExperimentConfig(**config))
