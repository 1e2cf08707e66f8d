"""The paper's findings F3.1 to F3.5, tested on the rows of a run.

Source: Stephenson et al., ICLR 2021, figure 3 and its text.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from geomem import runs
from geomem.studies.words import Finding

TOLERANCE = 0.25  # Relative, for values that are equal in the paper.
_EPOCHS = ("best", "last")
_CLAIMS = {
  "F3.1": "generalization comes first",
  "F3.2": "the last layers memorize",
  "F3.3": "the true labels of permuted examples are lost",
  "F3.4": "memorized manifolds shrink",
  "F3.5": "early layers stay general",
}
# Whether a claim holds, and a sentence with its numbers.
_Judged = tuple[bool, str]


class _Layers(NamedTuple):
  """Capacities of the hidden layers by subset, at the best and last epoch."""

  best: dict[str, np.ndarray]
  last: dict[str, np.ndarray]
  chance: float

  @property
  def early(self) -> int:
    """The number of layers in the first half."""
    return max(1, len(self.best["permuted"]) // 2)


def find(rows: runs.Rows) -> list[Finding]:
  """Tests the five findings; each sentence contains its numbers.

  Values that are equal in the paper, such as a capacity and that of chance,
  must agree within `TOLERANCE`; the paper's own agree within 10 %. It has 50
  points of each of 100 classes: if manifolds have more points than there are
  classes, permuted and restored points fall together once memorized, and lie
  above chance. A finding is undecided if an epoch it needs was not measured.
  """
  best, last = (by_layer(rows, "capacity", which) for which in _EPOCHS)
  layers = _Layers(best, last, rows.chance_capacity())
  no_best, no_last = (not_measured(rows, which) for which in _EPOCHS)
  undecided = no_best or no_last
  if not undecided and rows.epochs("best") == rows.epochs("last"):
    # The finding would compare numbers with themselves.
    undecided = "the best epoch of every seed is its last; train longer"
  sizes = [
    [by_layer(rows, metric, which) for which in _EPOCHS]
    for metric in ("radius", "dimension")
  ]
  return [
    _judge("F3.1", no_best, _permuted_at_chance, layers),
    _judge("F3.2", undecided, _permuted_rises_late, layers),
    _judge("F3.3", undecided, _restored_falls, layers),
    _judge("F3.4", undecided, _permuted_shrinks, *sizes),
    _judge("F3.5", undecided, _early_layers_stay, layers),
  ]


def not_measured(rows: runs.Rows, which: str) -> str:
  """Names the seeds whose best or last epoch was not measured, if any."""
  measured = rows.at(which).where("capacity").seeds
  missing = [str(seed) for seed in rows.seeds if seed not in measured]
  if not missing:
    return ""
  seeds = f"seed{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
  return f"the {which} epoch of {seeds} was not measured"


def _judge(name: str, nothing: str, test: Callable, *of: Any) -> Finding:
  """Tests a claim, unless `nothing` says why it is undecided."""
  holds, sentence = (None, nothing) if nothing else test(*of)
  return Finding(name, holds, sentence, _CLAIMS[name])


def by_layer(rows: runs.Rows, metric: str, which: str) -> dict:
  """Averages a metric over seeds: `[hidden layers]` by subset.

  The input, which does not change, and the logits, the output, are left out.
  """
  at_epoch = rows.at(which).where(metric)
  return {
    subset: at_epoch.where(subset=subset).series("layer_index").mean[1:-1]
    for subset in at_epoch.subsets
  }


def _farthest(values: np.ndarray, expected: np.ndarray | float) -> float:
  return float(np.abs(values / expected - 1).max())


def _permuted_at_chance(layers: _Layers) -> _Judged:
  best = layers.best
  spread = _farthest(best["permuted"], layers.chance)
  apart = _farthest(best["restored"], best["test"])
  return (
    max(spread, apart) < TOLERANCE,
    f"best epoch: permuted capacity is within {spread:.0%} of chance"
    f" ({layers.chance:.3f}) in every hidden layer, restored within"
    f" {apart:.0%} of test",
  )


def _permuted_rises_late(layers: _Layers) -> _Judged:
  rise = layers.last["permuted"] / layers.best["permuted"]
  early = rise[: layers.early].max()
  return (
    bool(rise[-1] > 1.5 and early < 1 + TOLERANCE),
    f"last epoch: permuted capacity rises to {rise[-1]:.2f} times its best-"
    f"epoch value in the last hidden layer, at most {early:.2f} times in the"
    f" first {layers.early}",
  )


def _restored_falls(layers: _Layers) -> _Judged:
  before, after = (at["restored"][-1] for at in (layers.best, layers.last))
  apart = after / layers.chance - 1
  return (
    bool(after < before and abs(apart) < TOLERANCE),
    f"last epoch: restored capacity of the last hidden layer goes from"
    f" {before:.3f} to {after:.3f}, {apart:+.0%} from chance, test from"
    f" {layers.best['test'][-1]:.3f} to {layers.last['test'][-1]:.3f}",
  )


def _permuted_shrinks(radii, dimensions) -> _Judged:
  radius = [at["permuted"][-1] for at in radii]
  dimension = [at["permuted"][-1] for at in dimensions]
  return (
    bool(radius[1] < radius[0] and dimension[1] < dimension[0]),
    f"permuted radius and dimension of the last hidden layer go from"
    f" {radius[0]:.2f} and {dimension[0]:.1f} to {radius[1]:.2f} and"
    f" {dimension[1]:.1f}",
  )


def _early_layers_stay(layers: _Layers) -> _Judged:
  count = layers.early
  change = max(
    _farthest(layers.last[subset][:count], layers.best[subset][:count])
    for subset in layers.best
  )
  return (
    change < TOLERANCE,
    f"the first {count} hidden layers change by at most {change:.0%} in"
    " capacity between best and last epoch, over all subsets",
  )
