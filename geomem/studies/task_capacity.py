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
  half_rise_with_error,
  inseparable,
  mean_by_epoch,
  plot_task,
)
from geomem.studies.finding import Finding, doubts, with_error
from geomem.studies.measure import Measuring
from geomem.studies.measure_config import MeasuringConfig
from geomem.studies.trained import TrainedRun

# GLUE is earlier if its epoch is below this fraction of the mean-field one.
_EARLIER = 0.9


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
    missing = _unmeasured(rows)
    return [
      *doubts(rows),
      *(
        finding._replace(holds=None, sentence=missing[finding.name])
        if finding.name in missing
        else finding
        for finding in (
          _earlier(rows),
          _layers(rows),
          _separable(rows, config.get("glue_labels")),
          _representation(rows),
        )
      ),
    ]


def _unmeasured(rows: runs.Rows) -> dict[str, str]:
  """Returns, for each task that lacks measured epochs, a sentence on them."""
  scored = rows.where("accuracy", layer=None)

  def places(selected) -> set[tuple[int, int]]:
    return {(row["seed"], row["epoch"]) for row in selected}

  best, last = (set(rows.epochs(w).items()) for w in ("best", "last"))
  first = {
    (seed, min(of_seed.distinct("epoch")))
    for seed, of_seed in scored.split("seed").items()
  }
  every = places(scored)
  needed = {
    "Task 1": every,
    "Task 2": first | last,
    "Task 3": every,
    "Task 4": best | last,
  }
  sentences = {}
  for name, needs in needed.items():
    epochs = sorted({e for _, e in needs - places(rows.where("capacity"))})
    if epochs:
      named = ", ".join(f"{epoch:g}" for epoch in epochs)
      sentences[name] = f"this needs epochs that are not measured: {named}"
  return sentences


def _earlier(rows: runs.Rows) -> Finding:
  name, claim = "Task 1", "GLUE tells memorization earlier"
  permuted = rows.last_hidden().where(subset="permuted")
  curves = {
    metric: permuted.where(metric).series("epoch") for metric in THEORIES
  }
  unknown = [
    f"by {THEORIES[metric]} at {style.name_epochs(epochs)}"
    for metric, curve in curves.items()
    if (epochs := curve.x[np.isnan(curve.mean)]).size
  ]
  if unknown:
    nothing = f"capacity is unknown {' and '.join(unknown)}"
    return Finding(name, None, nothing, claim)
  (glue, glue_error), (mean_field, mean_field_error) = (
    half_rise_with_error(curves[metric])
    for metric in ("glue_capacity", "capacity")
  )
  if not np.isfinite([glue, mean_field]).all():
    return Finding(name, None, "a capacity never rises by half", claim)
  ahead = _EARLIER * mean_field - glue
  holds, caveat = ahead > 0, ""
  # Written so that a NaN error leaves the claim undecided.
  if not abs(ahead) > 2 * math.hypot(glue_error, _EARLIER * mean_field_error):
    holds, caveat = None, ", which cannot be known within two errors"
  return Finding(
    name,
    holds,
    "in the last hidden layer the capacity of permuted examples is half way up"
    f" at epoch {with_error(glue, glue_error, '.1f')} by GLUE and"
    f" {with_error(mean_field, mean_field_error, '.1f')} by mean-field theory;"
    f" {1 - _EARLIER:.0%} earlier was expected{caveat}",
    claim,
  )


def _layers(rows: runs.Rows) -> Finding:
  name, claim = "Task 2", "GLUE tells memorization in other layers"
  if len(rows.layers) < 2:
    return Finding(name, None, "one layer was measured", claim)
  factors, at_bound = {}, inseparable(rows)
  if len(rows.layers) - len(at_bound) < 2:
    too_few = "labellings are separable in fewer than two layers"
    return Finding(name, None, too_few, claim)
  for metric in THEORIES:
    last = rows.at("last").where(metric, subset="permuted")
    growth = grown(last, at_first(rows).where(metric))
    factors[metric] = {
      layer: growth.get(i, (math.nan, math.nan))
      for i, layer in rows.layers.items()
      if i not in at_bound
    }
  tells = {
    metric: [name for name in each if each[name][0] > GROWN]
    for metric, each in factors.items()
  }
  unknown = {
    metric: [name for name in each if math.isnan(each[name][0])]
    for metric, each in factors.items()
  }
  named = {
    metric: (", ".join(tells[metric]) or "no layer")
    + (f" (unknown in {', '.join(names)})" if names else "")
    for metric, names in unknown.items()
  }
  caveat = ""
  if at_bound:
    names = ", ".join(at_bound.values())
    caveat = f"; left out: {names}, where most labellings are inseparable"
  in_doubt = set().union(*unknown.values())
  differ = set.symmetric_difference(*map(set, tells.values())) - in_doubt
  holds = any(_apart(*(each[x] for each in factors.values())) for x in differ)
  if differ and not holds:
    holds, caveat = None, f"{caveat}; where they differ it is within two errors"
  elif in_doubt and not holds:
    holds = None
  return Finding(
    name,
    holds,
    f"capacity of permuted examples grows by {GROWN - 1:.0%} in"
    f" {named['glue_capacity']} by GLUE, in {named['capacity']} by mean-field"
    f" theory{caveat}",
    claim,
  )


def _apart(first: tuple[float, float], second: tuple[float, float]) -> bool:
  """Tells whether two values differ by more than twice their joint error."""
  (a, a_error), (b, b_error) = first, second
  return abs(a - b) > 2 * math.hypot(a_error, b_error)


def _separable(rows: runs.Rows, labels: str | None) -> Finding:
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
  return Finding(
    "Task 3",
    holds,
    f"in the last hidden layer half of the labellings ({labels}) of permuted"
    f" examples are separable {_at(separable)}{caveat}; half of the examples"
    f" are fitted {_at(half)}",
    "permuted labels are separable before they are fitted",
  )


def _first(epochs, holds) -> float:
  places = np.flatnonzero(holds)
  return float(epochs[places[0]]) if places.size else float("inf")


def _at(epoch: float) -> str:
  return f"first at epoch {epoch:g}" if np.isfinite(epoch) else "at no epoch"


def _representation(rows: runs.Rows) -> Finding:
  name = "Task 4"
  claim = "the fall of test accuracy is the representation's"
  network, net_error = _fall(rows, "accuracy")
  probe, probe_error = _fall(rows, "probe_accuracy")
  if np.isnan(network):
    return Finding(name, None, "a test accuracy is unknown", claim)
  if not network > 0:
    return Finding(name, None, "no test accuracy was lost", claim)
  if not np.isfinite(probe):
    nothing = "there are too few points for a probe, or they coincide"
    return Finding(name, None, nothing, claim)
  sentence = (
    "from the best to the last epoch the network loses"
    f" {with_error(network, net_error)} of its test accuracy, a new readout of"
    f" its last hidden layer {with_error(probe, probe_error)}"
  )
  beyond, error = probe - network / 2, math.hypot(probe_error, net_error / 2)
  # Written so that a NaN error leaves the claim undecided.
  if not (network > 2 * net_error and abs(beyond) > 2 * error):
    caveat = "more or less than half cannot be known within two errors"
    return Finding(name, None, f"{sentence}; {caveat}", claim)
  return Finding(name, beyond > 0, sentence, claim)


def _fall(rows: runs.Rows, metric: str) -> tuple[float, float]:
  """Returns the fall of a test accuracy from best to last, and its error."""
  (best, best_error), (last, last_error) = (
    rows.of_network(metric, "test", which).mean() for which in ("best", "last")
  )
  return best - last, math.hypot(best_error, last_error)
