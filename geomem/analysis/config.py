"""What a run is made of: every field is a flag of the binaries."""

import dataclasses
import re
from typing import Any

from geomem.analysis.fields import check_least, check_seeds, check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
  """What a run is made of; every field is a flag of the binaries.

  Fields that are None are chosen by the data set; see `resolve`.

  Attributes:
    dataset: `digits`, a TFDS name, or `npz:PATH`.
    data_dir: where TFDS looks; by default where it always does.
    image_size: the side of TFDS images, scaled and cut; by default their own.
    memory_limit: GB of pixels to hold in memory, 4 by default; more stream.
    num_classes: the first classes only; all by default.
    examples_per_class: the first training examples of each class only; all by
      default.
    model: the architecture, such as mlp, convnet, vgg16_bn or resnet18.
    width: its channels in the first stage; by default the architecture's own.
    dtype: its computation is in `float32` or `bfloat16`; the rest in float32.
    permuted_fraction: the part of the training examples with permuted labels.
    redraw_labels: whether permuted labels are drawn anew, not shuffled.
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
    manifold_points: M, points of each manifold.
    num_probes: T, probes of each manifold.
    kappa: margin κ, in units of the norm of a manifold's centre.
    centers: `low_rank`, `none` or a number of directions to remove.
    layers: those to measure, with commas, or `last` (hidden); all by default.
    subsets: those to measure, with commas; all by default.
  """

  dataset: str = "digits"
  data_dir: str | None = None
  image_size: int | None = None
  memory_limit: float | None = None
  num_classes: int | None = None
  examples_per_class: int | None = None
  model: str | None = None
  width: int | None = None
  dtype: str = "float32"
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
  layers: str | None = None
  subsets: str | None = None

  def __post_init__(self):
    check_types(self)
    check_least(self, _LEAST)
    check_seeds(self.seed, self.num_seeds)


# The recipe's own numbers are checked where it is made.
_LEAST = {
  "image_size": 1,
  "memory_limit": 0,
  "num_classes": 2,
  "examples_per_class": 1,
  "width": 1,
  "seed": 0,
  "num_seeds": 1,
  "manifold_points": 2,
  "num_probes": 1,
}

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


def parse_centers(text: str) -> str | int | None:
  """The value of `--centers` as the geometry takes it."""
  if text == "none":
    return None
  if text == "low_rank":
    return text
  if re.fullmatch("[0-9]+", text):
    return int(text)
  raise ValueError(
    f"centers {text!r} is not known; use low_rank, none or a number."
  )


def measured_layers(
  config: ExperimentConfig, layer_names: tuple[str, ...]
) -> tuple[str, ...]:
  """The layers whose geometry is measured, in the network's order."""
  if config.layers == "last":
    return (layer_names[-2],)
  return names_in(config.layers, layer_names, "layer")


def names_in(
  text: str | None, known: tuple[str, ...], noun: str
) -> tuple[str, ...]:
  """Names with commas, of those that are known, in the order of these."""
  if text is None:
    return known
  names = [name.strip() for name in text.split(",")]
  unknown = [name for name in names if name not in known]
  if unknown:
    raise ValueError(
      f"{noun} {unknown[0]!r} is not known; choose of {', '.join(known)}."
    )
  return tuple(name for name in known if name in names)


def config_dict(config: ExperimentConfig) -> dict[str, Any]:
  """The config as JSON takes it."""
  return dataclasses.asdict(resolve(config))
