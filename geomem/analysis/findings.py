"""The paper's findings F3.1 to F3.5, tested on the rows of a run.

Source: Stephenson et al., ICLR 2021, figure 3 and its text.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np


class Finding(NamedTuple):
  """One finding.

  Attributes:
    name: F3.1 to F3.5.
    holds: whether it holds.
    sentence: what was found, with figures.
  """

  name: str
  holds: bool
  sentence: str

  def __str__(self) -> str:
    verdict = "holds" if self.holds else "does not hold"
    return f"{self.name} {verdict}: {self.sentence}."


def epoch_of(rows, which: str, seed: int) -> int:
  """The `best` or the `last` epoch of a seed."""
  for row in rows:
    if row["seed"] == seed and row["metric"] == f"{which}_epoch":
      return row["value"]
  raise ValueError(
    f"The rows do not say which epoch of seed {seed} is {which}."
  )


def layer_means(rows, metric: str, which: str) -> dict[str, np.ndarray]:
  """Mean over seeds of a metric by layer, at the best or last epoch.

  Returns:
    An array over the layers, in the network's order, for each subset.
  """
  seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
  epochs = {seed: epoch_of(rows, which, seed) for seed in seeds}
  values = defaultdict(lambda: defaultdict(list))
  for row in rows:
    if row["metric"] != metric or row["layer"] is None:
      continue
    if row["epoch"] == epochs[row["seed"]]:
      values[row["subset"]][row["layer_index"]].append(row["value"])
  return {
    subset: np.array([np.mean(by[i]) for i in sorted(by)])
    for subset, by in values.items()
  }


def find(rows) -> list[Finding]:
  """Tests the five findings; each sentence carries its figures."""
  best = layer_means(rows, "capacity", "best")
  last = layer_means(rows, "capacity", "last")
  points = next(r["value"] for r in rows if r["metric"] == "manifold_points")
  # The input does not change, and the logits are the output.
  hidden = slice(1, -1)
  chance = 2 / points
  perm_best, perm_last = best["permuted"][hidden], last["permuted"][hidden]
  rest_best, rest_last = best["restored"][hidden], last["restored"][hidden]
  half = max(1, len(perm_best) // 2)
  spread = np.abs(perm_best / chance - 1).max()
  change = np.abs(
    np.concatenate(
      [last[s][1 : 1 + half] / best[s][1 : 1 + half] - 1 for s in best]
    )
  ).max()
  rise = perm_last / perm_best
  radius = [
    layer_means(rows, "radius", w)["permuted"][-2] for w in ("best", "last")
  ]
  dimension = [
    layer_means(rows, "dimension", w)["permuted"][-2] for w in ("best", "last")
  ]
  return [
    Finding(
      "F3.1",
      bool(spread < 0.5 and rest_best[-1] > 2 * perm_best[-1]),
      f"best epoch: permuted capacity is within {spread:.0%} of chance"
      f" ({chance:.3f}) in every hidden layer; restored reaches"
      f" {rest_best[-1]:.3f}",
    ),
    Finding(
      "F3.2",
      bool(rise[-1] > 1.5 and rise[:half].max() < 1.25),
      f"last epoch: permuted capacity rises to {rise[-1]:.2f} times its best-"
      f"epoch value in the last hidden layer, at most {rise[:half].max():.2f}"
      f" times in the first {half}",
    ),
    Finding(
      "F3.3",
      bool(rest_last[-1] < 0.67 * rest_best[-1]),
      f"last epoch: restored capacity of the last hidden layer falls from"
      f" {rest_best[-1]:.3f} to {rest_last[-1]:.3f}, test from"
      f" {best['test'][-2]:.3f} to {last['test'][-2]:.3f}",
    ),
    Finding(
      "F3.4",
      bool(radius[1] < radius[0] and dimension[1] < dimension[0]),
      f"permuted radius and dimension of the last hidden layer go from"
      f" {radius[0]:.2f} and {dimension[0]:.1f} to {radius[1]:.2f} and"
      f" {dimension[1]:.1f}",
    ),
    Finding(
      "F3.5",
      bool(change < 0.25),
      f"the first {half} hidden layers change by at most {change:.0%} in"
      " capacity between best and last epoch, over all subsets",
    ),
  ]
