"""Numbers that are not to be believed, named."""

from geomem import runs

_MOST_NAMED = 3


def doubts(rows) -> list[str]:
  """Says of which layers, subsets and epochs the geometry is in doubt.

  It is where manifolds are lost in rounding, as in layers without activity, or
  where their problems were not solved: `converged` of the rows is less than 1,
  or a value is missing.
  """
  bad = {
    (row["layer_index"], row["layer"], row["subset"], row["epoch"])
    for row in rows
    if row["layer"] is not None
    and (
      (row["metric"] == "converged" and row["value"] < 1)
      or (row["metric"] == "capacity" and not runs.has_value(row))
    )
  }
  if not bad:
    return []
  total = len(
    {
      (row["layer"], row["subset"], row["epoch"])
      for row in rows
      if row["metric"] == "capacity" and row["layer"] is not None
    }
  )
  named = [
    f"{layer} of {subset} examples at epoch {epoch}"
    for _, layer, subset, epoch in sorted(bad)[:_MOST_NAMED]
  ]
  rest = len(bad) - len(named)
  more = f" and {rest} more" if rest else ""
  return [
    f"Not to be believed: {len(bad)} of {total} layers measured hold manifolds"
    " whose points or centres are lost in rounding, or whose problems were not"
    f" solved (converged below 1): {', '.join(named)}{more}."
  ]
