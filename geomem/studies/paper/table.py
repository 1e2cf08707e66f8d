"""The paper's claims and numbers, each with its source, and their table.

Numbers of figures 3 and 4C-E were measured on the published figures: capacity
to .001, radius to .007, dimension to .25, accuracy to .15 %. No numbers are
known for figures 2 and 4A-B, nor for the consequences of equation 25.
"""

import math
import types
from typing import Any, NamedTuple

from geomem import runs
from geomem.studies.finding import with_error

# The last of 20 layers in figure 3, at the best (A) and the last epoch (B).
LAST_HIDDEN = {
  ("unpermuted", "capacity"): (0.095, 0.128),
  ("permuted", "capacity"): (0.0378, 0.100),
  ("restored", "capacity"): (0.0592, 0.0403),
  ("test", "capacity"): (0.0642, 0.0473),
  ("unpermuted", "radius"): (1.012, 0.899),
  ("permuted", "radius"): (1.581, 0.988),
  ("restored", "radius"): (1.208, 1.559),
  ("test", "radius"): (1.163, 1.350),
  ("unpermuted", "dimension"): (15.0, 15.2),
  ("permuted", "dimension"): (34.6, 18.8),
  ("restored", "dimension"): (22.6, 32.8),
  ("test", "dimension"): (20.9, 28.2),
}
# Tolerances on these numbers: relative, and absolute.
CLOSE = {"capacity": (0.2, 0.0), "radius": (0.0, 0.1), "dimension": (0.0, 4.0)}
CHANCE = 2 / 50  # For 50 points per class.


class Claim(NamedTuple):
  """A number that bears on a claim.

  Attributes:
    figure: figure of the paper.
    quantity: description of the number.
    paper: the paper's number, or its words in place of one.
    source: source of the paper's number.
  """

  figure: str
  quantity: str
  paper: str
  source: str


def _of(subset: str, metric: str, of: float | None = None) -> str:
  """Formats the last value over the best one, or over `of` if given."""
  best, last = LAST_HIDDEN[subset, metric]
  return f"{last / (of or best):.2f}"


_FIG3 = "figure 3, the last of 20 layers"
_FIG4 = "figure 4C-E: peak at 10^5.2, dip at 10^5.7 parameters"
_LAW = "equation 25"
_TEXT = "the text of figure A.1"
_ABSTRACT = "abstract: to put back the final layers restores generalization"
_GOAL = "a goal of this project"
_LABEL = "permuted / unpermuted label gradient"

# Keyed by claim, and a word if several numbers bear on the claim.
CLAIMS = {
  "T2 ratio": Claim("1B", "simulated / mean-field capacity", "1", "figure 1B"),
  "T2 correlation": Claim(
    "1B", "their correlation over layers", "high", "figure 1B"
  ),
  "F3.1": Claim(
    "3A",
    "permuted capacity / chance, best epoch",
    f"{LAST_HIDDEN['permuted', 'capacity'][0] / CHANCE:.2f}",
    _FIG3,
  ),
  "F3.2": Claim(
    "3B",
    "permuted capacity, last / best epoch",
    _of("permuted", "capacity"),
    _FIG3,
  ),
  "F3.3": Claim(
    "3B",
    "restored capacity / chance, last epoch",
    _of("restored", "capacity", CHANCE),
    _FIG3,
  ),
  "F3.4 radius": Claim(
    "3B", "permuted radius, last / best epoch", _of("permuted", "radius"), _FIG3
  ),
  "F3.4 dimension": Claim(
    "3B",
    "permuted dimension, last / best epoch",
    _of("permuted", "dimension"),
    _FIG3,
  ),
  "F3.5": Claim(
    "3B",
    "largest change of capacity in early layers",
    "0.015",
    "figure 3, layers 0 to 9",
  ),
  "T3": Claim("3", "numbers of 24 that are close", "24", _FIG3),
  "F4.1": Claim(
    "4A-B", "recovered by the last half of layers", "most", _ABSTRACT
  ),
  "F4.2": Claim("4A-B", "recovered by the first half", "not given", _ABSTRACT),
  "F4.3": Claim(
    "4A-B", "memory is not in the last", "disputed", "Maini et al., 2023"
  ),
  "T4": Claim("4A-B", "recovered by some last layers", "0.80 or more", _GOAL),
  "T5 accuracy": Claim("4C", "fall of test accuracy", "0.032", _FIG4),
  "T5 radius": Claim("4D", "growth of radius in the dip", "0.031", _FIG4),
  "T5 dimension": Claim("4E", "growth of dimension in the dip", "0.097", _FIG4),
  "G1": Claim("A.1", "power of n, permuted labels", "-0.50", _LAW),
  "G2": Claim("A.1", "power of n, true labels", "0.00", _LAW),
  "G3": Claim("A.1", "error of the closed form", "0.00", _LAW),
  "G4 first": Claim("A.1", f"{_LABEL}, epoch 0", "about 0", _TEXT),
  "G4 last": Claim("A.1", f"{_LABEL}, last epoch", "below 1", _TEXT),
  "G5": Claim("A.1", "cancellation, permuted, last epoch", "cancel", _TEXT),
  "T6": Claim("A.1", "G1 and G4 together", "both hold", _GOAL),
}

_WORDS = {True: "holds", False: "does not hold", None: "undecided"}
_HEADS = ("figure", "claim", "number", "paper", "ours", "verdict")
_CAPTION = """\
Ours is the mean over seeds ± their standard deviation. Verdicts follow rules
that were fixed in advance; see docs/reproduction.md."""
_OTHER = """
The data are not the paper's: its numbers are listed for reference, not as
targets, and T3, which compares them, is left out."""


def _cells(row: runs.Row) -> tuple[str, ...]:
  claim, ours = CLAIMS[row["metric"]], ""
  if runs.has_value(row):
    spread = math.nan if row["spread"] is None else row["spread"]
    small = 0 < abs(row["value"]) < 0.01
    ours = with_error(row["value"], spread, ".1e" if small else ".3f")
  name, verdict = row["metric"].split()[0], _WORDS[row["holds"]]
  return claim.figure, name, claim.quantity, claim.paper, ours, verdict


class Paper:
  """The joint result of the stages: a run directory whose rows are claims."""

  name = "paper"
  figures = types.MappingProxyType({})  # Each stage keeps its own.

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[str]:
    """Returns how many of the judged numbers hold, and the doubts."""
    judged = [row["holds"] for row in rows if row.get("holds") is not None]
    doubts = [row["text"] for row in rows.where("doubt")]
    return [f"{sum(judged)} of {len(judged)} numbers judged hold.", *doubts]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns a Markdown table that is also readable as plain text."""
    claims = [row for row in rows if row["metric"] in CLAIMS]
    lines = [_HEADS, *map(_cells, claims)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    text = [
      f"| {' | '.join(map(str.ljust, cells, widths))} |" for cells in lines
    ]
    caption = _CAPTION
    if not all(row["is_the_papers"] for row in claims):
      caption += _OTHER
    sources = {}
    for row in claims:
      sources.setdefault(CLAIMS[row["metric"]].source, []).append(row["metric"])
    listed = [f"- {', '.join(of)}: {source}" for source, of in sources.items()]
    doubts = [f"- {row['text']}" for row in rows.where("doubt")]
    notes = ["The paper's numbers are from:", "", *listed] if listed else []
    if doubts:
      notes += ["", "Doubts:", "", *doubts]
    return "\n".join([caption, "", *text, "", *notes])
