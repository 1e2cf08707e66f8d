"""Geometry by model size, where test accuracy descends twice.

Source: Stephenson et al., ICLR 2021, figure 4C-E; Nakkiran et al., "Deep double
descent", ICLR 2020, for the recipe.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from geomem import plots, runs
from geomem.runs import mean_and_error
from geomem.studies.presets import fields_of, make_config
from geomem.studies.sweep import Sweep, of_cells
from geomem.studies.words import with_error

FITTED = 0.99  # The training accuracy that counts as interpolation.


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
  """Finds the deepest fall from a smaller size to a larger one, in the mean.

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


class Sizes:
  """The rows of a sweep over widths, as `[sizes, seeds]` arrays.

  Attributes:
    widths: ascending.
  """

  def __init__(self, rows: runs.Rows):
    """Takes rows of complete cells that have the same seeds."""
    self._by_width = rows.split("width")
    self._seeds = rows.seeds
    self.widths = list(self._by_width)

  def fact(self, metric: str) -> Float[np.ndarray, "sizes seeds"]:
    """Returns a fact about each training."""
    return self._array(
      [rows.where(metric, subset=None) for rows in self._by_width.values()]
    )

  def at(
    self, which: str, metric: str, subset: str
  ) -> Float[np.ndarray, "sizes seeds"]:
    """Returns a metric at the `best` or the `last` epoch."""
    return self._array(
      [
        rows.of_network(metric, subset, which)
        for rows in self._by_width.values()
      ]
    )

  def has(self, which: str, metric: str, subset: str) -> bool:
    """Tells whether a metric is known of every width and seed."""
    return all(
      rows.of_network(metric, subset, which).seeds == self._seeds
      for rows in self._by_width.values()
    )

  def _array(self, sizes: Sequence[runs.Rows]) -> np.ndarray:
    return np.array(
      [[rows.where(seed=s)[0]["value"] for s in self._seeds] for rows in sizes],
      float,
    )


def threshold(sizes: Sizes) -> float | None:
  """Returns the number of parameters where interpolation begins, if anywhere.

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


def summarize_sizes(rows: runs.Rows) -> tuple[list[runs.Row], list[str]]:
  """Computes further rows of a sweep over widths, and says what it found."""
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
  if all(sizes.has(which, "dimension", "test") for which in ("best", "last")):
    sentences += _geometry_sentences(sizes, dip)
  elif "test" in rows.where("dimension").subsets:
    sentences.append(
      "How test geometry changes from the best to the last epoch cannot be"
      " told: one of them was not measured."
    )
  if sizes.has("last", "probe_accuracy", "test"):
    sentences.append(_readout_sentence(sizes, dip))
  return further, sentences


def _geometry_sentences(sizes: Sizes, dip: Dip) -> list[str]:
  """Says how far the last epoch is from the best, in dip and ends."""
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


def _readout_sentence(sizes: Sizes, dip: Dip) -> str:
  """Says whether the dip is one of the representation, or of the readout."""
  fell = {}
  for metric in ("accuracy", "probe_accuracy"):
    values = sizes.at("last", metric, "test")
    fell[metric] = mean_and_error(values[dip.before] - values[dip.at])
  lost, error = fell["probe_accuracy"]
  half = fell["accuracy"][0] / 2
  whose = "the dip is mostly of the "
  whose += "representation" if lost > half else "readout"
  if abs(lost - half) < 2 * error:
    whose = "whose the dip is cannot be told"
  return (
    f"Where test accuracy falls by {with_error(*fell['accuracy'])}, a new"
    f" linear readout of the last hidden layer"
    f" {'gains' if lost < 0 else 'loses'} {with_error(abs(lost), error)}:"
    f" {whose}."
  )


def model_size_sweep(
  widths: Sequence[int] = (),
  *,
  preset: str | None = None,
  share: str | None = None,
  **fields: Any,
) -> Sweep:
  """Makes a sweep over the width.

  Args:
    widths: of the networks; by default those of the preset.
    preset: one of the presets of `model_size`.
    share: this process's part of the cells.
    **fields: of the config that all widths share.
  """
  filled = fields_of("model_size", preset, **fields)
  config = make_config("model_size", preset, **fields)
  axes = {"width": list(widths or filled["width"])}
  return Sweep(ModelSize.name, config, axes, summarize_sizes, share)


class ModelSize:
  """What a sweep over the width shows: figures 4C-E of the paper."""

  name = "model_size"
  figures = plots.MODEL_SIZE

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[str]:
    """Says where labels are fitted, and how deep test accuracy dips."""
    return summarize_sizes(of_cells(config, rows))[1]
