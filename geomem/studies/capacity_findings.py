"""The agreement of simulated with mean-field capacity, on the rows of a run."""

from typing import NamedTuple

import numpy as np

from geomem import plots, runs

_REMOVED = {"none": "centres as they are", "low_rank": "directions removed"}


class Agreement(NamedTuple):
  """The agreement of theory and simulation.

  Attributes:
    centers: the directions removed: `none` or `low_rank`.
    count: number of sets with both capacities.
    unknown: number of sets that are not separable even in all features.
    doubted: number of sets whose theoretical capacity is not to be believed.
    correlation: of the log capacities; None for fewer than three sets, or if
      either capacity is constant.
    ratios: 0, 5, 50, 95 and 100% quantiles of simulated over theoretical
      capacity.
    farthest: name of the set whose ratio is farthest from one.
  """

  centers: str
  count: int
  unknown: int
  doubted: int
  correlation: float | None
  ratios: tuple[float, ...]
  farthest: str

  def __str__(self) -> str:
    low, likely_low, middle, likely_high, high = self.ratios
    said = [
      f"{_REMOVED[self.centers]}: simulated over theory has median"
      f" {middle:.3f}, {likely_low:.3f} to {likely_high:.3f} in 90% of"
      f" {self.count} sets, {low:.3f} to {high:.3f} in all (the farthest:"
      f" {self.farthest})"
    ]
    if self.correlation is not None:
      said.append(f"correlation {self.correlation:.3f}")
    if self.unknown:
      said.append(f"not separable even in all features: {self.unknown} more")
    if self.doubted:
      said.append(
        "left out, as not to be believed (converged below 1):"
        f" {self.doubted} more"
      )
    return "; ".join(said) + "."


def agreements(rows: runs.Rows) -> list[Agreement]:
  """Compares theory and simulation for each treatment of the centres."""
  result = []
  for centers in rows.distinct("centers"):
    treated = rows.where(centers=centers)
    sets = len(treated.where("capacity"))
    believed = len(plots.believed_capacities(treated))
    pairs = plots.pair_capacities(treated)
    if not pairs:
      continue
    logs = np.log([[a["value"], b["value"]] for a, b in pairs])
    ratios = logs[:, 1] - logs[:, 0]
    enough = len(pairs) > 2 and (logs.std(axis=0) > 0).all()
    result.append(
      Agreement(
        centers,
        len(pairs),
        believed - len(pairs),
        sets - believed,
        float(np.corrcoef(logs.T)[0, 1]) if enough else None,
        tuple(np.exp(np.quantile(ratios, (0, 0.05, 0.5, 0.95, 1))).tolist()),
        plots.name_of_set(pairs[np.abs(ratios).argmax()][0]),
      )
    )
  return result


def find_agreements(rows: runs.Rows) -> list[Agreement | str]:
  """Returns the agreement for each treatment, or that there is none."""
  found = agreements(rows)
  missing = [
    f"{_REMOVED[centers]}: no set has both a theoretical and a simulated"
    " capacity to compare."
    for centers in rows.distinct("centers")
    if centers not in {each.centers for each in found}
  ]
  return [*found, *missing]
