"""The capacity for the task's own labels, beside the mean-field one, by epoch.

Four questions of a finished run. Does GLUE, for each class against the rest,
tell memorization earlier than mean-field capacity does, or in other layers? Are
the given labels of permuted examples separable before the network fits them?
And where test accuracy falls, is it the representation that loses, or only the
readout: would a new linear readout have lost as much?

Source of the last: "Two Speeds of Learning", arXiv 2605.27078.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from geomem import runs
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
from geomem.studies.doubts import doubts
from geomem.studies.measure import Measuring
from geomem.studies.measure_config import MeasuringConfig
from geomem.studies.trained import TrainedRun
from geomem.studies.words import Finding, with_error

# Of the epoch: what is less earlier is no earlier.
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
  """Measures mean-field capacity, GLUE and a probe at every saved epoch."""

  name = "task_capacity"
  figures: ClassVar = {"task_capacity": plot_task}

  def __init__(self, config: TaskConfig, trained: TrainedRun):
    """Checks the layers, and that there are permuted examples to ask.

    Raises:
      ValueError: a layer does not exist, or permuted or test examples are not
        measured in the run.
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
    """Answers the four questions, as far as the rows can."""
    missing = _unmeasured(rows)
    return [
      *doubts(rows),
      *(
        found._replace(holds=None, sentence=missing[found.name])
        if found.name in missing
        else found
        for found in (
          _earlier(rows),
          _layers(rows),
          _separable(rows, config.get("glue_labels")),
          _representation(rows),
        )
      ),
    ]


def _unmeasured(rows: runs.Rows) -> dict[str, str]:
  """Says what is not measured of what each task compares."""
  scored = rows.where("accuracy", layer=None)

  def places(found) -> set[tuple[int, int]]:
    return {(row["seed"], row["epoch"]) for row in found}

  best, last = (set(rows.epochs(w).items()) for w in ("best", "last"))
  first = {
    (seed, min(of.distinct("epoch")))
    for seed, of in scored.split("seed").items()
  }
  every = places(scored)
  needed = {
    "Task 1": every,
    "Task 2": first | last,
    "Task 3": every,
    "Task 4": best | last,
  }
  found = {}
  for name, needs in needed.items():
    epochs = sorted({e for _, e in needs - places(rows.where("capacity"))})
    if epochs:
      named = ", ".join(f"{epoch:g}" for epoch in epochs)
      found[name] = f"this needs epochs that are not measured: {named}"
  return found


def _earlier(rows: runs.Rows) -> Finding:
  name, claim = "Task 1", "GLUE tells memorization earlier"
  permuted = rows.last_hidden().where(subset="permuted")
  (glue, its_error), (mean_field, error) = (
    half_rise_with_error(permuted.where(metric).known().series("epoch"))
    for metric in ("glue_capacity", "capacity")
  )
  if not np.isfinite([glue, mean_field]).all():
    return Finding(name, None, "a capacity never rises by half", claim)
  ahead = _EARLIER * mean_field - glue
  holds, near = ahead > 0, ""
  # Written so that errors of NaN tell nothing.
  if not abs(ahead) > 2 * math.hypot(its_error, _EARLIER * error):
    holds, near = None, ", which cannot be known within two errors"
  return Finding(
    name,
    holds,
    "in the last hidden layer the capacity of permuted examples is half way up"
    f" at epoch {with_error(glue, its_error, '.1f')} by GLUE and"
    f" {with_error(mean_field, error, '.1f')} by mean-field theory;"
    f" {1 - _EARLIER:.0%} earlier was expected{near}",
    claim,
  )


