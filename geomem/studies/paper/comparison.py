"""Comparison of our numbers with the claims of the paper."""

import pathlib
from typing import Any

import numpy as np

from geomem import runs
from geomem.studies.capacity_findings import agreements
from geomem.studies.finding import (
  Finding,
  all_hold,
  believable,
  doubts_by_width,
  left_by_k,
  verdict,
)
from geomem.studies.gradients.findings import (
  at_epoch,
  unbiased_slope,
  worst_error,
)
from geomem.studies.memorization_findings import (
  by_layer,
  changed_seeds,
  incomplete,
)
from geomem.studies.model_size import Sizes, find_dip
from geomem.studies.paper.stages import STAGES, Scale
from geomem.studies.paper.table import CLAIMS, CLOSE, LAST_HIDDEN
from geomem.studies.rewind_scores import ENOUGH, RewindScores
from geomem.studies.sweep import of_cells

# The values of a study by claim, one for each seed, and the verdicts that its
# findings do not give; None where there is nothing to judge by.
_Judged = tuple[dict[str, Any], dict[str, bool | None]]

# T2: largest distance of the median from 1, and least correlation.
AGREES, CORRELATES = 0.15, 0.9
# T5: range of parameters of the dip, and least growth of the dimension in it.
DIP_PLACE, DIP_GROWTH = (3e5, 1e6), 3.0


_CHANGES = ("F3.2", "F3.3", "F3.4 radius", "F3.4 dimension", "F3.5")


def _memorization(rows: runs.Rows, is_the_papers: bool) -> _Judged:
  if set(rows.where("capacity").subsets) < set(runs.SUBSETS):
    return {}, {}
  no_best, no_last = (incomplete(rows, which) for which in ("best", "last"))
  # What did not converge is unknown by itself, as in the findings.
  rows = believable(rows)
  chance, values, numbers = rows.chance_capacity(), {}, []
  changed, _ = changed_seeds(rows)
  for seed in rows.seeds:
    of_seed, ratios = rows.where(seed=seed), {"F3.1": np.nan}
    if seed not in no_best:
      best = by_layer(of_seed, "capacity", "best")
      ratios["F3.1"] = best["permuted"][-1] / chance
    if seed in changed.seeds:
      if seed in no_best or seed in no_last:
        ratios |= dict.fromkeys(_CHANGES, np.nan)
      else:
        ratios |= _changes(of_seed, chance)
      numbers.append(of_seed)
    for key, value in ratios.items():
      values.setdefault(key, []).append(value)
  if not is_the_papers:
    return values, {}
  if not numbers or set(changed.seeds) & {*no_best, *no_last}:
    return values, {"T3": None}
  close = 0
  for (subset, metric), expected in LAST_HIDDEN.items():
    share, distance = CLOSE[metric]
    pairs = [
      [by_layer(of, metric, w)[subset][-1] for w in ("best", "last")]
      for of in numbers
    ]
    error = np.abs(np.mean(pairs, axis=0) - expected)
    close += int((error <= np.multiply(share, expected) + distance).sum())
  return values | {"T3": [close]}, {"T3": close == 2 * len(LAST_HIDDEN)}


def _changes(rows: runs.Rows, chance: float) -> dict[str, float]:
  """Compares the last epoch of a seed with its best epoch."""
  at = {
    (metric, which): by_layer(rows, metric, which)
    for metric in CLOSE
    for which in ("best", "last")
  }

  def change(metric, subset="permuted"):
    return at[metric, "last"][subset] / at[metric, "best"][subset]

  early_changes = np.nan  # A single hidden layer has no first half.
  if early := len(change("capacity")) // 2:
    subsets = at["capacity", "best"]
    early_changes = [change("capacity", s)[:early] - 1 for s in subsets]
  numbers = (
    change("capacity")[-1],
    at["capacity", "last"]["restored"][-1] / chance,
    change("radius")[-1],
    change("dimension")[-1],
    np.abs(early_changes).max(),
  )
  return dict(zip(_CHANGES, numbers, strict=True))


