"""The plan of a rewind: layers, epochs, and the reading of batch statistics."""

import dataclasses
from typing import NamedTuple

from geomem import models
from geomem.studies.trained import TrainedRun

KINDS = ("single", "suffix", "prefix")
READINGS = ("together", "parameters", "reestimated")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewindConfig:
  """What is rewound, and how.

  Attributes:
    kinds: `single`, `suffix` or `prefix`: each layer, the last j, the first j.
    layers: layers to rewind together, instead of the kinds.
    epochs: epochs to rewind to; all saved ones by default.
    batch_norm: how to treat a rewound layer's batch statistics: rewind them
      `together` with the parameters, keep them (`parameters`), or have them
      `reestimated` for the whole network on training images.
    geometry: whether to measure the layers changed by a rewind, too.
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

  @property
  def columns(self) -> dict[str, str]:
    """The columns that identify it in rows."""
    return {"kind": self.kind, "rewound": "+".join(self.layers)}


def make_rewinds(network: models.Network, config: RewindConfig) -> list[Rewind]:
  """Lists the rewinds that a config asks for.

  Raises:
    ValueError: a kind, a layer or a reading does not exist.
  """
  layers = network.parameter_layers
  for name in config.layers:
    if name not in layers:
      raise ValueError(
        f"{name!r} is no layer of {network.name} with something to rewind;"
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


def epochs_to_rewind(
  trained: TrainedRun, config: RewindConfig, seed: int
) -> list[int]:
  """Lists the saved epochs that a config asks for.

  Raises:
    ValueError: an epoch is not saved; the message names those that are.
  """
  epochs = trained.epochs(seed)
  for epoch in config.epochs:
    if epoch not in epochs:
      raise ValueError(
        f"Epoch {epoch} of seed {seed} is not saved; there are"
        f" {', '.join(map(str, epochs))}."
      )
  return [epoch for epoch in epochs if epoch in (config.epochs or epochs)]
