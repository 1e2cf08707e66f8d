"""Which layers memorize? Rewinds of a finished run, figure 4A-B of the paper.

Puts some layers of the last network back to an earlier epoch and keeps the
others, without training: each layer alone, the last j layers, the first j.

  python -m experiments rewind --run=runs/demo

takes 20 seconds on two cores for the demo: 18 networks for each of 12 saved
epochs. `--layers=fc1,fc2` rewinds layers of your choice, and `--batch_norm`
chooses the batch statistics. docs/reproduction.md says what the rewinds of the
demo and of CIFAR-100 recover.

Repeat the command to resume what was interrupted.

Source: Stephenson et al., ICLR 2021, figure 4A-B; the same intervention in
Maini et al., "Can neural network memorization be localized?", ICML 2023.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from geomem import measures, models, plots, runs
from geomem.studies import hybrids as mixing
from geomem.studies.experiment import Seed, spread_images
from geomem.studies.fields import Fields
from geomem.studies.finding import doubts
from geomem.studies.measure import measure_network
from geomem.studies.rewind_findings import (
  best_rewinds,
  find_rewinds,
  rewind_table,
)
from geomem.studies.study import Stage, Step
from geomem.studies.train import score_logits
from geomem.studies.trained import OfRun, TrainedRun

KINDS = ("single", "suffix", "prefix")
READINGS = ("together", "parameters", "reestimated")
_FACTS = ("best_epoch", "last_epoch", "chance_accuracy", "majority_accuracy")
# Largest size of the one batch that batch statistics are re-estimated on.
_MAX_IMAGES = 2048
# Largest size of the logits held at once, in bytes.
_MAX_BYTES = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewindConfig(Fields):
  """What is rewound, and how.

  Attributes:
    kinds: `single`, `suffix` or `prefix`: each layer, the last j, the first j.
    layers: layers to rewind together, instead of the kinds.
    epochs: epochs to rewind to; all saved ones by default.
    batch_norm: how to treat a rewound layer's batch statistics: rewind them
      `together` with the parameters, keep them (`parameters`), or have them
      `reestimated` for the whole network on training images.
    geometry: whether to measure the layers changed by a rewind, too; only with
      batch statistics rewound `together`.
  """

  kinds: tuple[str, ...] = KINDS
  layers: tuple[str, ...] = ()
  epochs: tuple[int, ...] = ()
  batch_norm: str = "together"
  geometry: bool = False

  @property
  def directory(self) -> str:
    """A directory name that is different for each config."""
    parts = ["rewind", *self.layers]
    if not self.layers and self.kinds != KINDS:
      parts += self.kinds
    parts += [str(epoch) for epoch in self.epochs]
    if self.batch_norm != "together":
      parts.append(self.batch_norm)
    if self.geometry:
      parts.append("geometry")
    return "-".join(parts)


class Rewind(NamedTuple):
  """One set of layers to rewind.

  Attributes:
    kind: one of `KINDS`, or `custom`.
    layers: the names of the layers, in the network's order.
  """

  kind: str
  layers: tuple[str, ...]


def make_rewinds(network: models.Network, config: RewindConfig) -> list[Rewind]:
  """Lists the rewinds that a config asks for.

  Raises:
    ValueError: a kind, a layer or a reading does not exist.
  """
  layers = network.parameter_layers
  for name in config.layers:
    if name not in layers:
      raise ValueError(
        f"{name!r} is not a layer of {network.name} with something to rewind;"
        f" there are {', '.join(layers)}."
      )
  _, statistics = network.split(network.abstract_state)
  for given, allowed in [
    *((kind, KINDS) for kind in config.kinds),
    (config.batch_norm, READINGS if statistics else READINGS[:1]),
  ]:
    if given not in allowed:
      raise ValueError(
        f"{given!r} is not known for {network.name}; choose from"
        f" {', '.join(allowed)}."
      )
  if config.layers:
    chosen = tuple(name for name in layers if name in config.layers)
    return [Rewind("custom", chosen)]
  counts = range(1, len(layers) + 1)
  sets = {
    "single": [(name,) for name in layers],
    "suffix": [layers[-count:] for count in counts],
    "prefix": [layers[:count] for count in counts],
  }
  return [
    Rewind(kind, chosen) for kind in config.kinds for chosen in sets[kind]
  ]


def masks_of(
  network: models.Network, config: RewindConfig
) -> dict[Rewind, mixing.Mask]:
  """Returns for each rewind which layers come from the earlier epoch."""
  return {
    rewind: mixing.mask_of(network, rewind.layers)
    for rewind in make_rewinds(network, config)
  }


class LayerRewind(OfRun):
  """The rewind study: scores of the last network with layers of earlier epochs.

  Reproduces the paper's figure 4A-B. Nothing is trained.

  Attributes:
    masks: for each rewind, the layers that come from the earlier epoch.
    mixed: for each network, by its mask, the layers that depend on parameters
      of both epochs.
  """

  name = "rewind"
  figures = plots.REWIND

  def __init__(self, config: RewindConfig, trained: TrainedRun):
    """Validates the config before any work.

    Raises:
      ValueError: a layer, kind, epoch or reading does not exist, or geometry
        is asked for with another reading than `together`.
      RunError: a seed's last network is missing.
    """
    super().__init__(config, trained)
    if config.geometry and config.batch_norm != "together":
      raise ValueError(
        f"geometry was asked for with batch_norm {config.batch_norm}; it is"
        " measured of layers whose statistics are rewound together with their"
        " parameters."
      )
    network = trained.experiment.network
    self.masks = masks_of(network, config)
    # Several rewinds may give the same network. Sorted, networks with the same
    # first layers come together.
    distinct = sorted(set(self.masks.values()))
    self.mixed = {mask: mixing.mixed_layers(network, mask) for mask in distinct}
    self.directory = trained.path / config.directory
    self.epochs = self.saved_epochs()
    trained.check_networks("last")
    for seed, saved in self.epochs.items():
      for epoch in config.epochs:
        if epoch not in saved:
          raise ValueError(
            f"Epoch {epoch} of seed {seed} is not saved; there are"
            f" {', '.join(map(str, saved))}."
          )
      chosen = config.epochs or saved
      self.epochs[seed] = [epoch for epoch in saved if epoch in chosen]

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Scores every hybrid network, and measures its geometry if asked to.

    Measured are the layers that depend on parameters of both epochs. The others
    are those of one epoch's network, which the finished run has measured. A
    rewind to the last epoch changes no layer.
    """
    for seed in self.trained.seeds:
      epochs, last = self.epochs[seed.number], self.trained.last(seed.number)
      changed = [epoch for epoch in epochs if epoch != last]
      yield self.facts_stage(seed=seed.number)
      yield self.stage_of(
        seed, "scores", self._score, len(self.mixed), "networks", epoch=epochs
      )
      if self.config.geometry:
        size = sum(map(len, self.mixed.values()))
        yield self.stage_of(
          seed, "geometry", self._measure, size, epoch=changed
        )

  def facts(self) -> runs.Rows:
    """Returns the facts, and the scores of the networks without a rewind."""
    facts = self.trained.rows.where(_FACTS)
    return runs.Rows([*facts, *self.trained.rows.where(("accuracy", "loss"))])

  def _score(self, seed: Seed, epoch: int) -> Iterator[Step]:
    """Scores every distinct network of an epoch once."""
    experiment, by_mask = self.trained.experiment, {}
    hybrids, splits = self._hybrids(seed, epoch), experiment.splits
    total, classes = sum(map(len, splits.values())), experiment.num_classes
    size = max(1, _MAX_BYTES // (4 * total * classes))
    for start in range(0, len(self.mixed), size):
      masks = list(self.mixed)[start : start + size]
      blocks = collections.defaultdict(list)
      for split, images in splits.items():
        for logits in mixing.hybrid_logits(
          hybrids, masks, images, experiment.mean, experiment.std
        ):
          blocks[split].append(logits)
          yield Step(size=len(masks) * logits.shape[1] / total)
      logits = {s: jnp.concatenate(blocks[s], axis=1) for s in splits}
      for i, mask in enumerate(masks):
        scores = score_logits(seed, {s: logits[s][i] for s in splits})
        recovered = self.trained.recovered(seed.number, scores)
        by_mask[mask] = scores + recovered
    yield self._step(seed, epoch, by_mask)

  def _measure(self, seed: Seed, epoch: int) -> Iterator[Step]:
    experiment = self.trained.experiment
    hybrids, by_mask = self._hybrids(seed, epoch), {}
    for mask, layers in self.mixed.items():
      by_mask[mask] = []
      for step in measure_network(
        experiment,
        seed,
        hybrids.state(mask),
        layers,
        [measures.MEASURES["mean_field"]],
        experiment.config.measure.options,
      ):
        by_mask[mask] += step.rows
        yield Step(facts={"epoch": epoch})
    yield self._step(seed, epoch, by_mask)

  def _step(self, seed: Seed, epoch: int, by_mask: dict) -> Step:
    """Makes the step with the rows of all rewinds, from those of networks."""
    rows = []
    for rewind, mask in self.masks.items():
      rows += runs.tagged(
        by_mask[mask],
        seed=seed.number,
        epoch=epoch,
        kind=rewind.kind,
        rewound="+".join(rewind.layers),
        batch_norm=self.config.batch_norm,
      )
    return Step(rows, size=0)

  def _hybrids(self, seed: Seed, epoch: int) -> mixing.Hybrids:
    """Loads the last network, and the rewound layers of an earlier one."""
    trained, experiment = self.trained, self.trained.experiment
    network = experiment.network
    last = trained.state(seed.number, trained.last(seed.number))
    rewound = {name for rewind in self.masks for name in rewind.layers}
    other = trained.state(seed.number, epoch, rewound)
    if self.config.batch_norm == "parameters":
      kept = {name: last[name] for name in rewound}
      other = network.merge(network.split(other)[0], network.split(kept)[1])
    hybrids = mixing.Hybrids(network, last, other, {})
    if self.config.batch_norm != "reestimated":
      return hybrids
    images = spread_images(experiment.train.images, _MAX_IMAGES)
    return mixing.reestimate(
      hybrids, list(self.mixed), images, experiment.mean, experiment.std
    )

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Names the best rewinds, and tests the claims about where memory lies."""
    doubtful = doubts(rows) if config.get("geometry") else []
    return doubtful + best_rewinds(rows) + find_rewinds(rows)

  table = staticmethod(rewind_table)
