"""The gradients of a finished run: every saved epoch, and the law at its start.

What is done is in the rows: each unit of work ends with a row that says so,
`examples_used`, and a unit that has it is not done again.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from geomem import runs, training
from geomem.analysis import gradient_law as law
from geomem.analysis import gradient_linear as linear
from geomem.analysis import gradients
from geomem.analysis.findings import epoch_of
from geomem.analysis.gradient_measures import (
  SUBSETS,
  inner_products,
  measure,
)

_LAW_UNITS = 5
_STREAM = zlib.crc32(b"gradients")


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
    return 2 * len(self.epochs) * len(self.modes) + _LAW_UNITS


def gradient_config_dict(config: GradientConfig) -> dict[str, Any]:
  """The config as a run directory keeps it."""
  return {"experiment": "gradients", **dataclasses.asdict(config)}


def _directory(path: pathlib.Path, seed: int) -> pathlib.Path:
  return path / "checkpoints" / f"seed{seed}"


def _saved_epochs(path: pathlib.Path, seed: int, last: int) -> list[int]:
  directory = _directory(path, seed)
  epochs = []
  if directory.is_dir():
    with training.Checkpoints(directory) as saved:
      epochs = [epoch for epoch in saved.epochs if epoch <= last]
  if 0 not in epochs:
    there = f"those of epochs {epochs}" if epochs else "none"
    raise runs.RunError(
      f"The checkpoint of epoch 0 is missing in {directory}, which holds"
      f" {there}; the law is measured there. Train the run again."
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
  rng = np.random.default_rng([seed.seed, _STREAM])
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
    RunError: checkpoints or a subset are missing, or a subset is smaller than
      a batch and training mode is asked for.
  """
  last = epoch_of(runs.read_rows(path), "last", seed.seed)
  epochs = _saved_epochs(path, seed.seed, last)
  examples = _choose_examples(experiment, seed, config)
  network = experiment.network
  has_norm = bool(network.split(network.abstract_state)[1])
  modes = ("evaluation",)
  if has_norm and config.training_mode:
    modes += ("training",)
  number = len(examples["permuted"].labels)
  batch_size = experiment.config.batch_size
  if "training" in modes and number < batch_size:
    raise runs.RunError(
      f"In training mode a batch holds {batch_size} examples, and each subset"
      f" gives {number}; give --notraining_mode to measure in evaluation mode"
      " only."
    )
  return Plan(path, seed.seed, epochs, modes, examples, batch_size)


def _is_done(run, **columns) -> bool:
  return any(
    row["metric"] == "examples_used"
    and all(row.get(name) == value for name, value in columns.items())
    for row in run.rows()
  )


def _append(run, network, rows, number, **columns) -> None:
  """Appends the rows of a unit of work, and at last that it is done."""
  index = {layer: i for i, layer in enumerate(network.layer_names)}
  tagged = []
  for row in rows:
    if "network" not in row and row.get("layer") is not None:
      row = row | {"layer_index": index[row["layer"]]}
    tagged.append(columns | row)
  done = {"metric": "examples_used", "value": number}
  run.append([*tagged, columns | done])


def _measure_epoch(run, experiment, plan, state, epoch, mode):
  """Both subsets at one epoch, in one mode; hands on each."""
  network = experiment.network
  train = mode == "training"
  sums = []
  for name in SUBSETS:
    sums.append(
      gradients.block_sums(
        network,
        state,
        plan.examples[name],
        batch_size=plan.batch_size if train else gradients.BATCH_SIZE,
        train=train,
      )
    )
    yield f"epoch {epoch}, {mode}, {name}"
  products = inner_products(*sums, network.parameter_layers)
  rows = [
    {"layer": layer} | row
    for layer, found in products.items()
    for row in measure(found)
  ]
  number = int(sums[0].counts.sum())
  columns = {"seed": plan.seed, "epoch": epoch, "mode": mode}
  _append(run, network, rows, number, **columns)


def _measure_law(run, experiment, plan, state, draws):
  """The law on the initial network and the closed form; hands on each."""
  network, num_classes = experiment.network, experiment.num_classes
  rng = np.random.default_rng([plan.seed, _STREAM, 1])
  rows = []
  for name, examples in plan.examples.items():
    order = rng.permutation(len(examples.labels))
    examples = examples._replace(
      images=examples.images[order], labels=examples.labels[order]
    )
    labels = {"own": examples.labels[None]}
    if name == "permuted":
      labels = law.draw_labels(examples.labels, num_classes, draws, rng)
    for drawn, of_draws in labels.items():
      found = law.norms_by_size(network, state, examples, of_draws)
      rows += law.law_rows(found, name, drawn)
      yield f"law, {name}, {drawn}"
  small = linear.deep_linear(num_classes, network.image_shape, plan.seed)
  for name, examples in plan.examples.items():
    images = linear.centered_images(examples.images, experiment.std)
    rows += linear.linear_rows(*small, images, examples.labels, name)
    yield f"closed form, {name}"
  number = len(plan.examples["permuted"].labels)
  columns = {"seed": plan.seed, "epoch": 0, "mode": "law"}
  _append(run, network, rows, number, **columns)


def measure_gradients(run, experiment, plan, draws: int) -> Iterator[str]:
  """Does what is not done yet, and appends the rows of each epoch and mode.

  Args:
    run: the run directory of the gradients.
    experiment: the finished run's.
    plan: of one seed.
    draws: of the permuted labels.

  Yields:
    A name for each unit of work that was done, or found done.
  """
  facts = runs.read_rows(plan.path)
  run.append(
    {"seed": plan.seed, "metric": f"{w}_epoch", "value": value}
    for w in ("best", "last")
    for value in [epoch_of(facts, w, plan.seed)]
  )
  like = experiment.network.abstract_state
  with training.Checkpoints(_directory(plan.path, plan.seed)) as saved:
    # The most telling first, for whoever looks before the end.
    work = [
      *((epoch, "evaluation") for epoch in plan.epochs),
      (0, "law"),
      *((epoch, mode) for mode in plan.modes[1:] for epoch in plan.epochs),
    ]
    for epoch, mode in work:
      if _is_done(run, seed=plan.seed, epoch=epoch, mode=mode):
        found = f"epoch {epoch}, {mode}"
        yield from [found] * (_LAW_UNITS if mode == "law" else 2)
        continue
      state = saved.load(epoch, like)
      if mode == "law":
        yield from _measure_law(run, experiment, plan, state, draws)
      else:
        yield from _measure_epoch(run, experiment, plan, state, epoch, mode)
