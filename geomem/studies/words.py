"""Findings, and the format of numbers in sentences."""

import math
from typing import NamedTuple


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


def with_error(value: float, error: float, spec: str = ".3f") -> str:
  """Formats `0.123 ± 0.004`, or the value alone without an error.

  A single seed or draw has no error.
  """
  text = format(value, spec)
  if not math.isfinite(error):
    return text
  return f"{text} ± {error:{spec.removeprefix('+')}}"