def _rewind(rows: runs.Rows, _) -> _Judged:
  scores, values = RewindScores(rows), {}

  def recovered(kind, layers):
    return scores.at_best(kind, layers, "test", "recovered")

  for key, kind in (("F4.1", "suffix"), ("F4.2", "prefix")):
    if few := len(scores.rewound(kind)) // 2:
      values[key] = recovered(kind, scores.rewound(kind)[few - 1])
  # Rewinding all layers gives another epoch's network.
  shares = {s: recovered("suffix", s) for s in scores.rewound("suffix")[:-1]}
  if not shares or np.isnan([*shares.values()]).any():
    return values, {"T4": None}
  if scores.undecided("suffix"):
    values["T4"] = max(shares.values(), key=np.mean)
    return values, {"T4": None}
  reached, left = (
    {s: scores.bounds("suffix", s, *of) for s in shares}
    for of in (("test", "recovered"), ("permuted", "accuracy"))
  )
  at_most = 2 * scores.chance
  surely, maybe = (
    [s for s in shares if reached[s][i] >= ENOUGH and left[s][1 - i] <= at_most]
    for i in (0, 1)
  )
  best = max(surely or maybe or shares, key=lambda s: shares[s].mean())
  values["T4"] = shares[best]
  numbers = [at_most, *np.ravel([*left.values()])]
  return values, {"T4": _verdict(surely, maybe, numbers)}


def _gradients(rows: runs.Rows, _) -> _Judged:
  ratio = {"metric": "ratio", "part": "label", "labels": "centered"}
  cancelled = {"subset": "permuted", "labels": "centered"}
  law = {"layer": None, "drawn": "independent", "labels": "centered"}
  of_seeds = rows.split("seed").values()
  return {
    "G1": [of.where("law_slope", **law).mean()[0] for of in of_seeds],
    "G2": [unbiased_slope(of)[0] for of in of_seeds],
    "G3": [worst_error(of, "label") for of in of_seeds],
    "G4 first": at_epoch(rows, which="first", **ratio),
    "G4 last": at_epoch(rows, which="last", **ratio),
    "G5": at_epoch(rows, "cancellation", "last", **cancelled),
  }, {}


def _capacity(rows: runs.Rows, _) -> _Judged:
  removed = rows.where(centers="low_rank")
  of_seeds = [agreements(of) for of in removed.split("seed").values()]
  overall = agreements(removed)
  if not overall or overall[0].correlation is None:
    return {}, {"T2 ratio": None, "T2 correlation": None}
  values = {
    "T2 ratio": [of[0].ratios[2] if of else np.nan for of in of_seeds],
    "T2 correlation": np.array(
      [of[0].correlation if of else None for of in of_seeds], float
    ),
  }
  off, correlation = abs(overall[0].ratios[2] - 1), overall[0].correlation
  off_error, its_error = (
    2 * np.nan_to_num(runs.mean_and_error(np.asarray(of))[1])
    for of in values.values()
  )
  return values, {
    "T2 ratio": _verdict(off + off_error <= AGREES, off - off_error <= AGREES),
    "T2 correlation": _verdict(
      correlation - its_error >= CORRELATES,
      correlation + its_error >= CORRELATES,
    ),
  }


