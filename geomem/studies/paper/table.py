"""The table of the paper's claims, with our numbers and verdicts."""

import math
import types
from typing import Any

from geomem import runs
from geomem.studies.finding import with_error
from geomem.studies.paper.numbers import CLAIMS

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
    sources = {CLAIMS[row["metric"]].source: [] for row in claims}
    for row in claims:
      sources[CLAIMS[row["metric"]].source].append(row["metric"])
    listed = [f"- {', '.join(of)}: {source}" for source, of in sources.items()]
    doubts = [f"- {row['text']}" for row in rows.where("doubt")]
    notes = ["The paper's numbers are from:", "", *listed] if listed else []
    if doubts:
      notes += ["", "Doubts:", "", *doubts]
    return "\n".join([caption, "", *text, "", *notes])
