"""What drives memorization? Gradients split by labels: the paper's figure A.1.

At every saved epoch of a finished run, the gradients of all unpermuted and of
all permuted examples are split, by layer, into a part that depends on the
labels and a part that does not. At initialization, the study also measures how
the label part falls with the number n of examples (as n^-1/2 where labels are
permuted).

  python -m experiments gradients --run=runs/demo

takes less than a minute on two cores for the demo, and writes rows and figures
to runs/demo/gradients. docs/reproduction.md describes the results for the demo
and for CIFAR-100. Repeat the command to resume what was interrupted.

The n^-1/2 law holds draws + 1 gradients in memory for each doubling of n, the
rest 64 (eight blocks of both sets).

Source: Stephenson et al., ICLR 2021, eq. 25 and figure A.1.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from geomem import plots, runs
from geomem.studies.experiment import Seed
from geomem.studies.fields import Fields
from geomem.studies.gradients import backprop, law, linear
from geomem.studies.gradients.findings import find_gradients
from geomem.studies.gradients.products import SUBSETS, inner_products, measure
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import OfRun, TrainedRun

# Three kinds of labels for the law, and the closed form of two subsets.
_LAW_STEPS = 5
_STREAM = zlib.crc32(b"gradients")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientConfig(Fields):
  """Settings of the gradient study.

  Attributes:
    max_examples: upper bound on the examples of each subset; 0 for all.
    draws: number of label draws on the permuted examples, for the law.
    training_mode: whether networks with batch norm are also measured with
      each batch's own statistics.
  """

  _least: ClassVar = {"max_examples": 0, "draws": 1}
  max_examples: int = 0
  draws: int = 8
  training_mode: bool = True


class Gradients(OfRun):
  """The study of how the gradients of both subsets depend on labels."""

  name = "gradients"
  figures = plots.GRADIENTS
  copied = ("best_epoch", "last_epoch")

  def __init__(self, config: GradientConfig, trained: TrainedRun):
    """Checks the run, and chooses epochs and examples.

    Raises:
      RunError: checkpoints or a subset are missing, or a subset is too small
        for the law, or for the batches of training mode.
    """
    super().__init__(config, trained)
    network = trained.experiment.network
    has_norm = bool(network.split(network.abstract_state)[1])
    self.modes = ["evaluation"]
    if has_norm and config.training_mode:
      self.modes.append("training")
    self.epochs = self.saved_epochs()
    for seed, epochs in self.epochs.items():
      if 0 not in epochs:
        raise runs.RunError(
          f"The checkpoint of epoch 0 of seed {seed} is missing in"
          f" {trained.path / 'checkpoints'}, which holds those of epochs"
          f" {epochs}; the law is measured there. Train the run again."
        )
    self.examples = {s.number: self._choose(s) for s in trained.seeds}

  def _choose(self, seed: Seed) -> dict[str, backprop.Examples]:
    """Chooses equally many examples of both subsets, in random order."""
    experiment = self.trained.experiment
    for name in SUBSETS:
      if name not in seed.subsets:
        raise runs.RunError(
          f"The run has no {name} examples (permuted_fraction"
          f" {experiment.config.data.permuted_fraction}); the gradients of both"
          " are compared, so it must lie between 0 and 1."
        )
    number = min(len(seed.subsets[name].indices) for name in SUBSETS)
    if self.config.max_examples:
      number = min(number, self.config.max_examples)
    self._check_number(number)
    rng = np.random.default_rng([seed.number, _STREAM])
    chosen = {}
    for name in SUBSETS:
      subset = seed.subsets[name]
      order = rng.permutation(len(subset.indices))[:number]
      chosen[name] = backprop.Examples(
        experiment.train.images[subset.indices[order]],
        subset.labels[order],
        experiment.mean,
        experiment.std,
      )
    return chosen

  def _check_number(self, number: int) -> None:
    if number <= backprop.BATCH_SIZE:
      raise runs.RunError(
        f"Each subset gives {number} examples; the law is fitted to several"
        f" numbers from {backprop.BATCH_SIZE} on, so more are needed. Raise"
        " --max_examples, or train on more."
      )
    batch_size = self.trained.experiment.recipe.batch_size
    if "training" in self.modes and number < batch_size:
      raise runs.RunError(
        f"In training mode a batch holds {batch_size} examples, and each"
        f" subset gives {number}; give --notraining_mode to measure in"
        " evaluation mode only."
      )

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields a stage for each seed, its most informative units first."""
    for seed in self.trained.seeds:
      yield self.facts_stage(seed=seed.number)
      epochs = self.epochs[seed.number]
      units = [self._epoch(seed, e, "evaluation") for e in epochs]
      units += [self._law(seed)]
      units += [self._epoch(seed, e, m) for m in self.modes[1:] for e in epochs]
      yield Stage(f"gradients, seed {seed.number}", units)

  def _epoch(self, seed: Seed, epoch: int, mode: str) -> Unit:
    columns = {"seed": seed.number, "epoch": epoch, "mode": mode}
    work = functools.partial(self._measure, seed, epoch, mode, columns)
    return Unit({"stage": "epoch"} | columns, work, len(SUBSETS))

  def _law(self, seed: Seed) -> Unit:
    columns = {"seed": seed.number, "epoch": 0, "mode": "law"}
    work = functools.partial(self._measure_law, seed, columns)
    return Unit({"stage": "law"} | columns, work, _LAW_STEPS)

  def _measure(self, seed, epoch, mode, columns) -> Iterator[Step]:
    """Measures both subsets at one epoch, in one mode."""
    experiment = self.trained.experiment
    network = experiment.network
    state = self.trained.state(seed.number, epoch)
    train = mode == "training"
    size = experiment.recipe.batch_size if train else backprop.BATCH_SIZE
    sums = []
    for name in SUBSETS:
      examples = self.examples[seed.number][name]
      sums.append(
        backprop.block_sums(
          network, state, examples, batch_size=size, train=train
        )
      )
      yield Step(facts={"epoch": epoch, "mode": mode, "examples": name})
    products = inner_products(*sums, network.parameter_layers)
    rows = [
      {"layer": layer} | row
      for layer, of_layer in products.items()
      for row in measure(of_layer)
    ]
    number = int(sums[0].counts.sum())
    yield Step(self._tagged(rows, number, columns), size=0)

  def _measure_law(self, seed, columns) -> Iterator[Step]:
    """Measures the law on the initial network, and the closed form."""
    experiment = self.trained.experiment
    network, num_classes = experiment.network, experiment.num_classes
    state = self.trained.state(seed.number, 0)
    rng = np.random.default_rng([seed.number, _STREAM, 1])
    rows = []
    for name, examples in self.examples[seed.number].items():
      order = rng.permutation(len(examples.labels))
      examples = examples._replace(
        images=examples.images[order], labels=examples.labels[order]
      )
      labels = {"own": examples.labels[None]}
      if name == "permuted":
        labels = law.draw_labels(
          examples.labels, num_classes, self.config.draws, rng
        )
      for drawn, label_draws in labels.items():
        norms = law.norms_by_size(network, state, examples, label_draws)
        rows += law.law_rows(norms, name, drawn)
        yield Step(facts={"law": f"{name}, {drawn}"})
    small = linear.deep_linear(num_classes, network.image_shape, seed.number)
    for name, examples in self.examples[seed.number].items():
      some = slice(linear.MOST_EXAMPLES)
      images = linear.centered_images(examples.images[some], experiment.std)
      rows += linear.linear_rows(*small, images, examples.labels[some], name)
      yield Step(facts={"closed form": name})
    number = len(self.examples[seed.number]["permuted"].labels)
    yield Step(self._tagged(rows, number, columns), size=0)

  def _tagged(self, rows, number: int, columns) -> list[runs.Row]:
    """Adds the unit's columns, and a row with the number of examples used."""
    index_of = self.trained.experiment.network.layer_names.index
    for row in rows:
      if "network" not in row and row.get("layer") is not None:
        row["layer_index"] = index_of(row["layer"])
    used = {"metric": "examples_used", "value": number}
    return runs.tagged([*rows, used], **columns)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Tests G1 to G5."""
    return find_gradients(rows)