def _model_size(rows: runs.Rows, is_the_papers: bool) -> _Judged:
  sizes = Sizes(of_cells({"axes": ["width"]}, rows))
  accuracy = sizes.at("last", "accuracy", "test")
  dip, keys = find_dip(accuracy), [k for k in CLAIMS if k.startswith("T5")]
  if min(accuracy.shape) < 2 or np.isnan(accuracy).any():
    return {}, dict.fromkeys(keys)  # With one seed, any noise is a dip.
  if dip is None:
    return {}, dict.fromkeys(keys, False)
  falls = dip.depth > 2 * dip.stderr
  if dip.at == len(accuracy) - 1:  # Whether accuracy rises again is not seen.
    return {}, dict.fromkeys(keys, None if falls else False)
  ranks = [sizes.at(w, "rank", "test") for w in ("best", "last")]
  left = left_by_k((np.abs(ranks[1] - ranks[0]) > 0).mean(axis=1))
  pairs, growth, bounds = {}, {}, {}
  for metric in ("radius", "dimension"):
    pairs[metric] = [sizes.at(w, metric, "test") for w in ("best", "last")]
    best, last = pairs[metric]
    # A dead network has no dimension to grow from.
    growth[metric] = (last - best) / np.where(best > 0, best, np.nan)
    mean = 1 + growth[metric].mean(axis=1)
    # By as much as another K at one of the epochs may change it.
    bounds[metric] = mean * left - 1, mean / left - 1
  parameters = sizes.fact("num_parameters")[dip.at, 0]
  falls &= dip.rise > 2 * dip.rise_stderr
  ends = [0, dip.at, -1]
  least, most = (of[ends] for of in bounds["dimension"])
  grows = [_is_largest(*pair) for pair in ((least, most), (most, least))]
  if is_the_papers:
    falls &= DIP_PLACE[0] <= parameters <= DIP_PLACE[1]
    before, after = (of[dip.at].mean() for of in pairs["dimension"])
    for i, of_last in enumerate((after * left[dip.at], after / left[dip.at])):
      grows[i] &= of_last - before >= DIP_GROWTH
  radii = [of[dip.at] for of in bounds["radius"]]
  nearest = 0.0 if radii[0] < 0 < radii[1] else np.abs(radii).min()
  changes_less = np.abs(radii).max() < least[1], nearest < most[1]
  return {
    "T5 accuracy": accuracy[dip.before] - accuracy[dip.at],
    **{f"T5 {metric}": of[dip.at] for metric, of in growth.items()},
  }, {
    "T5 accuracy": bool(falls),
    "T5 dimension": _verdict(*grows, [*least, *most]),
    "T5 radius": _verdict(*changes_less, [*radii, least[1]]),
  }


def _is_largest(dip: np.ndarray, others: np.ndarray) -> bool:
  """Tells whether growth in the dip, of three, is above 0 and the others."""
  return bool(dip[1] > max(0, others[0], others[2]))


def _verdict(surely, maybe, numbers=()) -> bool | None:
  """Returns a verdict; None if a number is NaN, or its error or K decides."""
  if np.isnan(numbers).any():
    return None
  return verdict(surely, maybe)


_NUMBERS = {
  "memorization": _memorization,
  "rewind": _rewind,
  "gradients": _gradients,
  "capacity": _capacity,
  "model_size": _model_size,
  "measure": lambda *_: ({}, {}),
}


def compare(path: pathlib.Path | str, scale: Scale) -> runs.Rows:
  """Compares the complete stages below a directory with the paper.

  Returns:
    A row for each number, ordered by claim: its mean over seeds, the standard
    deviation over seeds as `spread`, and whether the claim `holds`, None if it
    is undecided; then a row for each doubt about the numbers.
  """
  values, verdicts, sentences = {}, {}, []
  for stage in STAGES:
    place = pathlib.Path(path) / stage.place
    if not runs.is_complete(place):
      continue
    config, rows = runs.read_config(place), runs.read_rows(place)
    findings = stage.study.findings(config, rows)
    verdicts |= {f.name: f.holds for f in findings if isinstance(f, Finding)}
    numbers, further = _NUMBERS[stage.study.name](rows, scale.is_the_papers)
    values |= numbers
    for key, holds in further.items():
      is_known = not np.isnan(np.sum(numbers.get(key, 0.0)))
      verdicts[key] = holds if is_known else None
    sentences += [f"{stage.name}: {doubt}" for doubt in doubts_by_width(rows)]
  if {"G1", "G4"} <= set(verdicts):
    verdicts["T6"] = all_hold(verdicts["G1"], verdicts["G4"])
  result = runs.Rows()
  for key in CLAIMS:
    name = key.split()[0]
    judged = verdicts.get(key, verdicts.get(name))
    if key not in values and key not in verdicts and name not in verdicts:
      continue  # The stage is incomplete, or its numbers cannot be compared.
    of_seeds = np.asarray(values.get(key, []), float)
    many = of_seeds.size > 1
    result.append(
      {
        "metric": key,
        "value": float(of_seeds.mean()) if of_seeds.size else None,
        "spread": float(of_seeds.std(ddof=1)) if many else None,
        "holds": judged,
        "is_the_papers": scale.is_the_papers,
      }
    )
  for text in sentences:
    result.append({"metric": "doubt", "text": text})
  return result
