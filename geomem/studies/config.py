"""What a training run is made of: every field is a flag of the binaries."""

import dataclasses
from typing import Any

from geomem import training
from geomem.studies.fields import check_least, check_seeds, check_types
from geomem.studies.measure_config import MeasureConfig
from geomem.studies.measured_epochs import check_saved


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """The images and their labels.

  Attributes:
    dataset: `digits`, a TFDS name, or `npz:PATH`.
    data_dir: where TFDS looks; by default where it always does.
    image_size: the side of TFDS images, scaled and cropped; by default their
      own.
    memory_limit: GB of pixels to hold in memory, 4 by default; more stream.
    num_classes: the first classes only; all by default.
    examples_per_class: the first training examples of each class only; all by
      default.
    labels: where the training labels come from: `permuted` among the permuted
      examples, `redrawn` for them, uniformly over the classes, from
      `file:PATH`, or those of `cifar_n:NAME` that people gave.
    permuted_fraction: the part of the training examples with permuted labels;
      labels of a file have their own.
  """

  dataset: str = "digits"
  data_dir: str | None = None
  image_size: int | None = None
  memory_limit: float | None = None
  num_classes: int | None = None
  examples_per_class: int | None = None
  labels: str = "permuted"
  permuted_fraction: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The network.

  Attributes:
    model: the architecture, such as mlp, convnet, vgg16_bn or resnet18.
    width: its channels in the first stage; by default the architecture's own.
    dtype: its computation is in `float32` or `bfloat16`; the rest in float32.
  """

  model: str
  width: int | None = None
  dtype: str = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The training recipe and the seeds.

  Attributes:
    epochs: passes over the training set.
    batch_size: examples a step.
    optimizer: `sgd` or `adam`.
    learning_rate: at its peak.
    momentum: of SGD.
    weight_decay: L2 penalty.
    schedule: `constant`, `step` or `cosine`.
    crop: pixels of padding that random crops are taken from.
    flip: whether half of the images are mirrored.
    stop_when_memorized: whether to stop once 99 % of the permuted examples are
      fitted.
    seed: the first seed.
    num_seeds: how many seeds, trained together.
  """

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

  @property
  def seeds(self) -> range:
    """The numbers of the seeds."""
    return range(self.seed, self.seed + self.num_seeds)

  @property
  def recipe(self) -> training.TrainingConfig:
    """What the training loop needs of it."""
    names = [f.name for f in dataclasses.fields(training.TrainingConfig)]
    return training.TrainingConfig(**{n: getattr(self, n) for n in names})


_GROUPS = {
  "data": DataConfig,
  "model": ModelConfig,
  "training": TrainConfig,
  "measure": MeasureConfig,
}
# Recipes check their own numbers.
_LEAST = {
  "data": {
    "image_size": 1,
    "memory_limit": 0,
    "num_classes": 2,
    "examples_per_class": 1,
  },
  "model": {"width": 1},
  "training": {"seed": 0, "num_seeds": 1},
  "measure": {"manifold_points": 2},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
  """What a training run is made of.

  The names of the fields of all groups differ, so that each is a flag.

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
    for name, least in _LEAST.items():
      check_types(getattr(self, name))
      check_least(getattr(self, name), least)
    check_seeds(self.training.seed, self.training.num_seeds)
    saved = training.checkpoint_epochs(self.training.epochs)
    check_saved(self.measure.measure_epochs, saved)

  @classmethod
  def of(cls, **fields: Any) -> "ExperimentConfig":
    """Makes a config from fields of all groups.

    Args:
      **fields: by the name of the flag; those that are left out, or None, have
        their defaults. Those without a default are needed: `make_config` takes
        them from a preset.

    Raises:
      ValueError: a field is not known, or its value is not possible.
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
    """Undoes `as_dict`.

    Raises:
      ValueError: it is no such dict, or a value is not possible.
    """
    for name, group in _GROUPS.items():
      known = {field.name for field in dataclasses.fields(group)}
      fields = groups.get(name)
      if not isinstance(fields, dict):
        raise ValueError(f"there is no group {name!r} in the config.")
      if not known >= set(fields):
        raise ValueError(
          f"the group {name!r} has the fields {sorted(set(fields) - known)},"
          " which are not known."
        )
    return cls(**{n: group(**groups[n]) for n, group in _GROUPS.items()})

  def as_dict(self) -> dict[str, dict[str, Any]]:
    """Returns the groups as a run directory keeps them."""
    return dataclasses.asdict(self)

  def replace(self, **fields: Any) -> "ExperimentConfig":
    """Returns the config with some fields, of any group, changed."""
    return self.of(**(self.flat() | fields))

  def flat(self) -> dict[str, Any]:
    """Returns the fields of all groups."""
    groups = self.as_dict().values()
    return {k: v for fields in groups for k, v in fields.items()}
