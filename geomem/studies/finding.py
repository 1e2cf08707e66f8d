"""Findings in sentences: verdicts, numbers, and doubts about measurements."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from geomem import runs

_MOST_NAMED = 3
# The metrics of mean-field theory and of GLUE.
_CONVERGED = ("converged", "glue_converged")
_CAPACITIES = ("capacity", "glue_capacity")


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
    verdict = {True: "holds", False: "does not hold", None: "cannot be told"}
    claim = f" ({self.claim})" if self.claim else ""
    return f"{self.name}{claim} {verdict[self.holds]}: {self.sentence}."


def name_seeds(seeds: Iterable[int]) -> str:
  """Formats `seed 0`, or `seeds 0, 1`."""
  numbers = [str(seed) for seed in seeds]
  return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def with_error(value: float, error: float, spec: str = ".3f") -> str:
  """Formats `0.123 ± 0.004`, or the value alone without an error.

  A single seed or draw has no error.
  """
  text = format(value, spec)
  if not math.isfinite(error):
    return text
  return f"{text} ± {error:{spec.removeprefix('+')}}"


def doubts(rows: runs.Rows) -> list[str]:
  """Names the layers, subsets and epochs whose geometry is in doubt.

  It is in doubt if manifolds are lost in rounding, as in dead layers, or if
  their problems were not solved: `converged` or `glue_converged` of the rows is
  less than 1, or a capacity is missing.
  """

  def places(selected) -> set[tuple]:
    names = ("layer_index", "layer", "subset", "epoch")
    return {
      tuple(row[name] for name in names)
      for row in selected
      if row["layer"] is not None
    }

  capacities = rows.where(_CAPACITIES)
  solved = rows.where(_CONVERGED)
  bad = places(r for r in solved if not (runs.has_value(r) and r["value"] >= 1))
  bad |= places(row for row in capacities if not runs.has_value(row))
  if not bad:
    return []
  named = [
    f"{layer} of {subset} examples at epoch {epoch}"
    for _, layer, subset, epoch in sorted(bad)[:_MOST_NAMED]
  ]
  rest = len(bad) - len(named)
  ending = f" and {rest} more" if rest else ""
  return [
    f"Not to be believed: {len(bad)} of {len(places(capacities))} layers"
    " measured hold manifolds whose points or centres are lost in rounding, or"
    f" whose problems were not solved (converged below 1): {', '.join(named)}"
    f"{ending}."
  ]
