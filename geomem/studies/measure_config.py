"""Configs of the measurements of layers; every field is a flag."""

import dataclasses
import re

from geomem.geometry import LABELLINGS
from geomem.measures import MEASURES, Measure, Options
from geomem.studies.fields import check_least, check_types
from geomem.studies.measured_epochs import normalized


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuringConfig:
  """The measures of every layer, and the epochs to measure.

  Attributes:
    measures: names of measures, comma-separated.
    num_probes: T, probes per manifold.
    kappa: margin κ, in units of the norm of a manifold's centre.
    centers: rule for shared directions to remove: `low_rank`, `none` or their
      number.
    glue_labels: labellings for GLUE: `balanced`, `independent` or
      `one_vs_rest`.
    layers: layers to measure, comma-separated, or `last` (hidden); all by
      default.
    measure_epochs: epochs to measure, comma-separated: `all` that are saved
      (the default), `best`, `last`, `first`, or numbers; always in the order
      best, last, first, others.
  """

  measures: str = "mean_field"
  num_probes: int = 300
  kappa: float = 0.0
  centers: str = "low_rank"
  glue_labels: str = "balanced"
  layers: str | None = None
  measure_epochs: str | None = None

  def __post_init__(self):
    check_types(self)
    # Normalized, so that equal choices give equal configs.
    object.__setattr__(self, "measure_epochs", normalized(self.measure_epochs))
    check_least(self, {"num_probes": 1})
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
