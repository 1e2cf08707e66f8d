"""The experiment that all binaries share: data, labels, network, recipe."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geomem import data, models, runs, training


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
  """What a run is made of; every field is a flag of the binaries.

  Fields that are None are chosen by the data set; see `resolve`.

  Attributes:
    dataset: `digits`, a TFDS name, or `npz:PATH`.
    data_dir: where TFDS looks.
    num_classes: the first classes only; all by default.
    examples_per_class: the first training examples of each class only.
    model: the architecture.
    width: its channels in the first stage.
    permuted_fraction: the part of the training examples with permuted labels.
    redraw_labels: whether permuted labels are drawn anew, not shuffled.
    epochs: passes over the training set.
    batch_size: examples per step.
    optimizer: `sgd` or `adam`.
    learning_rate: the peak.
    momentum: of SGD.
    weight_decay: L2 penalty.
    schedule: `constant`, `step` or `cosine`.
    crop: padding of random crops.
    flip: random mirror images.
    stop_when_memorized: stop once 99 % of the permuted examples are fitted.
    seed: the first seed.
    num_seeds: how many.
    manifold_points: M, points of each manifold.
    num_probes: T, probes of each manifold.
    kappa: margin κ.
    centers: `low_rank`, `none` or a number of directions to remove.
  """

  dataset: str = "digits"
  data_dir: str | None = None
  num_classes: int | None = None
  examples_per_class: int | None = None
  model: str | None = None
  width: int | None = None
  permuted_fraction: float = 0.5
  redraw_labels: bool = False
  epochs: int | None = None
  batch_size: int | None = None
  optimizer: str = "sgd"
  learning_rate: float | None = None
  momentum: float = 0.9
  weight_decay: float = 0.0
  schedule: str = "constant"
  crop: int = 0
  flip: bool = False
  stop_when_memorized: bool = False
  seed: int = 0
  num_seeds: int = 1
  manifold_points: int | None = None
  num_probes: int = 300
  kappa: float = 0.0
  centers: str = "low_rank"


# Recipes that are known to memorize half of the labels when permuted.
_DEFAULTS = {
  "digits": {
    "model": "convnet",
    "epochs": 100,
    "batch_size": 64,
    "learning_rate": 0.02,
    "manifold_points": 30,
  },
  "": {
    "model": "vgg16",
    "epochs": 100,
    "batch_size": 128,
    "learning_rate": 0.01,
    "manifold_points": 50,
  },
}


def resolve(config: ExperimentConfig) -> ExperimentConfig:
  """Fills in the fields that the data set decides."""
  defaults = _DEFAULTS.get(config.dataset, _DEFAULTS[""])
  chosen = {k: v for k, v in defaults.items() if getattr(config, k) is None}
  return dataclasses.replace(config, **chosen)


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
    manifolds: `[P, M]` indices of each subset's analysis images.
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
  parse_centers(config.centers)
  names = [field.name for field in dataclasses.fields(training.TrainingConfig)]
  recipe = training.TrainingConfig(**{n: getattr(config, n) for n in names})
  splits = []
  for split in ("train", "test"):
    loaded = data.load(config.dataset, split, config.data_dir)
    if config.num_classes is not None:
      loaded = data.select_classes(loaded, config.num_classes)
    if split == "train" and config.examples_per_class is not None:
      loaded = data.limit_per_class(loaded, config.examples_per_class)
    splits.append(loaded)
  train, test = splits
  network = models.build(
    config.model,
    num_classes=len(train.class_names),
    image_shape=train.images.shape[1:],
    width=config.width,
  )
  training.steps_per_epoch(len(train.labels), recipe.batch_size)
  moments = data.pixel_moments(train.images)
  return Experiment(config, train, test, network, recipe, *moments)


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
  }
  return Seed(seed, labels, subsets, manifolds, training_key, geometry_key)


def training_data(experiment: Experiment, seed: Seed) -> training.TrainingData:
  """The training set on the device, under the seed's labels."""
  return training.TrainingData(
    jnp.asarray(experiment.train.images),
    jnp.asarray(seed.labels.labels),
    jnp.asarray(experiment.mean),
    jnp.asarray(experiment.std),
  )


def parse_centers(text: str) -> str | int | None:
  """The value of `--centers` as the geometry takes it."""
  if text == "none":
    return None
  if text == "low_rank":
    return text
  if text.isdigit():
    return int(text)
  raise ValueError(
    f"centers {text!r} is not known; use low_rank, none or a number."
  )


def config_dict(config: ExperimentConfig) -> dict[str, Any]:
  """The config as JSON takes it."""
  return dataclasses.asdict(resolve(config))


@functools.cache
def measuring_forward(network: models.Network, mean: tuple, std: tuple):
  """`(state, uint8 images) -> activations`, one function for each network."""
  mean_array, std_array = np.float32(mean), np.float32(std)

  def forward(state, images):
    normalized = data.normalize(images, mean_array, std_array)
    return network.apply(state, normalized).activations

  return forward


def load_experiment(path: pathlib.Path | str) -> Experiment:
  """The experiment of a finished run, from the config in its directory.

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
  return prepare(ExperimentConfig(**config))
