"""Geometry by model size, where test accuracy descends twice.

Source: Stephenson et al., ICLR 2021, figure 4C-E; Nakkiran et al., "Deep double
descent", ICLR 2020, for the recipe.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from geomem.analysis.config import ExperimentConfig
from geomem.analysis.words import with_error

FITTED = 0.99  # The training accuracy that counts as interpolation.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSizeConfig(ExperimentConfig):
  """The config of a sweep over widths; other defaults, nothing else.

  Attributes:
    num_seeds: how many, trained together.
  """

  permuted_fraction: float | None = None
  optimizer: str | None = None
  crop: int | None = None
  flip: bool | None = None
  num_seeds: int | None = None
  centers: str | None = None
  layers: str | None = "last"
  subsets: str | None = "unpermuted,test"

  def filled(self) -> ExperimentConfig:
    """The config of a run, with the recipe of the data set."""
    recipe = _RECIPES.get(self.dataset, _RECIPES[""])
    values = dataclasses.asdict(self)
    chosen = {k: v for k, v in recipe.items() if values[k] is None}
    return ExperimentConfig(**values | chosen)


_RECIPES = {
  # Few examples and much noise make the peak of the error sharp. Networks of
  # fewer units than classes have no room for directions to be removed.
  "digits": {
    "model": "mlp1",
    "examples_per_class": 40,
    "permuted_fraction": 0.3,
    "epochs": 300,
    "batch_size": 50,
    "optimizer": "adam",
    "learning_rate": 0.003,
    "manifold_points": 16,
    "num_seeds": 8,
    "centers": "none",
    "crop": 0,
    "flip": False,
  },
  "": {
    "model": "resnet18",
    "permuted_fraction": 0.1,
    "epochs": 1000,
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "manifold_points": 50,
    "num_seeds": 5,
    "centers": "low_rank",
    "crop": 4,
    "flip": True,
  },
}
_WIDTHS = {
  "digits": (3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64, 128, 256),
  "": (*range(4, 21), 22, 24, 26, 28, 30, 32, 44, 64),
}


def default_widths(dataset: str) -> tuple[int, ...]:
  """Widths on both sides of the interpolation threshold."""
  return _WIDTHS.get(dataset, _WIDTHS[""])


class Dip(NamedTuple):
  """A fall of accuracy with growing size, before it rises again.

  Attributes:
    before: position of the peak before it.
    at: position of the dip.
    depth: accuracy before it less accuracy in it.
    stderr: of the depth, over seeds.
    rise: accuracy at the largest size less that in the dip.
    rise_stderr: of the rise, over seeds.
  """

  before: int
  at: int
  depth: float
  stderr: float
  rise: float
  rise_stderr: float


def find_dip(accuracy: Float[np.ndarray, "sizes seeds"]) -> Dip | None:
  """The deepest fall from a smaller size to a larger one, by means over seeds.

  Both differences are taken within seeds, which share their labels over sizes.
  Peak and dip are chosen by the same means, which favours depth; `stderr` does
  not count that.

  Args:
    accuracy: by growing size.

  Returns:
    The dip, or None where accuracy never falls.
  """
  mean = accuracy.mean(axis=1)
  falls = mean[:, None] - mean[None, :]
  falls[np.tril_indices(len(mean))] = -np.inf
  before, at = np.unravel_index(np.argmax(falls), falls.shape)
  if not falls[before, at] > 0:
    return None
  depth = mean_and_error(accuracy[before] - accuracy[at])
  rise = mean_and_error(accuracy[-1] - accuracy[at])
  return Dip(int(before), int(at), *depth, *rise)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
  """The mean over seeds and its standard error, NaN for one seed."""
  if len(values) == 1:
    return float(values[0]), float("nan")
  return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


class Sizes:
  """The rows of a sweep over widths, as arrays over widths and seeds."""

  def __init__(self, rows: Sequence[dict[str, Any]]):
    """Takes rows of complete cells that have the same seeds."""
    self._values = {}
    for row in rows:
      if row["layer"] == "logits":
        continue
      place = (row["width"], row["seed"])
      key = (row["metric"], row["subset"], row["epoch"])
      # Of several layers the deepest comes last, and stays.
      self._values[(*place, *key)] = row["value"]
    self.widths = sorted({row["width"] for row in rows})
    self.seeds = sorted({row["seed"] for row in rows})

  def fact(self, metric: str) -> Float[np.ndarray, "sizes seeds"]:
    """A fact about each training."""
    return self._array(lambda place: (metric, None, None))

  def at(
    self, which: str, metric: str, subset: str
  ) -> Float[np.ndarray, "sizes seeds"]:
    """A metric at the `best` or the `last` epoch."""
    epochs = f"{which}_epoch"
    return self._array(
      lambda place: (metric, subset, self._values[*place, epochs, None, None])
    )

  def _array(self, key_of) -> np.ndarray:
    places = [[(w, s) for s in self.seeds] for w in self.widths]
    return np.array(
      [[self._values[*place, *key_of(place)] for place in r] for r in places],
      float,
    )


def threshold(sizes: Sizes) -> float | None:
  """Parameters where interpolation begins, or None where it never does.

  That is the smallest network whose training accuracy at the last epoch, over
  permuted and unpermuted examples and over seeds, is `FITTED`.
  """
  total, right = 0, 0
  for subset in ("unpermuted", "permuted"):
    count = sizes.fact(f"num_{subset}")
    if count.any():
      right = right + count * sizes.at("last", "accuracy", subset)
      total = total + count
  fitted = np.flatnonzero((right / total).mean(axis=1) >= FITTED)
  parameters = sizes.fact("num_parameters")[:, 0]
  return float(parameters[fitted[0]]) if fitted.size else None


def summarize_sizes(rows: list[dict]) -> tuple[list[dict], list[str]]:
  """Further rows of a sweep over widths, and what it found in sentences."""
  sizes = Sizes(rows)
  parameters = sizes.fact("num_parameters")[:, 0].astype(int)
  at_threshold = threshold(sizes)
  further = [{"metric": "interpolation_threshold", "value": at_threshold}]
  sentences = []
  if at_threshold is None:
    sentences.append(f"No network fits {FITTED:.0%} of its training labels.")
  else:
    sentences.append(
      f"From {at_threshold:,.0f} parameters on, {FITTED:.0%} of the training"
      " labels are fitted."
    )
  dip = find_dip(sizes.at("last", "accuracy", "test"))
  if dip is None:
    sentences.append("Test accuracy at the last epoch never falls with size.")
    return further, sentences
  further += [
    {"metric": "dip_parameters", "value": parameters[dip.at]},
    {"metric": "dip_depth", "value": dip.depth, "stderr": dip.stderr},
  ]
  if dip.at < len(parameters) - 1:
    rise = {"value": dip.rise, "stderr": dip.rise_stderr}
    further.append({"metric": "dip_rise", **rise})
  end = f"and rises by {with_error(dip.rise, dip.rise_stderr)} to"
  end += f" {parameters[-1]:,}"
  if dip.at == len(parameters) - 1:
    end = "the largest: whether it rises again is not seen"
  sentences.append(
    f"Test accuracy at the last epoch falls by"
    f" {with_error(dip.depth, dip.stderr)} from"
    f" {parameters[dip.before]:,} parameters (width"
    f" {sizes.widths[dip.before]}) to {parameters[dip.at]:,} (width"
    f" {sizes.widths[dip.at]}), {end}."
  )
  measured = {r["subset"] for r in rows if r["metric"] == "dimension"}
  if "test" in measured:
    sentences += _geometry_sentences(sizes, dip)
  return further, sentences


def _geometry_sentences(sizes: Sizes, dip: Dip) -> list[str]:
  """How far the last epoch is from the best, in the dip and at both ends."""
  sentences = []
  places = {"smallest": 0, "dip": dip.at, "largest": len(sizes.widths) - 1}
  # Where the dip is at an end, it is named once.
  places = {i: name for name, i in places.items()}
  for metric in ("dimension", "radius"):
    best = sizes.at("best", metric, "test")
    change = sizes.at("last", metric, "test") - best
    parts = []
    for index, name in places.items():
      mean, error = mean_and_error(change[index])
      parts.append(
        f"{with_error(mean, error, '+.3f')} ({mean / best[index].mean():+.0%})"
        f" in the {name}"
      )
    sentences.append(
      f"Test {metric} of the last hidden layer, last epoch less best: "
      + ", ".join(parts)
      + "."
    )
  return sentences
