"""Capacity for the task's own labels, beside mean-field capacity, by epoch.

This answers four questions about a finished run. Does GLUE, for each class
against the rest, reveal memorization earlier than mean-field capacity does, or
in other layers? Are the given labels of permuted examples separable before the
network fits them? And when test accuracy falls, is it the representation that
gets worse, or only the readout: would a new linear readout have lost as much?

Source of the last question: "Two Speeds of Learning", arXiv 2605.27078.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from geomem import runs
from geomem.plots import style
from geomem.plots.task import (
  GROWN,
  THEORIES,
  at_first,
  grown,
  half_rise,
  half_rise_with_error,
  inseparable,
  mean_by_epoch,
  plot_task,
)
from geomem.studies.finding import (
  BY_K,
  Finding,
  apart,
  believable,
  doubts,
  last_measured,
  left_by_k,
  places,
  seeds_unlike,
  unmemorized,
  with_error,
)
from geomem.studies.measure import Measuring
from geomem.studies.measure_config import MeasuringConfig
from geomem.studies.trained import TrainedRun

# GLUE is earlier if its epoch is below this fraction of the mean-field one.
_EARLIER = 0.9
_CLAIMS = {
  "Task 1": "GLUE tells memorization earlier",
  "Task 2": "GLUE tells memorization in other layers",
  "Task 3": "permuted labels are separable before they are fitted",
  "Task 4": "the fall of test accuracy is the representation's",
}
# Whether a claim holds, None if undecided, and a sentence with its numbers.
_Answer = tuple[bool | None, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(MeasuringConfig):
  """What is measured, as in `MeasuringConfig`."""

  measures: str = "mean_field,glue,probe"
  glue_labels: str = "one_vs_rest"

  def __post_init__(self):
    super().__post_init__()
    missing = {"mean_field", "glue", "probe"} - {m.name for m in self.chosen}
    if missing:
      raise ValueError(
        f"measures is {self.measures!r}; mean_field, glue and probe, which are"
        " compared, were expected among them."
      )


class TaskCapacity(Measuring):
  """Mean-field capacity, GLUE and a linear probe at every saved epoch."""

  name = "task_capacity"
  figures: ClassVar = {"task_capacity": plot_task}

  def __init__(self, config: TaskConfig, trained: TrainedRun):
    """Checks the layers, and that permuted and test examples are measured.

    Raises:
      ValueError: a layer does not exist, or the run does not measure permuted
        or test examples.
    """
    super().__init__(config, trained)
    measured = trained.seeds[0].manifolds
    missing = [name for name in ("permuted", "test") if name not in measured]
    if missing:
      raise ValueError(
        f"The run in {trained.path} does not measure {' and '.join(missing)}"
        " examples, which are compared here."
      )
    self.directory = self._directory(self.name)

  def facts(self) -> runs.Rows:
    """Returns the run's facts, and its accuracies by epoch."""
    accuracy = self.trained.rows.where("accuracy", layer=None)
    return runs.Rows([*super().facts(), *accuracy])

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Answers the four questions; one that lacks epochs is left undecided."""
    found: list[Any] = doubts(rows)
    rows = believable(rows)
    best, last = (set(rows.epochs(w).items()) for w in ("best", "last"))
    scored = rows.where("accuracy", layer=None)
    every = places(scored, "seed", "epoch")
    first = {
      (seed, min(of_seed.distinct("epoch")))
      for seed, of_seed in scored.split("seed").items()
    }
    measured = places(rows.where("capacity"), "seed", "epoch")
    tasks = {
      "Task 1": (_earlier(rows), every),
      "Task 2": (_layers(rows), first | last),
      "Task 3": (_separable(rows, config.get("glue_labels")), every),
      "Task 4": (_representation(rows), best | last),
    }
    # Where nothing is memorized, capacities rise and fall by noise alone.
    if too_little := unmemorized(rows):
      for name in ("Task 1", "Task 2"):
        tasks[name] = (None, too_little), tasks[name][1]
    for name, ((holds, sentence), needed) in tasks.items():
      if missing := sorted({epoch for _, epoch in needed - measured}):
        named = ", ".join(f"{epoch:g}" for epoch in missing)
        holds = None
        sentence = f"this needs epochs that are not measured: {named}"
      found.append(Finding(name, holds, sentence, _CLAIMS[name]))
    return found


def _earlier(rows: runs.Rows) -> _Answer:
  permuted = rows.last_hidden().where(subset="permuted")
  curves = {
    metric: permuted.where(metric)
    .of_all_seeds(permuted.seeds, "epoch")
    .series("epoch")
    for metric in THEORIES
  }
  unknown = [
    f"by {THEORIES[metric]} at {style.name_epochs(epochs)}"
    for metric, curve in curves.items()
    if (epochs := curve.x[np.isnan(curve.mean)]).size
  ]
  if unknown:
    return None, f"capacity is unknown {' and '.join(unknown)}"
  glue, mean_field = (
    half_rise_with_error(curves[metric])
    for metric in ("glue_capacity", "capacity")
  )
  if not np.isfinite([glue[0], mean_field[0]]).all():
    return None, "a capacity never rises by half"
  bound = _EARLIER * mean_field[0], _EARLIER * mean_field[1]
  holds, caveat = glue[0] < bound[0], ""
  ends = set(rows.epochs("last").values())
  if len(ends) > 1:
    holds = None
    caveat = (
      f"; this is half way up to epoch {curves['capacity'].x[-1]:g} only, as"
      f" seeds end at {style.name_epochs(ends)}"
    )
  elif not apart(glue, bound):
    holds, caveat = None, ", which cannot be known within two errors"
  elif not all(
    (glue[0] < _EARLIER * epoch) == holds
    for epoch in _half_rises(curves["capacity"], permuted)
  ):
    holds, caveat = None, f"; {BY_K}"
  return holds, (
    f"in {last_measured(permuted)} the capacity of permuted examples is half"
    f" way up at epoch {with_error(*glue, '.1f')} by GLUE and"
    f" {with_error(*mean_field, '.1f')} by mean-field theory;"
    f" {1 - _EARLIER:.0%} earlier was expected{caveat}"
  )


def _half_rises(curve: runs.Series, permuted: runs.Rows) -> tuple[float, float]:
  """Bounds the half rise of mean-field capacity, were K that of the last epoch.

  If another K may leave no half rise, it may be at any epoch.
  """
  by_epoch = permuted.split("epoch")
  at = [by_epoch[epoch] for epoch in curve.x]
  unlike = [len(seeds_unlike(of, at[-1])) for of in at]
  left = left_by_k(np.array(unlike) / len(permuted.seeds))
  low, high = curve.mean * left, curve.mean / left
  earliest = half_rise(curve.x, high, (low.min() + low[-1]) / 2)
  latest = half_rise(curve.x, low, (high.min() + high[-1]) / 2)
  return (
    -math.inf if math.isnan(earliest) else earliest,
    math.inf if math.isnan(latest) else latest,
  )


def _layers(rows: runs.Rows) -> _Answer:
  if len(rows.layers) < 2:
    return None, "one layer was measured"
  at_bound = inseparable(rows)
  if len(rows.layers) - len(at_bound) < 2:
    return None, "labellings are separable in fewer than two layers"
  factors, tells, named, in_doubt = {}, {}, {}, set()
  left = _left_by_k(rows)
  for metric in THEORIES:
    last = rows.at("last").where(metric, subset="permuted")
    growth = grown(last, at_first(rows).where(metric))
    factors[metric] = {
      layer: growth.get(i, (math.nan, math.nan))
      for i, layer in rows.layers.items()
      if i not in at_bound
    }
    of_layers = factors[metric].items()
    tells[metric] = [name for name, (of, _) in of_layers if of > GROWN]
    unknown = [name for name, (of, _) in of_layers if math.isnan(of)]
    named[metric] = ", ".join(tells[metric]) or "no layer"
    if unknown:
      named[metric] += f" (unknown in {', '.join(unknown)})"
    if by_k := [
      name
      for name, (of, _) in of_layers
      if metric == "capacity" and of * left[name] <= GROWN < of / left[name]
    ]:
      named[metric] += f" (in {', '.join(by_k)} {BY_K})"
    in_doubt |= {*unknown, *by_k}
  caveat = ""
  if at_bound:
    names = ", ".join(at_bound.values())
    caveat = f"; left out: {names}, where most labellings are inseparable"
  differ = set.symmetric_difference(*map(set, tells.values())) - in_doubt
  holds = any(apart(*(of[x] for of in factors.values())) for x in differ)
  if differ and not holds:
    holds, caveat = None, f"{caveat}; where they differ it is within two errors"
  elif in_doubt and not holds:
    holds = None
  return holds, (
    f"capacity of permuted examples grows by {GROWN - 1:.0%} in"
    f" {named['glue_capacity']} by GLUE, in {named['capacity']} by mean-field"
    f" theory{caveat}"
  )


def _left_by_k(rows: runs.Rows) -> dict[str, float]:
  """Returns by layer what another K may leave of mean-field capacity's growth.

  It is 1 where K is the same at the first and the last epoch.
  """
  first = rows.where(epoch=at_first(rows).distinct("epoch"))
  left = {}
  for index, layer in rows.layers.items():
    of_layer = {"layer_index": index, "subset": "permuted"}
    unlike = seeds_unlike(
      *(of.where("rank", **of_layer) for of in (first, rows.at("last")))
    )
    left[layer] = left_by_k(len(unlike) / len(rows.seeds))
  return left


def _separable(rows: runs.Rows, labels: str | None) -> _Answer:
  permuted = rows.last_hidden().where(subset="permuted")
  epochs, inside = mean_by_epoch(permuted.where("glue_interior"))
  accuracy = rows.where("accuracy", layer=None, subset="permuted")
  fitted_epochs, fitted = mean_by_epoch(accuracy)
  separable = _first(epochs, 1 - inside > 0.5)
  half = _first(fitted_epochs, fitted > 0.5)
  unknown = epochs[np.isnan(inside)]
  holds, caveat = separable < half, ""
  if unknown.size:
    caveat = f" (unknown at {style.name_epochs(unknown)})"
  # An unknown epoch before half are fitted may be one where half are separable.
  unfitted = np.isnan(fitted[fitted_epochs < half]).any()
  if math.isinf(half) or unfitted or (not holds and (unknown < half).any()):
    holds = None
  return holds, (
    f"in {last_measured(permuted)} half of the labellings ({labels}) of"
    f" permuted examples are separable {_at(separable)}{caveat}; half of the"
    f" examples are fitted {_at(half)}"
  )


def _first(epochs, holds) -> float:
  places = np.flatnonzero(holds)
  return float(epochs[places[0]]) if places.size else float("inf")


def _at(epoch: float) -> str:
  return f"first at epoch {epoch:g}" if np.isfinite(epoch) else "at no epoch"


def _representation(rows: runs.Rows) -> _Answer:
  network, probe = (_fall(rows, m) for m in ("accuracy", "probe_accuracy"))
  if np.isnan(network[0]):
    return None, "a test accuracy is unknown"
  if not network[0] > 0:
    return None, "no test accuracy was lost"
  if not np.isfinite(probe[0]):
    return None, "there are too few points for a probe, or they coincide"
  sentence = (
    "from the best to the last epoch the network loses"
    f" {with_error(*network)} of its test accuracy, a new readout of"
    f" {last_measured(rows.where('probe_accuracy'))} {with_error(*probe)}"
  )
  half = network[0] / 2, network[1] / 2
  # Written so that a NaN error leaves the claim undecided.
  if not (network[0] > 2 * network[1] and apart(probe, half)):
    caveat = "more or less than half cannot be known within two errors"
    return None, f"{sentence}; {caveat}"
  return probe[0] > half[0], sentence


def _fall(rows: runs.Rows, metric: str) -> tuple[float, float]:
  """Returns the fall of a test accuracy from best to last, and its error."""
  (best, best_error), (last, last_error) = (
    rows.of_network(metric, "test", which).mean(rows.seeds)
    for which in ("best", "last")
  )
  return best - last, math.hypot(best_error, last_error)
