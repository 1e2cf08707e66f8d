"""Doubts about measured geometry."""

from geomem import runs

_MOST_NAMED = 3
# The metrics of mean-field theory and of GLUE.
_CONVERGED = ("converged", "glue_converged")
_CAPACITIES = ("capacity", "glue_capacity")


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
  bad = places(row for row in rows.where(_CONVERGED) if row["value"] < 1)
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
