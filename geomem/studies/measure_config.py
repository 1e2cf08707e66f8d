"""What is measured of layers, as a config, and at which of the saved epochs."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

from geomem.geometry import LABELLINGS
from geomem.measures import MEASURES, Measure, Options
from geomem.studies.fields import Fields

# In the order of measuring: figure 3 needs the first two.
WORDS = ("best", "last", "first")


class SavedEpochs(NamedTuple):
  """The saved epochs of a seed.

  Attributes:
    saved: epochs whose networks are saved, ascending.
    best: epoch with the best test accuracy, saved or not.
    last: last epoch, saved or not.
  """

  saved: Sequence[int]
  best: int
  last: int

  def named(self, word: str) -> int:
    """Returns the epoch that a word stands for."""
    return min(self.saved) if word == "first" else getattr(self, word)


def normalized(text: str | None, name: str = "measure_epochs") -> str | None:
  """Returns the choice of epochs of a field in canonical form.

  Words come first, in the order of measuring, then numbers; `all` is None.

  Raises:
    ValueError: an item is neither a known word nor a number.
  """
  if text is None:
    return None
  items = [item.strip() for item in text.split(",")]
  for item in items:
    if item not in ("all", *WORDS) and not re.fullmatch("[0-9]{1,9}", item):
      raise ValueError(
        f"{name} names {item!r}, which is not an epoch; use all,"
        f" {', '.join(WORDS)} or numbers of epochs, comma-separated."
      )
  if "all" in items:
    return None
  words = [word for word in WORDS if word in items]
  numbers = sorted({int(item) for item in items if item.isdigit()})
  return ",".join([*words, *map(str, numbers)])


def check_saved(
  text: str | None, saved: Collection[int], name: str = "measure_epochs"
) -> None:
  """Checks a normalized choice: at least one seed has saved each number.

  Raises:
    ValueError: an epoch is not saved; the message lists those that are.
  """
  for item in (text or "").split(","):
    if item.isdigit() and int(item) not in saved:
      raise ValueError(
        f"Epoch {item} of {name} is not saved; saved are"
        f" {', '.join(map(str, sorted(saved)))}."
      )


def places_to_measure(
  text: str | None, seeds: Mapping[int, SavedEpochs]
) -> list[tuple[int, int]]:
  """Lists seeds and epochs in the order of measuring.

  The best epochs of all seeds come first, then their last and first epochs,
  then the others, so that an early end of the work costs the least. Epochs of
  the normalized choice that a seed has not saved are left out.
  """
  chosen = None if text is None else text.split(",")

  def is_asked(seed: int, epoch: int) -> bool:
    of_seed = seeds[seed]
    if epoch not in of_seed.saved:
      return False
    names = [word for word in WORDS if of_seed.named(word) == epoch]
    return chosen is None or bool({str(epoch), *names} & set(chosen))

  with_networks = [seed for seed, of_seed in seeds.items() if of_seed.saved]
  ordered = [(s, seeds[s].named(w)) for w in WORDS for s in with_networks]
  every = sorted({e for of_seed in seeds.values() for e in of_seed.saved})
  ordered += [(seed, epoch) for epoch in every for seed in with_networks]
  return [place for place in dict.fromkeys(ordered) if is_asked(*place)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuringConfig(Fields):
  """The measures of every layer, and the epochs to measure.

  Attributes:
    measures: names of measures, comma-separated; docs/numbers.md lists them.
    num_probes: T, probes per manifold.
    kappa: margin κ, in units of the norm of a manifold's centre.
    centers: rule for shared directions to remove: `low_rank`, `none` (None in
      `geomem.geometry`) or their number.
    glue_labels: labellings for GLUE: `balanced`, `independent` or
      `one_vs_rest`.
    layers: layers to measure, comma-separated, or `last` (hidden); all by
      default.
    measure_epochs: epochs to measure, comma-separated: `all` that are saved
      (the default), `best`, `last`, `first`, or numbers; always in the order
      best, last, first, others.
  """

  _least: ClassVar = {"num_probes": 1}
  measures: str = "mean_field"
  num_probes: int = 300
  kappa: float = 0.0
  centers: str = "low_rank"
  glue_labels: str = "balanced"
  layers: str | None = None
  measure_epochs: str | None = None

  def __post_init__(self):
    super().__post_init__()
    # Normalized, so that equal choices give equal configs.
    object.__setattr__(self, "measure_epochs", normalized(self.measure_epochs))
    _ = self.chosen, self.options

  @property
  def options(self) -> Options:
    """The options of the measures."""
    if self.glue_labels not in LABELLINGS:
      raise ValueError(
        f"glue_labels {self.glue_labels!r} is not known; choose one of"
        f" {', '.join(LABELLINGS)}."
      )
    centers = parse_centers(self.centers)
    return Options(self.kappa, self.num_probes, centers, self.glue_labels)

  @property
  def chosen(self) -> list[Measure]:
    """The measures, in the order of `MEASURES`."""
    names = names_in(self.measures, tuple(MEASURES), "measure")
    return [MEASURES[name] for name in names]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureConfig(MeasuringConfig):
  """The measures of every layer, and the manifolds to measure.

  Attributes:
    manifold_points: M, points per manifold.
    subsets: subsets to measure, comma-separated; all by default.
  """

  _least: ClassVar = MeasuringConfig._least | {"manifold_points": 2}
  manifold_points: int
  subsets: str | None = None


def parse_centers(text: str) -> str | int | None:
  """Returns the geometry's rule for a value of `--centers`."""
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
  layers: str | None, layer_names: tuple[str, ...]
) -> tuple[str, ...]:
  """Returns the layers that a config asks for, in the network's order."""
  if layers == "last":
    return (layer_names[-2],)
  return names_in(layers, layer_names, "layer")


def names_in(
  text: str | None, known: tuple[str, ...], noun: str
) -> tuple[str, ...]:
  """Parses comma-separated names; returns them in the order of `known`."""
  if text is None:
    return known
  names = [name.strip() for name in text.split(",")]
  unknown = [name for name in names if name not in known]
  if unknown:
    raise ValueError(
      f"{noun} {unknown[0]!r} is not known; choose from {', '.join(known)}."
    )
  return tuple(name for name in known if name in names)
