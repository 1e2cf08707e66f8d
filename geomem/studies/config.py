"""Configs of training runs; every field is a flag of the binaries."""

import dataclasses
from typing import Any, ClassVar

from geomem import data, models, training
from geomem.studies.fields import Fields, check_seeds
from geomem.studies.measure_config import MeasureConfig, check_saved


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Fields):
  """The images and their labels.

  Attributes:
    dataset: `digits`, a TFDS name, or `npz:PATH`.
    data_dir: directory of the TFDS data, by default that of TFDS itself; or of
      npz and label files that have moved.
    image_size: side to which TFDS images are scaled and cropped; by default
      their own, or 224 if they differ in size.
    memory_limit: GB of pixels to hold in memory, 4 by default; larger sets are
      streamed.
    num_classes: how many classes to use, the first ones; all by default.
    examples_per_class: how many training examples of each class to use, the
      first ones; all by default.
    labels: source of the training labels: `permuted` (shuffled among the
      permuted examples), `redrawn` (drawn for them uniformly over the classes),
      `file:PATH`, or `cifar_n:NAME` (given by people).
    permuted_fraction: fraction of the training examples with permuted labels;
      `file` and `cifar_n` have their own.
  """

  _least: ClassVar = {
    "image_size": 1,
    "memory_limit": 0,
    "num_classes": 2,
    "examples_per_class": 1,
  }
  dataset: str = "digits"
  data_dir: str | None = None
  image_size: int | None = None
  memory_limit: float | None = None
  num_classes: int | None = None
  examples_per_class: int | None = None
  labels: str = "permuted"
  permuted_fraction: float | None = 0.5

  def __post_init__(self):
    super().__post_init__()
    if data.has_own_fraction(self.labels):
      object.__setattr__(self, "permuted_fraction", None)
    elif self.permuted_fraction is None or not 0 <= self.permuted_fraction <= 1:
      raise ValueError(
        f"permuted_fraction is {self.permuted_fraction}; a number between 0 and"
        " 1 was expected."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Fields):
  """The network.

  Attributes:
    model: the architecture, such as mlp, convnet, vgg16_bn or resnet18.
    width: channels of the first stage; by default the architecture's own.
    dtype: type the network computes in, `float32` or `bfloat16`; all else is in
      float32.
  """

  _least: ClassVar = {"width": 1}
  model: str
  width: int | None = None
  dtype: str = "float32"

  def __post_init__(self):
    super().__post_init__()
    models.check_known(self.model)
    models.dtype_named(self.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Fields):
  """The training recipe and the seeds.

  Attributes:
    epochs: passes over the training set.
    batch_size: examples per step.
    optimizer: `sgd` or `adam`.
    learning_rate: peak learning rate.
    momentum: momentum of SGD.
    weight_decay: coefficient of the L2 penalty.
    schedule: `constant`, `step` or `cosine`.
    crop: pixels of padding for random crops.
    flip: whether a random half of the images is mirrored.
    stop_when_memorized: whether to stop once 99% of the permuted examples are
      fitted.
    seed: first seed.
    num_seeds: number of seeds, trained together.
  """

  _least: ClassVar = {"seed": 0, "num_seeds": 1}
  epochs: int
  batch_size: int
  optimizer: str = "sgd"
  learning_rate: float
  momentum: float = 0.9
  weight_decay: float = 0.0
  schedule: str = "constant"
  crop: int = 0
  flip: bool = False
  stop_when_memorized: bool = False
  seed: int = 0
  num_seeds: int = 1

  def __post_init__(self):
    super().__post_init__()
    _ = self.recipe

  @property
  def seeds(self) -> range:
    """The seeds of the run."""
    return range(self.seed, self.seed + self.num_seeds)

  @property
  def recipe(self) -> training.TrainingConfig:
    """The part of the config that the training loop needs."""
    names = [f.name for f in dataclasses.fields(training.TrainingConfig)]
    return training.TrainingConfig(**{n: getattr(self, n) for n in names})


_GROUPS = {
  "data": DataConfig,
  "model": ModelConfig,
  "training": TrainConfig,
  "measure": MeasureConfig,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
  """The complete config of a training run.

  Field names are unique across the groups, so that each can be a flag.

  Attributes:
    data: the images and their labels.
    model: the network.
    training: the recipe and the seeds.
    measure: what is measured.
  """

  data: DataConfig
  model: ModelConfig
  training: TrainConfig
  measure: MeasureConfig

  def __post_init__(self):
    check_seeds(self.training.seed, self.training.num_seeds)
    saved = training.checkpoint_epochs(self.training.epochs)
    check_saved(self.measure.measure_epochs, saved)

  @classmethod
  def of(cls, **fields: Any) -> "ExperimentConfig":
    """Creates a config from the fields of all groups.

    Args:
      **fields: values by flag name. A field that is missing or None takes its
        default; a field without a default is required, and `make_config` takes
        it from a preset.

    Raises:
      ValueError: a field is unknown, or its value is invalid.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    groups = {}
    for name, group in _GROUPS.items():
      names = [field.name for field in dataclasses.fields(group)]
      groups[name] = group(**{n: given.pop(n) for n in names if n in given})
    if given:
      raise ValueError(f"There is no field {', '.join(given)} in the config.")
    return cls(**groups)

  @classmethod
  def from_dict(cls, groups: dict[str, dict[str, Any]]) -> "ExperimentConfig":
    """Creates a config from a result of `as_dict`.

    Raises:
      ValueError: the dict has another form, or a value is invalid.
    """
    for name, group in _GROUPS.items():
      valid = {field.name for field in dataclasses.fields(group)}
      fields = groups.get(name)
      if not isinstance(fields, dict):
        raise ValueError(f"there is no group {name!r} in the config.")
      if not valid >= set(fields):
        raise ValueError(
          f"the group {name!r} has the fields {sorted(set(fields) - valid)},"
          " which are not known."
        )
      for field in dataclasses.fields(group):
        if field.default is dataclasses.MISSING and field.name not in fields:
          raise ValueError(f"the group {name!r} has no {field.name!r}.")
    return cls(**{n: group(**groups[n]) for n, group in _GROUPS.items()})

  def as_dict(self) -> dict[str, dict[str, Any]]:
    """Returns the groups as a run directory stores them."""
    return dataclasses.asdict(self)

  def replace(self, **fields: Any) -> "ExperimentConfig":
    """Returns a copy in which the given fields, of any group, are replaced."""
    return self.of(**(self.flat() | fields))

  def flat(self) -> dict[str, Any]:
    """Returns the fields of all groups as one dict."""
    groups = self.as_dict().values()
    return {k: v for fields in groups for k, v in fields.items()}
