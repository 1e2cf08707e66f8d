"""What there is to measure of a finished run's gradients, checked first."""

import dataclasses
import pathlib
import zlib
from typing import Any

import numpy as np

from geomem import runs
from geomem.analysis import gradients
from geomem.analysis.fields import check_types
from geomem.analysis.finished import saved_epochs
from geomem.analysis.gradient_measures import SUBSETS

# The law of three kinds of labels, and the closed form of both subsets.
LAW_UNITS = 5
STREAM = zlib.crc32(b"gradients")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientConfig:
  """What is measured of a run; every field is a flag of the binary.

  Attributes:
    max_examples: at most so many examples of each subset; 0 for all.
    draws: of the permuted labels, for the law.
    training_mode: whether networks with batch norm are measured with the
      batches' own statistics, too.
  """

  max_examples: int = 0
  draws: int = 8
  training_mode: bool = True

  def __post_init__(self):
    check_types(self)
    if self.max_examples < 0:
      raise ValueError(
        f"max_examples is {self.max_examples}; give a positive number, or 0"
        " for all."
      )
    if self.draws < 1:
      raise ValueError(f"draws is {self.draws}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class Plan:
  """What there is to do for one seed of a run.

  Attributes:
    path: the run.
    seed: the seed.
    epochs: saved ones.
    modes: `evaluation`, and `training` where it differs.
    examples: by subset, of equal number.
    batch_size: of the training.
  """

  path: pathlib.Path
  seed: int
  epochs: list[int]
  modes: tuple[str, ...]
  examples: dict[str, gradients.Examples]
  batch_size: int

  @property
  def num_units(self) -> int:
    """Units of work: a subset at an epoch in a mode, and those of the law."""
    return 2 * len(self.epochs) * len(self.modes) + LAW_UNITS


def gradient_config_dict(config: GradientConfig) -> dict[str, Any]:
  """The config as a run directory keeps it."""
  return {"experiment": "gradients", **dataclasses.asdict(config)}


def checkpoint_directory(path: pathlib.Path, seed: int) -> pathlib.Path:
  """Where a run keeps the networks of a seed."""
  return path / "checkpoints" / f"seed{seed}"


def _saved_epochs(path: pathlib.Path, seed: int) -> list[int]:
  epochs = saved_epochs(path, seed)
  if 0 not in epochs:
    raise runs.RunError(
      f"The checkpoint of epoch 0 is missing in"
      f" {checkpoint_directory(path, seed)}, which holds those of epochs"
      f" {epochs}; the law is measured there. Train the run again."
    )
  return epochs


def _choose_examples(experiment, seed, config) -> dict[str, gradients.Examples]:
  """As many examples of both subsets, in random order."""
  for name in SUBSETS:
    if name not in seed.subsets:
      raise runs.RunError(
        f"The run has no {name} examples"
        f" (permuted_fraction {experiment.config.permuted_fraction}); the"
        " gradients of both are compared, so it must lie between 0 and 1."
      )
  number = min(len(seed.subsets[name].indices) for name in SUBSETS)
  if config.max_examples:
    number = min(number, config.max_examples)
  rng = np.random.default_rng([seed.seed, STREAM])
  chosen = {}
  for name in SUBSETS:
    subset = seed.subsets[name]
    order = rng.permutation(len(subset.indices))[:number]
    chosen[name] = gradients.Examples(
      experiment.train.images[subset.indices[order]],
      subset.labels[order],
      experiment.mean,
      experiment.std,
    )
  return chosen


def plan_gradients(
  path: pathlib.Path, experiment, seed, config: GradientConfig
) -> Plan:
  """Checks all that can be checked before any work.

  Raises:
    RunError: checkpoints or a subset are missing, or a subset is too small for
      the law, or for the batches of training mode.
  """
  epochs = _saved_epochs(path, seed.seed)
  examples = _choose_examples(experiment, seed, config)
  network = experiment.network
  has_norm = bool(network.split(network.abstract_state)[1])
  modes = ("evaluation",)
  if has_norm and config.training_mode:
    modes += ("training",)
  number = len(examples["permuted"].labels)
  if number <= gradients.BATCH_SIZE:
    raise runs.RunError(
      f"Each subset gives {number} examples; the law is fitted to several"
      f" numbers from {gradients.BATCH_SIZE} on, so more are needed. Raise"
      " --max_examples, or train on more."
    )
  batch_size = experiment.config.batch_size
  if "training" in modes and number < batch_size:
    raise runs.RunError(
      f"In training mode a batch holds {batch_size} examples, and each subset"
      f" gives {number}; give --notraining_mode to measure in evaluation mode"
      " only."
    )
  return Plan(path, seed.seed, epochs, modes, examples, batch_size)
