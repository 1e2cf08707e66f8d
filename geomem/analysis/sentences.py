"""What the rows of a run directory say, in sentences."""

from typing import Any

from geomem import runs
from geomem.analysis.capacity import agreements
from geomem.analysis.doubts import doubts
from geomem.analysis.findings import find
from geomem.analysis.gradient_findings import find_gradients
from geomem.analysis.model_size import summarize_sizes
from geomem.analysis.noise import summarize_noise
from geomem.analysis.rewind_findings import best_rewinds, find_rewinds


def sentences_of(config: dict[str, Any], rows: list[dict]) -> list[str]:
  """What a complete run directory of any experiment found.

  Args:
    config: the directory's config.
    rows: its rows.
  """
  say = _BY_KIND.get(config.get("experiment", "memorization"))
  return [str(found) for found in say(config, rows)] if say else []


def _memorization(config, rows):
  measured = {row["subset"] for row in rows if row["metric"] == "capacity"}
  if config.get("layers") or not {"permuted", "restored", "test"} <= measured:
    return doubts(rows)
  missing = any(
    row["metric"] in ("capacity", "radius", "dimension")
    and not runs.has_value(row)
    for row in rows
  )
  if missing:
    return [*doubts(rows), "The findings are not judged: numbers are missing."]
  return [*doubts(rows), *find(rows)]


def _of_cells(config, rows) -> list[dict]:
  """The rows of a sweep's trainings, without what follows from them."""
  return [
    row
    for row in rows
    if row["seed"] is not None
    and all(row.get(axis) is not None for axis in config["axes"])
  ]


_BY_KIND = {
  "capacity": lambda config, rows: agreements(rows),
  "gradients": lambda config, rows: find_gradients(rows),
  "memorization": _memorization,
  "memorization_sweep": lambda config, rows: summarize_noise(
    _of_cells(config, rows)
  )[1],
  "model_size": lambda config, rows: summarize_sizes(_of_cells(config, rows))[
    1
  ],
  "rewind": lambda config, rows: best_rewinds(rows) + find_rewinds(rows),
  "rewind_geometry": lambda config, rows: (
    doubts(rows) + best_rewinds(rows) + find_rewinds(rows)
  ),
}
