"""Findings in sentences: verdicts, numbers, and doubts about measurements."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from geomem import runs

_MOST_NAMED = 3
# Of mean-field theory and of GLUE.
_CAPACITIES = ("capacity", "glue_capacity")
# Metrics that say which problems were solved, of both.
_CONVERGED = ("converged", "glue_converged")
# What is unknown where mean-field theory did not converge. GLUE is NaN itself
# where too many of its problems are not solved.
_OF_MEAN_FIELD = ("capacity", "radius", "dimension")
# Smallest share of permuted labels fitted beyond chance that counts as memory.
_MEMORIZED = 0.2
# What another number K of shared directions removed leaves of a capacity, a
# radius or a dimension: docs/numbers.md.
_LEFT_BY_K = 0.6
BY_K = "different numbers of shared directions removed may alone decide this"


class Finding(NamedTuple):
  """A claim, tested on the rows of a run.

  Attributes:
    name: the name of the claim, such as F3.1.
    holds: whether it holds; None where the rows cannot tell.
    sentence: what the rows show, with figures.
    claim: the claim in a few words; docs/reproduction.md states it in full.
  """

  name: str
  holds: bool | None
  sentence: str
  claim: str = ""

  def __str__(self) -> str:
    verdict = {True: "holds", False: "does not hold", None: "is undecided"}
    claim = f" ({self.claim})" if self.claim else ""
    return f"{self.name}{claim} {verdict[self.holds]}: {self.sentence}."


def name_seeds(seeds: Iterable[int]) -> str:
  """Formats `seed 0`, or `seeds 0, 1`."""
  numbers = [str(seed) for seed in seeds]
  return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def with_error(value: float, error: float = math.nan, spec: str = ".3f") -> str:
  """Formats `0.123 ± 0.004`, the value alone without an error, or `unknown`.

  A single seed or draw has no error, and NaN is unknown.
  """
  text = "unknown" if math.isnan(value) else format(value, spec)
  if not math.isfinite(error) or math.isnan(value):
    return text
  return f"{text} ± {error:{spec.removeprefix('+')}}"


def apart(first: tuple[float, float], second: tuple[float, float]) -> bool:
  """Tells whether two values differ by more than twice their joint error.

  Each is a pair of a value and its error. A NaN error leaves them together.
  """
  (a, a_error), (b, b_error) = first, second
  return abs(a - b) > 2 * math.hypot(a_error, b_error)


def bounds(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
  """Returns a mean over seeds less, and plus, two of its errors.

  The error is the larger of that of the mean over seeds, and that which the
  errors of the values leave in it. One that is unknown (NaN) is none.
  """
  mean, of_seeds = runs.mean_and_error(values)
  of_values = np.linalg.norm(errors) / len(errors)
  error = np.nanmax([of_seeds, of_values, 0.0])
  return mean - 2 * error, mean + 2 * error


def verdict(surely: object, maybe: object) -> bool | None:
  """Returns whether a claim holds; None if it may hold, but not surely."""
  return True if surely else None if maybe else False


def any_reaches(
  level: float, of_means: Iterable[tuple[float, float]]
) -> bool | None:
  """Tells whether any mean, given by its `bounds`, reaches a level.

  None if its errors decide.
  """
  of_means = list(of_means)
  return verdict(*(any(ends[i] >= level for ends in of_means) for i in (0, 1)))


def seeds_unlike(first: runs.Rows, second: runs.Rows) -> set[int]:
  """Returns the seeds in which K differs between two selections of a layer."""
  ranks = (
    {(row["seed"], row["value"]) for row in rows.where("rank").known()}
    for rows in (first, second)
  )
  return {seed for seed, _ in set.symmetric_difference(*ranks)}


def left_by_k(unlike):
  """Returns the least that another K may leave of a mean over seeds.

  Args:
    unlike: the share of the seeds in which K differs; a number or an array.
  """
  return 1 / (1 + unlike * (1 / _LEFT_BY_K - 1))


def too_little_memory(fitted: float, chance: float) -> str:
  """Says that a network has fitted too few permuted labels, if so."""
  if not fitted - chance < _MEMORIZED * (1 - chance):
    return ""
  return (
    f"permuted accuracy ends at {fitted:.3f}, and chance is {chance:.3f}: there"
    " is too little memory to look for"
  )


def unmemorized(rows: runs.Rows) -> str:
  """Says that permuted labels are hardly fitted at the last epoch, if so."""
  scores = rows.at("last").where("accuracy", subset="permuted")
  fitted, _ = scores.mean(rows.seeds)
  chance = rows.blind_accuracy().values()  # Old runs have none.
  return too_little_memory(fitted, max(chance)) if chance else ""


def all_hold(*verdicts: bool | None) -> bool | None:
  """Returns whether claims hold together; one that fails decides."""
  unknown = None in verdicts and False not in verdicts
  return None if unknown else all(verdicts)


def grouped(rows: Iterable[runs.Row], *columns: str) -> dict[tuple, runs.Rows]:
  """Groups rows by the values of several columns, in the order of the rows."""
  groups: dict[tuple, runs.Rows] = {}
  for row in rows:
    place = tuple(row.get(column) for column in columns)
    groups.setdefault(place, runs.Rows()).append(row)
  return groups


def last_measured(rows: runs.Rows) -> str:
  """Names the deepest hidden layer measured, as it may not be the last."""
  (layer,) = rows.last_hidden().layers.values()
  if layer in ("input", "logits"):  # No hidden layer was measured.
    return f"the {layer}"
  return f"the last hidden layer measured ({layer})"


def too_narrow(rows: runs.Rows, *layers: int) -> str:
  """Names those of some layers where chance is above 2/M, if any.

  They have fewer than 2M features.
  """
  narrow = rows.narrow()
  names = ", ".join(narrow[i] for i in layers if i in narrow)
  return names and (
    f"chance is higher than {rows.chance_capacity():.3f} in {names}, of fewer"
    " than 2M features"
  )


def places(rows: Iterable[runs.Row], *columns: str) -> set[tuple]:
  """Returns the values of several columns that occur together."""
  return set(grouped(rows, *columns))


def _unsolved(rows: runs.Rows, metrics: Iterable[str]) -> list[runs.Row]:
  return [
    row
    for row in rows.where(metrics)
    if not (runs.has_value(row) and row["value"] >= 1)
  ]


def unbelievable(rows: runs.Rows, **columns: Any) -> str:
  """Names the layers where mean-field theory did not converge, if any."""
  unsolved = _unsolved(rows.where(**columns), ["converged"])
  names = ", ".join(dict.fromkeys(row["layer"] for row in unsolved))
  return names and (
    f"not to be believed (converged below 1) are numbers of {names}"
  )


def believable(rows: runs.Rows) -> runs.Rows:
  """Returns the rows, with NaN for numbers that did not converge."""
  numbers = ("metric", "value", "stderr")

  def place(row: runs.Row) -> tuple:
    return tuple((k, v) for k, v in sorted(row.items()) if k not in numbers)

  unsolved = set(map(place, _unsolved(rows, ["converged"])))
  if not unsolved:
    return rows
  return runs.Rows(
    row | {"value": math.nan}
    if row["metric"] in _OF_MEAN_FIELD and place(row) in unsolved
    else row
    for row in rows
  )


def doubts(rows: runs.Rows) -> list[str]:
  """Names the layers, subsets and epochs whose geometry is in doubt.

  It is in doubt if manifolds are lost in rounding, as in dead layers, or if
  their problems were not solved: `converged` or `glue_converged` of the rows is
  less than 1, or a capacity is missing.
  """
  of_layers = runs.Rows(row for row in rows if row["layer"] is not None)
  capacities = of_layers.where(_CAPACITIES)
  bad = _unsolved(of_layers, _CONVERGED)
  bad += [row for row in capacities if not runs.has_value(row)]
  if not bad:
    return []
  columns = ("layer_index", "layer", "subset", "epoch")
  measured, bad = (places(r, *columns) for r in (capacities, bad))
  named = [
    f"{layer} of {subset} examples at epoch {epoch}"
    for _, layer, subset, epoch in sorted(bad)[:_MOST_NAMED]
  ]
  rest = len(bad) - len(named)
  ending = f" and {rest} more" if rest else ""
  return [
    f"Not to be believed: {len(bad)} of {len(measured)} layers, subsets and"
    " epochs measured, where points or centres of manifolds are lost in"
    " rounding, or problems were not solved (converged below 1):"
    f" {', '.join(named)}{ending}."
  ]


def doubts_by_width(rows: runs.Rows) -> list[str]:
  """Names the doubts of a sweep over widths by width, those of a run as are."""
  by_width = rows.split("width")
  if not by_width:
    return doubts(rows)
  return [
    f"width {width}: {doubt}"
    for width, of_width in by_width.items()
    for doubt in doubts(of_width)
  ]