def _layers(rows: runs.Rows) -> Finding:
  name, claim = "Task 2", "GLUE tells memorization in other layers"
  if len(rows.layers) < 2:
    return Finding(name, None, "one layer was measured", claim)
  factors, at_bound = {}, inseparable(rows)
  if len(rows.layers) - len(at_bound) < 2:
    few = "labellings are separable in fewer than two layers"
    return Finding(name, None, few, claim)
  for metric in THEORIES:
    here = rows.where(metric, subset="permuted").known()
    last = rows.at("last").where(metric, subset="permuted").known()
    factors[metric] = {
      here.layers[i]: growth
      for i, growth in grown(last, at_first(here)).items()
      if i not in at_bound
    }
  known = set.intersection(*(set(of) for of in factors.values()))
  tells = {
    metric: [name for name in of if name in known and of[name][0] > GROWN]
    for metric, of in factors.items()
  }
  said = {
    metric: ", ".join(names) or "no layer" for metric, names in tells.items()
  }
  more = ""
  if at_bound:
    names = ", ".join(at_bound.values())
    more = f"; left out: {names}, where most labellings are inseparable"
  by_one = set.symmetric_difference(*map(set, tells.values()))
  holds = any(_apart(*(of[x] for of in factors.values())) for x in by_one)
  if by_one and not holds:
    holds, more = None, f"{more}; where they differ it is within two errors"
  return Finding(
    name,
    holds,
    f"capacity of permuted examples grows by {GROWN - 1:.0%} in"
    f" {said['glue_capacity']} by GLUE, in {said['capacity']} by mean-field"
    f" theory{more}",
    claim,
  )


def _apart(first: tuple[float, float], second: tuple[float, float]) -> bool:
  """Tells whether two numbers differ by more than twice their errors."""
  (a, error), (b, other) = first, second
  return abs(a - b) > 2 * math.hypot(error, other)


def _separable(rows: runs.Rows, labels: str | None) -> Finding:
  permuted = rows.last_hidden().where(subset="permuted")
  epochs, inside = mean_by_epoch(permuted.where("glue_interior"))
  accuracy = rows.where("accuracy", layer=None, subset="permuted")
  fitted_epochs, fitted = mean_by_epoch(accuracy)
  separable = _first(epochs, 1 - inside > 0.5)
  half = _first(fitted_epochs, fitted > 0.5)
  return Finding(
    "Task 3",
    separable < half,
    f"in the last hidden layer half of the labellings ({labels}) of permuted"
    f" examples are separable {_at(separable)}; half of the examples are fitted"
    f" {_at(half)}",
    "permuted labels are separable before they are fitted",
  )


def _first(epochs, holds) -> float:
  places = np.flatnonzero(holds)
  return float(epochs[places[0]]) if places.size else float("inf")


def _at(epoch: float) -> str:
  return f"from epoch {epoch:g} on" if np.isfinite(epoch) else "at no epoch"


def _representation(rows: runs.Rows) -> Finding:
  name = "Task 4"
  claim = "the fall of test accuracy is the representation's"
  network, its_error = _fall(rows, "accuracy")
  probe, probe_error = _fall(rows, "probe_accuracy")
  if not network > 0:
    return Finding(name, None, "no test accuracy was lost", claim)
  if not np.isfinite(probe):
    return Finding(name, None, "there are too few points for a probe", claim)
  said = (
    f"from the best to the last epoch the network loses {network:.3f} ±"
    f" {its_error:.3f} of its test accuracy, a new readout of its last hidden"
    f" layer {probe:.3f} ± {probe_error:.3f}"
  )
  beyond, error = probe - network / 2, math.hypot(probe_error, its_error / 2)
  # Written so that errors of NaN tell nothing.
  if not (network > 2 * its_error and abs(beyond) > 2 * error):
    near = "more or less than half cannot be known within two errors"
    return Finding(name, None, f"{said}; {near}", claim)
  return Finding(name, beyond > 0, said, claim)


def _fall(rows: runs.Rows, metric: str) -> tuple[float, float]:
  """Returns by how much a test accuracy falls, and the error of that."""
  (best, error), (last, other) = (
    rows.of_network(metric, "test", which).mean() for which in ("best", "last")
  )
  return best - last, math.hypot(error, other)
