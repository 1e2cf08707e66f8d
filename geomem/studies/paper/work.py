"""The work of each stage, counted from its config before it starts.

Counts are in units of one experiment: the run that figures 1 to 4B and A.1 are
about, or the sweep of figure 4C-E at the width of average cost.
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from geomem import models, shares, training
from geomem.studies.capacity import CENTERS, CapacityConfig
from geomem.studies.experiment import shapes_of
from geomem.studies.gradients import GradientConfig, backprop
from geomem.studies.measure_config import measured_layers
from geomem.studies.memorization import Memorization
from geomem.studies.rewind import RewindConfig, masks_of

# Passes over an image, in forward passes: a backward pass takes two.
_PULL = 2
_STEP = 1 + _PULL
# Networks in a saved state to resume from: Adam has two moments, SGD one.
_STATE = {"adam": 3, "sgd": 2}


class Work(NamedTuple):
  """Counts of each kind of work, or their prices or times in seconds.

  Attributes:
    steps: training steps of all seeds together; gradients count as the steps
      of as many passes over images.
    images: images passed forward through the network.
    sets: manifold sets measured.
    draws: dichotomies simulated.
    networks: networks written or read.
    programs: programs to compile, in forward passes of the network.
    solvers: programs of the geometry to compile.
    figures: figures drawn.
    units: units that are committed at once; they have no price of their own.
  """

  steps: float = 0.0
  images: float = 0.0
  sets: float = 0.0
  draws: float = 0.0
  networks: float = 0.0
  programs: float = 0.0
  solvers: float = 0.0
  figures: float = 0.0
  units: float = 0.0

  def plus(self, other: "Work") -> "Work":
    """Returns the sum, kind by kind."""
    return Work(*map(sum, zip(self, other, strict=True)))

  def at(self, prices: "Work") -> "Work":
    """Returns the seconds that the work takes at a price for each unit."""
    return Work(*map(math.prod, zip(self, prices, strict=True)))


# The share of the search for directions in the time of a measured set: half for
# ten classes of 30 points, and a quarter for a hundred of 50.
_SEARCH = 0.4


# Keys of the units of work that are done, of one run directory.
Keys = Sequence[dict[str, Any]]


def _stages(done: Keys) -> collections.Counter:
  return collections.Counter(key.get("stage") for key in done)


def layer_operations(network: models.Network) -> dict[str, int]:
  """Counts the operations of a forward pass on one image, by layer.

  Each number of a kernel is used once at every position of the layer's output:
  one multiplication and one addition. Normalization and the like are left out.
  """
  shapes = shapes_of(network)
  return {
    name: 2
    * math.prod(shapes[name].shape[1:-1])
    * sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim > 1)
    for name, state in network.abstract_state.items()
  }


def operations(network: models.Network) -> int:
  """Counts the operations of a forward pass on one image."""
  return sum(layer_operations(network).values())


class Sizes:
  """The sizes of an experiment that the counts are made of.

  Attributes:
    saved: number of epochs that are saved.
    seeds: number of seeds.
    images: training and test images together.
    batch: images in a step of all seeds.
    sets: manifold sets of a network.
    points: images of the manifolds of all subsets.
  """

  def __init__(self, study: Memorization):
    """Takes the sizes from the data, the network and the config."""
    experiment, config = study.experiment, study.config
    self.saved = len(training.checkpoint_epochs(config.training.epochs))
    self.seeds = len(study.seeds)
    self.images = sum(
      len(split.labels) for split in (experiment.train, experiment.test)
    )
    self.batch = config.training.batch_size * self.seeds
    names = experiment.network.layer_names
    manifolds = study.seeds[0].manifolds
    layers = len(measured_layers(config.measure.layers, names))
    self.sets = layers * len(manifolds)
    self.points = sum(indices.size for indices in manifolds.values())
    chosen = config.measure.measure_epochs
    epochs = self.saved if chosen is None else len(chosen.split(","))
    self.measured = self.seeds * min(epochs, self.saved)

  def measuring(self, networks: int) -> Work:
    """Returns the work of measuring networks that are saved."""
    return Work(
      images=networks * self.points,
      sets=networks * self.sets,
      networks=networks,
      units=networks,
    )


def of_training(study: Memorization, done: Keys = ()) -> Work:
  """Counts the rest of a training run, given the units that are done."""
  sizes, recipe = Sizes(study), study.experiment.recipe
  scored = collections.Counter(
    key["epoch"] for key in done if key.get("stage") == "scores"
  )
  # Training resumes from the last epoch that all seeds have reached.
  reached = max((e for e in scored if scored[e] >= sizes.seeds), default=0)
  steps = training.steps_per_epoch(
    len(study.experiment.train.labels), recipe.batch_size
  )
  networks = max(0, sizes.saved * sizes.seeds - scored.total())
  trained = Work(
    steps=(recipe.epochs - reached) * steps,
    images=networks * sizes.images,
    networks=networks * (1 + _STATE[recipe.optimizer]),
    units=networks,
  )
  left = max(0, sizes.measured - _stages(done)["geometry"])
  return trained.plus(sizes.measuring(left))


def of_rewinds(
  study: Memorization, config: RewindConfig, done: Keys = ()
) -> Work:
  """Counts the rest of the rewinds of a run; see `of_training`."""
  sizes, network = Sizes(study), study.experiment.network
  masks = set(masks_of(network, config).values())
  of_layer, names = layer_operations(network), network.layer_names[1:]
  # Hybrids share the layers that they have in common.
  shared = sum(
    len({mask[: depth + 1] for mask in masks}) * of_layer.get(name, 0)
    for depth, name in enumerate(names)
  )
  left = sizes.saved * sizes.seeds - _stages(done)["scores"]
  if left <= 0:
    return Work()
  return Work(
    images=left * sizes.images * shared / operations(network),
    networks=2 * left,
    programs=2,  # The layers of both networks.
    units=left,
  )


def of_gradients(
  study: Memorization, config: GradientConfig, done: Keys = ()
) -> Work:
  """Counts the rest of the gradient study; see `of_training`."""
  sizes, network = Sizes(study), study.experiment.network
  permuted = int(study.seeds[0].labels.permuted.sum())
  number = min(permuted, len(study.experiment.train.labels) - permuted)
  number = min(number, config.max_examples or number)
  number += -number % backprop.BATCH_SIZE
  has_norm = bool(network.split(network.abstract_state)[1])
  modes = 1 + (has_norm and config.training_mode)
  # Pulled back of each batch: the basis of both subsets; for the law twice the
  # draws and Jᵀ(1/C), and once the own labels and it.
  basis, law = len(backprop.BASIS), config.draws + 1
  of_epoch = 2 * (1 + _PULL * basis)
  of_law = 2 * (1 + _PULL * law) + (1 + _PULL * 2)
  count = _stages(done)
  epochs = modes * sizes.saved * sizes.seeds - count["epoch"]
  laws = sizes.seeds - count["law"]
  if epochs + laws <= 0:
    return Work()
  passes = number * (epochs * of_epoch + laws * of_law)
  programs = modes * (1 + _PULL * basis) + (1 + _PULL * law) + (1 + _PULL * 2)
  return Work(
    steps=passes / (_STEP * sizes.batch),
    networks=epochs + laws,
    programs=programs,
    units=epochs + laws,
  )


def of_simulations(
  study: Memorization, config: CapacityConfig, done: Keys = ()
) -> Work:
  """Counts the rest of theory against simulation; see `of_training`."""
  sizes, network = Sizes(study), study.experiment.network
  epochs, layers = len(config.epochs.split(",")), len(network.layer_names)
  loads = sizes.seeds * epochs * layers
  sets = loads * len(study.seeds[0].manifolds) * len(CENTERS)
  left = (sets - len(done)) / sets
  if left <= 0:
    return Work()
  # The theory and the shuffles without a search, which one of the treatments of
  # centres has, once. One set at a time takes as long as the sets that the
  # measures would take at once.
  alone = (1 + config.num_shuffles) * (1 - _SEARCH) + _SEARCH / len(CENTERS)
  alone *= shares.entries_at_once()
  return Work(
    # Half of the layers on average: those up to the one measured.
    images=left * loads * sizes.points / 2,
    sets=left * sets * alone,
    draws=left * sets * config.num_draws,
    networks=left * loads,
    solvers=2,  # Search and theory, as of a measured set, and the shuffles.
    units=left * sets,
  )


def of_other_epochs(study: Memorization, done: Keys = ()) -> Work:
  """Counts the rest of measuring all epochs; see `of_training`."""
  sizes = Sizes(study)
  known = max(sizes.measured, _stages(done)["geometry"])
  return sizes.measuring(max(0, sizes.saved * sizes.seeds - known))


def relative_cost(
  widths: Sequence[int], build: Callable[[int], models.Network]
) -> dict[int, float]:
  """Returns the operations of a network by width, in units of their mean."""
  counts = {width: operations(build(width)) for width in widths}
  mean = sum(counts.values()) / len(counts)
  return {width: count / mean for width, count in counts.items()}


def of_sweep(
  study: Memorization, costs: dict[int, float], done: dict[int, Keys]
) -> Work:
  """Counts the rest of a sweep over the width.

  The study is at a width of about average cost, `costs` are from
  `relative_cost`, and `done` are units by the width of the incomplete cells.
  """
  total = Work()
  for width, keys in done.items():
    work, cost = of_training(study, keys), costs[width]
    total = total.plus(
      work._replace(
        steps=work.steps * cost,
        images=work.images * cost,
        networks=work.networks * cost,
        # A step, the scores of both splits, and the activations.
        programs=_STEP + 3,
      )
    )
  return total
