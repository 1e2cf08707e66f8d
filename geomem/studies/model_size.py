r"""Double descent by model size, and the geometry: figure 4C-E of the paper.

Trains networks of several widths on partly permuted labels, the seeds of each
width together, and measures the last hidden layer at every saved epoch.

  python -m experiments model_size --out=runs/model_size

sweeps a network with one hidden layer on scikit-learn's digits, in five minutes
on two cores. The paper's sweep, ResNet-18 on CIFAR-100, is

  python -m experiments model_size --out=runs/resnet18 \
    --preset=paper_double_descent

Every width is a run in its own directory: repeat the command to resume, add
widths at any time, or share a sweep between several jobs with --cell=0/8,
--cell=1/8 and so on, with the array index of a batch system.

Source: Stephenson et al., ICLR 2021, figure 4C-E; Nakkiran et al., "Deep double
descent", ICLR 2020, for the recipe.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from geomem import plots, runs
from geomem.runs import mean_and_error
from geomem.studies.fields import sequence
from geomem.studies.finding import (
  believable,
  doubts_by_width,
  last_measured,
  with_error,
)
from geomem.studies.presets import fields_of, make_config
from geomem.studies.sweep import Sweep, make_axes, of_cells

FITTED = 0.99  # The training accuracy that counts as interpolation.
_ROUNDING = 1e-9  # A smaller fall is no fall.


class Dip(NamedTuple):
  """A dip in accuracy as the size grows.

  Attributes:
    before: index of the peak before the dip.
    at: index of the dip.
    depth: accuracy at the peak minus accuracy in the dip.
    stderr: standard error of the depth, over seeds.
    rise: accuracy at the largest size minus accuracy in the dip.
    rise_stderr: standard error of the rise, over seeds.
  """

  before: int
  at: int
  depth: float
  stderr: float
  rise: float
  rise_stderr: float


def find_dip(accuracy: Float[np.ndarray, "sizes seeds"]) -> Dip | None:
  """Finds the largest drop in mean accuracy from one size to a larger one.

  Both differences are paired by seed, as a seed has the same labels at every
  size. Peak and dip are chosen on the same means, which biases the depth
  upwards; `stderr` does not include this bias. Sizes ascend. If accuracy never
  falls, there is no dip.
  """
  mean = accuracy.mean(axis=1)
  falls = mean[:, None] - mean[None, :]
  falls[np.tril_indices(len(mean))] = -np.inf
  before, at = np.unravel_index(np.argmax(falls), falls.shape)
  if not falls[before, at] > _ROUNDING:
    return None
  depth = mean_and_error(accuracy[before] - accuracy[at])
  rise = mean_and_error(accuracy[-1] - accuracy[at])
  return Dip(int(before), int(at), *depth, *rise)


class Sizes:
  """The rows of a sweep over widths, as `[sizes, seeds]` arrays.

  What is missing is NaN.

  Attributes:
    widths: the swept widths, ascending.
    layer: names the layer that the metrics of layers are of.
  """

  def __init__(self, rows: runs.Rows):
    """Groups the rows of complete cells, which have the same seeds."""
    rows = believable(rows)
    self._by_width = rows.split("width")
    self._seeds = rows.seeds
    self.widths = list(self._by_width)
    self.layer = last_measured(rows) if rows.layers else ""

  def fact(self, metric: str) -> Float[np.ndarray, "sizes seeds"]:
    """Returns a fact about each training run."""
    return self._array(
      [rows.where(metric, subset=None) for rows in self._by_width.values()]
    )

  def at(
    self, which: str, metric: str, subset: str
  ) -> Float[np.ndarray, "sizes seeds"]:
    """Returns a metric at the `best` or the `last` epoch."""
    of_widths = self._by_width.values()
    return self._array([r.of_network(metric, subset, which) for r in of_widths])

  def has(self, which: str, metric: str, subset: str) -> bool:
    """Returns whether every width and seed has a row of a metric."""
    return all(
      rows.of_network(metric, subset, which).seeds == self._seeds
      for rows in self._by_width.values()
    )

  def _array(self, sizes: Sequence[runs.Rows]) -> np.ndarray:
    values = [{row["seed"]: row["value"] for row in rows} for rows in sizes]
    return np.array(
      [[of.get(seed, np.nan) for seed in self._seeds] for of in values], float
    )


def threshold(sizes: Sizes) -> float | None:
  """Returns the parameter count at which interpolation begins, or None.

  It belongs to the smallest network whose training accuracy at the last epoch,
  over permuted and unpermuted examples and over seeds, reaches `FITTED`. It is
  NaN if an accuracy of a smaller network is missing.
  """
  total, correct = 0, 0
  for subset in ("unpermuted", "permuted"):
    count = sizes.fact(f"num_{subset}")
    if count.any():
      correct = correct + count * sizes.at("last", "accuracy", subset)
      total = total + count
  share = (correct / total).mean(axis=1)
  fitted = np.flatnonzero(~(share < FITTED))
  if not fitted.size:
    return None
  parameters = sizes.fact("num_parameters")[fitted[0], 0]
  return math.nan if np.isnan(share[fitted[0]]) else float(parameters)


def summarize_sizes(rows: runs.Rows) -> tuple[list[runs.Row], list[str]]:
  """Returns summary rows of a sweep over widths, and sentences on them."""
  sizes = Sizes(rows)
  fitted = threshold(sizes)
  further = [{"metric": "interpolation_threshold", "value": fitted}]
  sentences = doubts_by_width(rows)
  if fitted is None:
    sentences.append(f"No network fits {FITTED:.0%} of its training labels.")
  elif math.isnan(fitted):
    sentences.append(
      f"The size from which {FITTED:.0%} of the training labels are fitted"
      " cannot be told: accuracies are missing."
    )
  else:
    sentences.append(
      f"The smallest network that fits {FITTED:.0%} of its training labels has"
      f" {fitted:,.0f} parameters."
    )
  accuracy = sizes.at("last", "accuracy", "test")
  if np.isnan(accuracy).any():
    sentences.append(
      "Whether test accuracy at the last epoch falls with size cannot be told:"
      " accuracies are missing."
    )
  elif dip := find_dip(accuracy):
    of_dip, said = _summarize_dip(sizes, dip)
    further += of_dip
    sentences.append(said)
    if all(sizes.has(which, "dimension", "test") for which in ("best", "last")):
      sentences += _geometry_sentences(sizes, dip)
    elif "test" in rows.where("dimension").subsets:
      sentences.append(
        "How test geometry changes from the best to the last epoch cannot be"
        " told: one of them was not measured."
      )
    if sizes.has("last", "probe_accuracy", "test"):
      sentences.append(_readout_sentence(sizes, dip))
  elif len(accuracy) > 1:
    sentences.append("Test accuracy at the last epoch never falls with size.")
  return further, sentences


def _summarize_dip(sizes: Sizes, dip: Dip) -> tuple[list[runs.Row], str]:
  """Returns the rows of a dip, and a sentence on it."""
  widths = sizes.widths
  parameters = sizes.fact("num_parameters")[:, 0].astype(int)
  further = [
    {"metric": "dip_parameters", "value": parameters[dip.at]},
    {"metric": "dip_depth", "value": dip.depth, "stderr": dip.stderr},
  ]
  end = "the largest: whether it rises again is not seen"
  if dip.at < len(widths) - 1:
    rise = {"value": dip.rise, "stderr": dip.rise_stderr}
    further.append({"metric": "dip_rise", **rise})
    rises = with_error(dip.rise, dip.rise_stderr)
    end = f"and rises by {rises} to {parameters[-1]:,}"
  sentence = (
    f"Test accuracy at the last epoch falls by"
    f" {with_error(dip.depth, dip.stderr)} from"
    f" {parameters[dip.before]:,} parameters (width {widths[dip.before]}) to"
    f" {parameters[dip.at]:,} (width {widths[dip.at]}), {end}."
  )
  return further, sentence


def _geometry_sentences(sizes: Sizes, dip: Dip) -> list[str]:
  """Compares the last epoch with the best, in the dip and at both ends."""
  # Keyed by index, so that a dip at an end is listed once.
  last, sentences = len(sizes.widths) - 1, []
  places = {0: "smallest", dip.at: "dip", last: "largest"}
  # Another number K of removed directions changes geometry by itself.
  ranks = [sizes.at(which, "rank", "test") for which in ("best", "last")]
  for index in places:
    of_seeds = np.abs(ranks[1] - ranks[0])[index] > 0
    if number := int(of_seeds.sum()):
      places[index] += f" (of other K in {number} of {len(of_seeds)} seeds)"
  for metric in ("dimension", "radius"):
    best = sizes.at("best", metric, "test")
    change = sizes.at("last", metric, "test") - best
    parts = []
    for index, name in places.items():
      mean, error = mean_and_error(change[index])
      before, number = best[index].mean(), "unknown"
      if before > 0 and not math.isnan(mean):
        number = f"{with_error(mean, error, '+.3f')} ({mean / before:+.0%})"
      parts.append(f"{number} in the {name}")
    sentences.append(
      f"Test {metric} of {sizes.layer}, last epoch less best:"
      f" {', '.join(parts)}."
    )
  return sentences


def _readout_sentence(sizes: Sizes, dip: Dip) -> str:
  """Attributes the dip to the representation or to the readout."""
  drops = []
  for metric in ("accuracy", "probe_accuracy"):
    values = sizes.at("last", metric, "test")
    drops.append(values[dip.before] - values[dip.at])
  fall, (lost, error) = map(mean_and_error, drops)
  # Beyond half of the fall, paired by seed.
  further, further_error = mean_and_error(drops[1] - drops[0] / 2)
  if math.isnan(lost):
    return (
      "Whether the representation or the readout causes the dip cannot be told:"
      " accuracies of new readouts are missing."
    )
  verdict = "the dip is mostly due to the "
  verdict += "representation" if further > 0 else "readout"
  # A single seed has no error.
  if not (fall[0] > 2 * fall[1] and abs(further) >= 2 * further_error):
    verdict = "which of the two causes the dip cannot be told"
  return (
    f"Where test accuracy falls by {with_error(*fall)}, a new"
    f" linear readout of {sizes.layer}"
    f" {'gains' if lost < 0 else 'loses'} {with_error(abs(lost), error)}:"
    f" {verdict}."
  )


def model_size_sweep(
  widths: Sequence[int] = (),
  *,
  preset: str | None = None,
  share: str | None = None,
  **fields: Any,
) -> Sweep:
  """Returns a sweep over the width.

  Args:
    widths: widths of the networks; those of the preset by default.
    preset: one of the presets of `model_size`.
    share: this process's share of the cells.
    **fields: config fields that all widths share.

  Raises:
    ValueError: the widths are not a sequence, or a field is invalid.
  """
  filled = fields_of("model_size", preset, **fields)
  config = make_config("model_size", preset, **fields)
  axes = make_axes({"width": sequence("widths", widths) or filled["width"]})
  return Sweep(ModelSize.name, config, axes, summarize_sizes, share)


class ModelSize:
  """The findings of a sweep over the width: figures 4C-E of the paper."""

  name = "model_size"
  figures = plots.MODEL_SIZE

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[str]:
    """Returns where labels are fitted, how deep test accuracy dips, doubts."""
    return summarize_sizes(of_cells(config, rows))[1]
