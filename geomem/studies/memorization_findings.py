"""The findings F3.1 to F3.5 of the paper, tested on the rows of a run.

Source: Stephenson et al., ICLR 2021, figure 3 and its text.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from geomem import runs
from geomem.studies.finding import (
  BY_K,
  Finding,
  all_hold,
  left_by_k,
  name_seeds,
  places,
  seeds_unlike,
  too_narrow,
  unbelievable,
  unmemorized,
  verdict,
)

TOLERANCE = 0.25  # Relative, for values that are equal in the paper.
# Bounds of ratios of values that are equal, and of those that fall.
_EQUAL, _FALLS = (1 - TOLERANCE, 1 + TOLERANCE), (-np.inf, 1.0)
EPOCHS = ("best", "last")
METRICS = ("capacity", "radius", "dimension")
_CLAIMS = {
  "F3.1": "generalization comes first",
  "F3.2": "the last layers memorize",
  "F3.3": "the true labels of permuted examples are lost",
  "F3.4": "memorized manifolds shrink",
  "F3.5": "early layers stay general",
}
# If less of a centre is left without its shared directions, its manifold's
# capacity hangs on which of several directions went.
_LITTLE_LEFT = 0.05
_VAGUE = "a fall within two errors cannot be known"
_UNSURE = f"two standard errors, or {BY_K}"
_UNSURE_OF_BEST = _UNSURE.replace("may", "or little of a centre left may")
# Whether a claim holds, why not if it is undecided, and its numbers.
_Judged = tuple[bool | None, str, str]


class _Doubt(NamedTuple):
  """What may alone move ratios, by hidden layer.

  Attributes:
    unlike: the share of the seeds in which K differs between both values.
    error: relative standard error: over seeds or, of a single seed, its own.
  """

  unlike: np.ndarray
  error: np.ndarray

  def of(self, layers) -> "_Doubt":
    """Selects layers."""
    return _Doubt(self.unlike[layers], self.error[layers])


def find(rows: runs.Rows) -> list[Finding]:
  """Tests the five findings; each sentence contains its numbers.

  Values that are equal in the paper, such as a capacity and that of chance,
  must agree within `TOLERANCE`; the paper's own agree within 10 %. It has 50
  points of each of 100 classes: if manifolds have more points than there are
  classes, permuted and restored points fall together once memorized, and lie
  above chance. Seeds whose best epoch is their last are left out of all
  findings but F3.1, as they would be compared with themselves.

  A finding is undecided if a number it needs is missing or did not converge, if
  nothing was learnt (F3.1) or memorized, if two standard errors decide, or if
  it may hang on the number K of shared directions removed alone, where K
  differs between the two values of a ratio. F3.1 and F3.3 are, too, if a layer
  that they compare with chance is known to have fewer than 2M features: its
  chance is higher.
  """
  changed, left_out = changed_seeds(rows)
  no_best = _lacks(rows, "best")
  undecided = "the best epoch of every seed is its last; train longer"
  if changed:
    undecided = _lacks(changed, "best") or _lacks(changed, "last")
  at_best, chance = by_layer(rows, "capacity", "best"), rows.chance_capacity()
  capacity, *sizes = (
    [by_layer(changed, metric, which) for which in EPOCHS] for metric in METRICS
  )
  undecided = undecided or unmemorized(changed)
  hidden = list(rows.where("capacity").layers)[1:-1]
  early = 0 if undecided else len(capacity[0]["permuted"]) // 2
  no_half = "" if early else "of one hidden layer there is no first half"
  no_half = undecided or no_half
  best, last = (changed.at(which) for which in EPOCHS)
  doubt = {
    subset: _doubt(best.where(subset=subset), last.where(subset=subset))
    for subset in capacity[0]
  }
  permuted, *others = (
    rows.at("best").where(subset=s) for s in ("permuted", "restored", "test")
  )
  unconverged = _unconverged(rows, changed, hidden, early)

  def judge(name, nothing, test: Callable, *of) -> Finding:
    holds, sentence = None, nothing or unconverged[name]
    if not sentence:
      holds, reason, sentence = test(*of)
      if holds is None:
        sentence += f"; {reason}"
    if left_out and name != "F3.1":
      sentence += f" (left out, as the best epoch is the last: {left_out})"
    return Finding(name, holds, sentence, _CLAIMS[name])

  # What is 0 has no ratio.
  with np.errstate(divide="ignore", invalid="ignore"):
    return [
      judge(
        "F3.1",
        no_best or _unlearnt(rows) or too_narrow(rows, *hidden),
        _permuted_at_chance,
        at_best,
        chance,
        _doubt(permuted),
        _doubt(*others, least_left=_LITTLE_LEFT),
      ),
      judge("F3.2", no_half, _permuted_rises_late, *capacity, early, doubt),
      judge(
        "F3.3",
        undecided or too_narrow(rows, *hidden[-1:]),
        _restored_falls,
        *capacity,
        chance,
        doubt,
        changed,
      ),
      judge("F3.4", undecided, _permuted_shrinks, *sizes, doubt, changed),
      judge("F3.5", no_half, _early_layers_stay, *capacity, early, doubt),
    ]


def _unconverged(
  rows, changed, hidden: list[int], early: int
) -> dict[str, str]:
  """Names the layers that each finding needs and that did not converge."""
  ends = runs.Rows(row for which in EPOCHS for row in changed.at(which))
  first, deepest = hidden[:early], hidden[-1:]
  needed = {
    "F3.1": (rows.at("best"), hidden, ("permuted", "restored", "test")),
    "F3.2": (ends, [*first, *deepest], "permuted"),
    "F3.3": (ends, deepest, "restored"),
    "F3.4": (ends, deepest, "permuted"),
    "F3.5": (ends, first, runs.SUBSETS),
  }
  return {
    name: unbelievable(of, layer_index=layers, subset=subsets)
    for name, (of, layers, subsets) in needed.items()
  }


def changed_seeds(rows: runs.Rows) -> tuple[runs.Rows, str]:
  """Selects the seeds whose last epoch is not their best; names the others.

  The name is empty where there are no others, or only others.
  """
  best, last = (rows.epochs(which) for which in EPOCHS)
  same = [seed for seed in rows.seeds if best[seed] == last[seed]]
  changed = runs.Rows(row for row in rows if row["seed"] not in same)
  return changed, name_seeds(same) if same and changed else ""


def incomplete(rows: runs.Rows, which: str) -> dict[int, str]:
  """Says what the best or last epoch of each seed lacks, for those that lack.

  Needed are all metrics of the hidden layers and subsets that any epoch has.
  """
  hidden = tuple(rows.where(METRICS).layers)[1:-1]
  numbers, at_epoch = (
    selected.where(METRICS, layer_index=hidden)
    for selected in (rows, rows.at(which))
  )
  columns, lacking = ("layer_index", "subset", "metric"), {}
  of_layers = places(numbers, *columns[:2])
  needed = {(*place, metric) for place in of_layers for metric in METRICS}
  for seed in rows.seeds:
    of_seed = at_epoch.where(seed=seed)
    if not of_seed:
      lacking[seed] = "was not measured in hidden layers"
    elif places(of_seed.known(), *columns) != needed:
      lacking[seed] = "lacks numbers"
  return lacking


def _lacks(rows: runs.Rows, which: str) -> str:
  """Names the seeds that lack numbers of the best or last epoch, if any."""
  lacking = incomplete(rows, which)
  problems = {
    problem: name_seeds(s for s in lacking if lacking[s] == problem)
    for problem in lacking.values()
  }
  return ", and ".join(
    f"the {which} epoch of {seeds} {problem}"
    for problem, seeds in problems.items()
  )


def _unlearnt(rows: runs.Rows) -> str:
  """Names the seeds whose best network is no better than chance, if any."""
  chance = rows.blind_accuracy()  # Old runs do not record it.
  of_test = rows.at("best").where("accuracy", subset="test").known()
  seeds = [
    row["seed"]
    for row in of_test
    if row["seed"] in chance
    and not row["value"] > chance[row["seed"]] + 2 * (row.get("stderr") or 0)
  ]
  if not seeds:
    return ""
  return (
    f"nothing is learnt: the test accuracy of {name_seeds(seeds)} at the best"
    f" epoch is within two errors of chance ({chance[seeds[0]]:.3f})"
  )


def by_layer(rows: runs.Rows, metric: str, which: str) -> dict:
  """Averages a metric over seeds: `[hidden layers]` by subset.

  The input, which does not change, and the logits, the output, are left out.
  """
  at_epoch = rows.at(which).where(metric)
  return {
    subset: at_epoch.where(subset=subset).series("layer_index").mean[1:-1]
    for subset in at_epoch.subsets
  }


def _doubt(*of_ratio: runs.Rows, least_left: float = 0.0) -> _Doubt:
  """Returns what may move the ratio of two sets' capacities, or one capacity.

  Seeds in which less of a centre is left than `least_left` count as unlike.
  Runs that do not record this are taken to have the same removed.
  """
  shares, errors = [], []
  both = runs.Rows(row for rows in of_ratio for row in rows)
  for index in list(of_ratio[0].where("capacity").layers)[1:-1]:
    left = both.where("center_left", layer_index=index).known()
    seeds = {row["seed"] for row in left if row["value"] < least_left}
    of_layer = [rows.where(layer_index=index) for rows in of_ratio]
    if len(of_layer) > 1:
      seeds |= seeds_unlike(*of_layer)
    shares.append(len(seeds) / len(both.seeds))
    # What is 0 has no relative error.
    with np.errstate(divide="ignore", invalid="ignore"):
      errors.append(_relative_error([x.where("capacity") for x in of_layer]))
  # An unknown error is none.
  known = np.where(np.isfinite(errors), errors, 0.0)
  return _Doubt(np.array(shares), known)


def _relative_error(of_ratio: list[runs.Rows]) -> float:
  """Returns the relative error of a ratio, paired by seed; NaN if unknown."""
  by_seed = [
    dict(zip((row["seed"] for row in rows), rows.values, strict=True))
    for rows in of_ratio
  ]
  seeds = sorted(set.intersection(*map(set, by_seed)))
  if len(seeds) < 2:
    means, errors = np.array([rows.mean() for rows in of_ratio]).T
    return float(np.linalg.norm(errors / means))
  first, *second = (np.array([of[seed] for seed in seeds]) for of in by_seed)
  mean, error = runs.mean_and_error(first / np.prod(second, axis=0))
  return float(np.divide(error, mean))


def _are_between(
  bounds: Sequence[float], ratios, doubt: _Doubt, *, if_equal: bool = False
) -> bool | None:
  """Tells whether all ratios are between two bounds; None if doubt decides.

  Two errors, and K in the share of seeds that are unlike, may have moved a
  ratio up or down. With `if_equal`, values that are equal although K differs
  count as such.
  """
  low, high = bounds
  least, most = np.maximum(1 - 2 * doubt.error, 0), 1 + 2 * doubt.error
  by_k = left_by_k(doubt.unlike)
  maybe = (low < ratios * most / by_k) & (ratios * least * by_k < high)
  if not if_equal:
    least, most = least * by_k, most / by_k
  surely = (low < ratios * least) & (ratios * most < high)
  return verdict(np.all(surely), np.all(maybe))


def _falls(
  rows: runs.Rows, metric: str, subset: str, ratio, unlike
) -> tuple[bool | None, bool]:
  """Tells whether the last hidden layer's value falls, and whether it is vague.

  It is if its change is less than two errors: those of the mean over seeds or,
  of a single seed, of its values.
  """
  index = list(rows.where("capacity").layers)[-2]
  before, after = (
    rows.at(which).where(metric, subset=subset, layer_index=index).split("seed")
    for which in EPOCHS
  )
  pairs = [(before[seed].mean(), after[seed].mean()) for seed in before]
  change, error = runs.mean_and_error(
    np.array([last[0] - best[0] for best, last in pairs])
  )
  if len(pairs) == 1:
    error = np.hypot(*(error for _, error in pairs[0]))
  if 0 < abs(change) < 2 * error:  # An unknown error is none.
    return None, True
  # The error was looked at above.
  return _are_between(_FALLS, ratio, _Doubt(unlike, 0.0)), False


def _farthest(ratios: np.ndarray) -> float:
  return float(np.abs(ratios - 1).max())


def _permuted_at_chance(
  best, chance: float, doubt: _Doubt, doubt_of_others: _Doubt
) -> _Judged:
  at_chance, alike = best["permuted"] / chance, best["restored"] / best["test"]
  holds = all_hold(
    _are_between(_EQUAL, at_chance, doubt),
    _are_between(_EQUAL, alike, doubt_of_others, if_equal=True),
  )
  return (
    holds,
    _UNSURE_OF_BEST,
    f"best epoch: permuted capacity is within"
    f" {_farthest(at_chance):.0%} of chance ({chance:.3f}) in"
    f" every hidden layer, restored within {_farthest(alike):.0%} of test",
  )


def _permuted_rises_late(best, last, early: int, doubt) -> _Judged:
  rise, doubt = last["permuted"] / best["permuted"], doubt["permuted"]
  stays, first = (0.0, 1 + TOLERANCE), slice(early)
  return (
    all_hold(
      _are_between((1.5, np.inf), rise[-1], doubt.of(-1)),
      _are_between(stays, rise[first], doubt.of(first), if_equal=True),
    ),
    _UNSURE,
    f"last epoch: permuted capacity rises to {rise[-1]:.2f} times its best-"
    f"epoch value in the last hidden layer, at most {rise[:early].max():.2f}"
    f" times in the first{f' {early}' if early > 1 else ''}",
  )


def _restored_falls(best, last, chance: float, doubt, rows) -> _Judged:
  before, after = best["restored"][-1], last["restored"][-1]
  ratio, of_seeds = after / before, doubt["restored"].unlike[-1]
  falls, is_vague = _falls(rows, "capacity", "restored", ratio, of_seeds)
  of_last = _doubt(rows.at("last").where(subset="restored")).of(-1)
  holds = all_hold(falls, _are_between(_EQUAL, after / chance, of_last))
  return (
    holds,
    _VAGUE if is_vague else _UNSURE,
    f"last epoch: restored capacity of the last hidden layer goes from"
    f" {before:.3f} to {after:.3f}, {after / chance - 1:+.0%} from chance, test"
    f" from {best['test'][-1]:.3f} to {last['test'][-1]:.3f}",
  )


def _permuted_shrinks(radii, dimensions, doubt, rows) -> _Judged:
  numbers, of_seeds = {}, doubt["permuted"].unlike[-1]
  for metric, of_epochs in (("radius", radii), ("dimension", dimensions)):
    numbers[metric] = [at["permuted"][-1] for at in of_epochs]
  falls = [
    _falls(rows, metric, "permuted", after / before, of_seeds)
    for metric, (before, after) in numbers.items()
  ]
  radius, dimension = numbers.values()
  return (
    all_hold(*(of for of, _ in falls)),
    _VAGUE if any(is_vague for _, is_vague in falls) else BY_K,
    f"permuted radius and dimension of the last hidden layer go from"
    f" {radius[0]:.2f} and {dimension[0]:.1f} to {radius[1]:.2f} and"
    f" {dimension[1]:.1f}",
  )


def _early_layers_stay(best, last, early: int, doubt) -> _Judged:
  change = np.array([last[s][:early] / best[s][:early] for s in best])
  first = [doubt[s].of(slice(early)) for s in best]
  of_first = _Doubt(*(np.array(x) for x in zip(*first, strict=True)))
  return (
    _are_between(_EQUAL, change, of_first, if_equal=True),
    _UNSURE,
    f"the first {f'{early} hidden layers' if early > 1 else 'hidden layer'}"
    f" changed by at most {_farthest(change):.0%} in capacity between best and"
    " last epoch, over all subsets",
  )
