"""The parts of an experiment that all seeds share, and those of each seed.

A config that does not fit in memory is refused before any work.
"""

import functools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from geomem import data, geometry, models, parallel, runs, training
from geomem.studies.config import ExperimentConfig
from geomem.studies.measure_config import measured_layers, names_in
from geomem.training.together import fastest_form

_FLOAT = 4
# Arrays of the size of the probes that are in memory at once when measuring.
_PER_PROBE = 6
# Numbers for each parameter: its value and gradient, the optimiser's state, and
# copies being written to disk.
_PER_PARAMETER = 8
# Numbers for each activation: its value and gradient.
_PER_ACTIVATION = 2


def _available_bytes() -> int:
  """Returns the memory of the first device, or of the host if unknown."""
  stats = jax.local_devices()[0].memory_stats() or {}
  host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return stats.get("bytes_limit", host)


def shapes_of(network: models.Network) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shape and type of each layer of one image, in order."""
  image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
  layers = jax.eval_shape(network.apply, network.abstract_state, image)
  return {name: layers.activations[name] for name in network.layer_names}


def num_features(network: models.Network) -> dict[str, int]:
  """Returns the number of features of each layer, in the network's order."""
  return {name: x.size for name, x in shapes_of(network).items()}


def _check_memory(config, network, num_classes: int) -> None:
  """Raises ValueError if probes or training exceed the available memory."""
  measure, recipe = config.measure, config.training
  probes = num_classes * measure.num_probes * (measure.manifold_points + 1)
  activations = sum(num_features(network).values())
  # Accelerators share a batch, and seeds that step one by one use memory in
  # turn.
  share = 1 if jax.default_backend() == "cpu" else parallel.mesh().size
  batch_size = -(-recipe.batch_size // share)
  numbers = _PER_PARAMETER * network.num_parameters * recipe.num_seeds
  activations *= _PER_ACTIVATION * batch_size
  if recipe.num_seeds > 1 and fastest_form(network) != "one_by_one":
    activations *= recipe.num_seeds
  numbers += activations
  available = _available_bytes()
  for needed, what, advice in (
    (
      _PER_PROBE * _FLOAT * probes,
      f"{measure.num_probes:,} probes of {num_classes} manifolds of"
      f" {measure.manifold_points} points",
      "num_probes or manifold_points",
    ),
    (
      _FLOAT * numbers,
      f"{recipe.num_seeds} network(s) of {network.num_parameters:,} parameters"
      f" trained on batches of {recipe.batch_size} examples",
      "width, batch_size or num_seeds",
    ),
  ):
    if needed > available:
      raise ValueError(
        f"{what} take {needed / 1e9:,.0f} GB of memory, and there are"
        f" {available / 1e9:,.0f} GB; lower {advice}."
      )


class Experiment(NamedTuple):
  """An experiment's data, network and recipe, shared by all its seeds.

  Attributes:
    config: the config.
    train: training split, replicated on every device unless it is streamed.
    test: test split, likewise.
    network: the network.
    mean: mean of the training pixels, by channel.
    std: standard deviation of the training pixels, by channel.
    fingerprint: fingerprint of the data in use.
  """

  config: ExperimentConfig
  train: data.Dataset
  test: data.Dataset
  network: models.Network
  mean: np.ndarray
  std: np.ndarray
  fingerprint: str

  @property
  def recipe(self) -> training.TrainingConfig:
    """The training recipe."""
    return self.config.training.recipe

  @property
  def splits(self) -> dict[str, data.Images]:
    """The images by split."""
    return {"train": self.train.images, "test": self.test.images}

  @property
  def num_classes(self) -> int:
    """The number of classes in use."""
    return len(self.train.class_names)


class Seed(NamedTuple):
  """Everything that depends on the seed, except the training state.

  Attributes:
    number: the seed.
    labels: training labels, and the mask of permuted examples.
    subsets: the paper's subsets by name.
    manifolds: `[P, M]` image indices of the manifolds, by measured subset.
    training_key: PRNG key of the training.
    geometry_key: PRNG key of the probes.
  """

  number: int
  labels: data.PermutedLabels
  subsets: dict[str, data.Subset]
  manifolds: dict[str, np.ndarray]
  training_key: jax.Array
  geometry_key: jax.Array


def prepare(config: ExperimentConfig) -> Experiment:
  """Loads the data and builds the network.

  Raises:
    ValueError: the config is not feasible; everything is checked here, before
      any work.
  """
  names_in(config.measure.subsets, data.SUBSETS, "subset")
  recipe = config.training.recipe
  train, test = (_load(config.data, split) for split in ("train", "test"))
  if train.images.shape[1:] != test.images.shape[1:]:
    raise data.DatasetError(
      f"The training images of {config.data.dataset} have the shape"
      f" {train.images.shape[1:]}, the test images {test.images.shape[1:]}; one"
      " shape was expected."
    )
  num_classes = len(train.class_names)
  if num_classes < 2:
    raise data.DatasetError(
      f"{config.data.dataset} has {num_classes} class; at least two are needed."
    )
  network = models.build(
    config.model.model,
    num_classes=num_classes,
    image_shape=train.images.shape[1:],
    width=config.model.width,
    dtype=models.dtype_named(config.model.dtype),
  )
  _check_memory(config, network, num_classes)
  height, width = train.images.shape[1:3]
  if recipe.crop >= min(height, width):
    raise ValueError(
      f"crop is {recipe.crop}; less than the images' side was expected, and"
      f" they are {height} x {width} pixels."
    )
  measured_layers(config.measure.layers, network.layer_names)
  geometry.check_centers(config.measure.options.centers, num_classes)
  training.steps_per_epoch(len(train.labels), recipe.batch_size)
  moments = data.pixel_moments(train.images)
  fingerprint = data.fingerprint(train, test)
  train, test = (
    split._replace(images=training.on_devices(split.images))
    for split in (train, test)
  )
  return Experiment(config, train, test, network, *moments, fingerprint)


def _load(config, split: str) -> data.Dataset:
  """Loads the used part of a split; only this part must fit in memory."""
  chosen = data.open_split(
    config.dataset, split, config.data_dir, config.image_size
  )
  if config.num_classes is not None:
    chosen = data.select_classes(chosen, config.num_classes)
  if split == "train" and config.examples_per_class is not None:
    chosen = data.limit_per_class(chosen, config.examples_per_class)
  return data.hold(chosen, config.memory_limit)


def prepare_seed(experiment: Experiment, number: int) -> Seed:
  """Makes the training labels and samples the manifolds of one seed."""
  config = experiment.config
  keys = jax.random.split(jax.random.key(number), 4)
  label_key, sample_key, training_key, geometry_key = keys
  labels = data.make_labels(
    data.located(config.data.labels, config.data.data_dir),
    label_key,
    experiment.train,
    config.data.permuted_fraction,
  )
  subsets = data.make_subsets(labels, experiment.test.labels)
  measured = names_in(config.measure.subsets, data.SUBSETS, "subset")
  manifolds = {
    name: data.sample_manifolds(
      sample_key, subset, experiment.num_classes, config.measure.manifold_points
    )
    for name, subset in subsets.items()
    if name in measured
  }
  if not manifolds:
    raise ValueError(
      f"subsets is {config.measure.subsets!r}, and under the labels of seed"
      f" {number} there are none of these examples, but {', '.join(subsets)}."
    )
  return Seed(number, labels, subsets, manifolds, training_key, geometry_key)


def prepare_seeds(
  experiment: Experiment, run_path: pathlib.Path | str | None = None
) -> list[Seed]:
  """Prepares all seeds of an experiment.

  Args:
    experiment: from `prepare`.
    run_path: a run trained with these seeds, whose labels must match.

  Raises:
    RunError: the labels of the run differ, or those that came from a file are
      missing.
  """
  numbers = experiment.config.training.seeds
  seeds = [prepare_seed(experiment, number) for number in numbers]
  if run_path is not None:
    # The config does not tell what was in a file of labels.
    from_file = data.has_own_fraction(experiment.config.data.labels)
    for seed in seeds:
      _check_labels(run_path, seed, must_exist=from_file)
  return seeds


def _labels_file(path: pathlib.Path | str, seed: Seed) -> pathlib.Path:
  return pathlib.Path(path) / f"labels_seed{seed.number}.npz"


def _check_labels(
  path: pathlib.Path | str, seed: Seed, *, must_exist: bool = False
) -> None:
  file = _labels_file(path, seed)
  if must_exist and not file.exists():
    raise runs.RunError(
      f"{file} is missing, with the labels that the run was trained on; restore"
      " it from a copy."
    )
  if not file.exists():
    return
  stored = data.PermutedLabels.load(file)
  if not all(map(np.array_equal, stored, seed.labels)):
    raise runs.RunError(
      f"{file} holds other labels than seed {seed.number} of this config gives:"
      " they were made from other data, from another file of labels, or by"
      " another version of JAX. Choose another directory with --out, or restore"
      " what has changed."
    )


def keep_labels(path: pathlib.Path | str, seed: Seed) -> None:
  """Saves a seed's labels in the run directory, or checks those in it.

  Raises:
    RunError: the labels in the directory differ.
  """
  file = _labels_file(path, seed)
  if not parallel.from_first(file.exists):
    parallel.from_first(functools.partial(seed.labels.save, file))
  _check_labels(path, seed)


def training_data(experiment: Experiment, seed: Seed) -> training.TrainingData:
  """Returns the training set under the seed's labels."""
  return training.TrainingData(
    experiment.train.images,
    jnp.asarray(seed.labels.labels),
    jnp.asarray(experiment.mean),
    jnp.asarray(experiment.std),
  )


def manifold_images(
  experiment: Experiment, seed: Seed
) -> dict[str, UInt8[Array | np.ndarray, "P M H W C"]]:
  """Returns the images of the manifolds, by measured subset.

  Images of streamed sets are decoded, and returned on the host.
  """
  chosen = {
    name: getattr(experiment, seed.subsets[name].source).images[indices]
    for name, indices in seed.manifolds.items()
  }
  return {
    name: np.asarray(images) if data.streams(images) else images
    for name, images in chosen.items()
  }


def spread_images(images: data.Images, most: int) -> data.Images:
  """Chooses at most `most` images, spread evenly over all."""
  indices = np.linspace(0, len(images), min(len(images), most), False)
  return images[indices.astype(int)]


def measuring_forward(experiment: Experiment):
  """Returns `(state, uint8 images) -> activations`, cached by network."""
  moments = (tuple(x.tolist()) for x in (experiment.mean, experiment.std))
  return _forward(experiment.network, *moments)


@functools.cache
def _forward(network: models.Network, mean: tuple, std: tuple):
  mean_array, std_array = np.float32(mean), np.float32(std)

  def forward(state, images):
    normalized = data.normalize(images, mean_array, std_array)
    return network.apply(state, normalized).activations

  return forward
