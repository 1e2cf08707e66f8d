"""Evidence from rewinds on where permuted labels are memorized.

Two claims are tested. Stephenson et al., ICLR 2021: rewinding the final layers
restores generalization. Maini et al., ICML 2023: the layers that
memorize are generally not the last ones.
"""

import math

import numpy as np

from geomem import runs
from geomem.plots import style
from geomem.studies.finding import (
  Finding,
  any_reaches,
  too_little_memory,
  with_error,
)
from geomem.studies.rewind_scores import ENOUGH, RewindScores

# Differences between accuracies below it are rounding.
_ROUNDING = 1e-9
_CLAIMS = {
  "suffix": ("F4.1", "the last layers restore generalization"),
  "prefix": ("F4.2", "the first layers do not"),
}


def _share(values: np.ndarray) -> str:
  """Formats a mean in per cent, with the standard deviation over seeds."""
  text = f"{values.mean():.0%}"
  return text + (f" ± {values.std(ddof=1):.0%}" if len(values) > 1 else "")


def _set_name(kind: str, rewound: str) -> str:
  """Names a set of layers, such as `the last 3 layers (from fc1 on)`."""
  names = rewound.split("+")
  count = f"{len(names)} layers" if len(names) > 1 else "layer"
  if kind == "suffix":
    return f"the last {count} (from {names[0]} on)"
  if kind == "prefix":
    return f"the first {count} (up to {names[-1]})"
  return rewound


def _side(scores: RewindScores, kind: str) -> Finding:
  """Tests whether at most half of the layers recover enough test accuracy."""
  name, claim = _CLAIMS[kind]
  if reason := scores.undecided(kind):
    return Finding(name, None, reason + scores.without, claim)

  sets = scores.rewound(kind)
  recovered = [scores.at_best(kind, s, "test", "recovered") for s in sets]

  def keeps(index, end=""):
    permuted = scores.at_best(kind, sets[index], "permuted").mean()
    if np.isnan(permuted):
      return ""
    return f", with permuted accuracy {permuted:.3f}{end}"

  half = len(sets) // 2
  # With batch statistics of the last epoch not even all layers may be enough.
  enough = [i for i, of in enumerate(recovered) if of.mean() >= ENOUGH]
  takes = f"no number of layers gives {ENOUGH:.0%}"
  if enough and enough[0] == half - 1:
    takes = f"fewer layers give less than {ENOUGH:.0%}"
  elif enough:
    named, share = _set_name(kind, sets[enough[0]]), recovered[enough[0]]
    takes = f"{ENOUGH:.0%} takes {named}: {_share(share)}{keeps(enough[0])}"
  kept = keeps(half - 1, f" (chance {with_error(scores.chance)})")
  sentence = (
    f"at the best epoch, rewinding {_set_name(kind, sets[half - 1])} of"
    f" {len(sets)} recovers {_share(recovered[half - 1])} of the lost test"
    f" accuracy{kept}; {takes}{scores.without}"
  )
  few_do = any_reaches(
    ENOUGH, (scores.bounds(kind, s, "test", "recovered") for s in sets[:half])
  )
  if few_do is None:
    sentence += (
      f"; whether half of them recover {ENOUGH:.0%} cannot be known within two"
      " errors"
    )
    return Finding(name, None, sentence, claim)
  return Finding(name, few_do == (kind == "suffix"), sentence, claim)


def best_rewinds(rows: runs.Rows) -> list[str]:
  """Names the layers and the epoch that recover most, for each kind.

  Rewinding all layers is left out: it gives an earlier epoch's network.
  """
  scores, sentences = RewindScores(rows), []
  if scores.unknown_shares:
    # The findings say so, if there are any.
    if set(_CLAIMS) & set(scores.kinds):
      return []
    return [f"Recovered shares cannot be told: {scores.unknown_shares}."]
  for kind in scores.kinds:
    sets = scores.rewound(kind)
    recovered = {
      (rewound, place): scores.at(epochs, kind, rewound, "test", "recovered")
      for rewound in (sets[:-1] if kind in ("suffix", "prefix") else sets)
      for place, epochs in scores.places().items()
    }
    means = {key: values.mean() for key, values in recovered.items()}
    unknown = np.isnan([*means.values()])
    if unknown.all():  # Or there are none.
      continue
    if unknown.any():
      sentences.append(
        f"The best {kind} rewind cannot be told: recovered shares are missing."
      )
      continue
    best = max(means, key=means.get)
    if not means[best] > _ROUNDING:
      sentences.append(f"No {kind} rewind recovers lost test accuracy.")
      continue
    equal = sum(means[best] - mean <= _ROUNDING for mean in means.values()) - 1
    sentences.append(
      f"Best {kind} rewind: {_set_name(kind, best[0])}, to {best[1]};"
      f" {_share(recovered[best])} of the lost test accuracy is recovered"
      f"{f', by {equal} more as well' if equal else ''}{scores.without}."
    )
  return sentences


def _selective(scores: RewindScores) -> Finding:
  """Finds the single layer whose rewind forgets most selectively.

  Selectivity is (fall of permuted accuracy) - (fall of unpermuted accuracy), at
  the epoch where it is largest for the layer.
  """
  layers = scores.rewound("single")
  of_last = {
    subset: scores.at(scores.last, None, None, subset)
    for subset in ("permuted", "unpermuted")
  }
  before = {subset: values.mean() for subset, values in of_last.items()}
  outcomes, of_seeds = {}, {}
  for layer in layers:
    for place, epochs in scores.places().items():
      of_place = {s: scores.at(epochs, "single", layer, s) for s in before}
      falls = {s: of_last[s] - of_place[s] for s in before}
      gains = falls["permuted"] - falls["unpermuted"]
      gain, most = gains.mean(), outcomes.get(layer, (-math.inf,))[0]
      if gain > most or np.isnan(gain):  # What is unknown stays unknown.
        after = {subset: values.mean() for subset, values in of_place.items()}
        outcomes[layer], of_seeds[layer] = (gain, place, after), gains
  claim = "by Maini et al.: the memory is not in the last layers"
  if reason := _not_selective(scores, before, outcomes):
    return Finding("F4.3", None, reason + scores.without, claim)

  def says(layer):
    _, place, after = outcomes[layer]
    changes = (
      f"{subset} accuracy {before[subset]:.3f} to {mean:.3f}"
      for subset, mean in after.items()
    )
    return f"{layer} at {place} ({', '.join(changes)})"

  late = layers[-math.ceil(len(layers) / 3) :]
  others = [layer for layer in layers if layer not in late]
  first, rival, early = (
    max(chosen, key=lambda layer: outcomes[layer][0])
    for chosen in (layers, late, others)
  )
  last_third = f"the last third ({', '.join(late)})"
  ahead, error = runs.mean_and_error(of_seeds[early] - of_seeds[rival])
  if abs(ahead) < 2 * error:  # Paired by seed; of one there is no error.
    sentence = (
      f"of the single layers in {last_third} the one whose rewind forgets most"
      f" at the least loss is {says(rival)}, of the others it is {says(early)};"
      f" which forgets more cannot be known within two errors{scores.without}"
    )
    return Finding("F4.3", None, sentence, claim)
  comparison = (
    f"In {last_third} it is {says(rival)}: the last layers do not hold the"
    " memory singly, as Maini et al. find"
  )
  if first in late:
    comparison = (
      f"It is one of {last_third}, where by Maini et al. the memory generally"
      " is not"
    )
  sentence = (
    "of all single layers, the one whose rewind forgets most at the least loss"
    f" is {says(first)}. {comparison}{scores.without}"
  )
  return Finding("F4.3", first not in late, sentence, claim)


def _not_selective(scores: RewindScores, before, outcomes) -> str:
  """Says why no single layer forgets most selectively, if so."""
  layers = scores.rewound("single")
  if len(layers) < 2:
    return "one layer alone is rewound"
  for subset, accuracy in before.items():
    if np.isnan(accuracy):
      return f"the last networks have no {subset} accuracy"
  if reason := too_little_memory(before["permuted"], scores.chance):
    return reason
  if not outcomes:
    return "no epoch before the last is one that every seed is rewound to"
  gains = [gain for gain, *_ in outcomes.values()]
  if np.isnan(gains).any():
    return "accuracies are missing"
  most = max(gains)
  if most <= _ROUNDING:
    return (
      "no single layer's rewind costs more permuted than unpermuted accuracy"
    )
  equal = [x for x in layers if most - outcomes[x][0] <= _ROUNDING]
  if len(equal) > 1:
    return f"rewinds of {' and '.join(equal)} forget equally selectively"
  return ""


def find_rewinds(rows: runs.Rows) -> list[Finding]:
  """Tests both claims; each sentence quotes means and standard deviations."""
  scores = RewindScores(rows)
  findings = [_side(scores, kind) for kind in scores.kinds if kind in _CLAIMS]
  if "single" in scores.kinds:
    findings.append(_selective(scores))
  return findings


def rewind_table(rows: runs.Rows) -> str:
  """Lists the scores of every rewind near the best epoch, mean over seeds."""
  scores = RewindScores(rows)
  heading = f"to {style.name_epochs(scores.nearest.values())}"
  if scores.nearest == scores.best:
    heading = "to the best epoch"
  width = max(24, len(heading))
  subsets = "".join(f"{subset:>11}" for subset in scores.subsets)
  lines = [f"{heading:{width}}{'recovered':>10}{subsets}"]
  for kind in scores.kinds:
    for rewound in scores.rewound(kind):
      names = rewound.split("+")
      short = {"suffix": f"{names[0]} ...", "prefix": f"... {names[-1]}"}
      of_set = scores.nearest, kind, rewound
      recovered = scores.at(*of_set, "test", "recovered").mean()
      line = f"{kind:8}{short.get(kind, rewound):{width - 8}}"
      line += f"{'':10}" if scores.unknown_shares else f"{recovered:10.2f}"
      for subset in scores.subsets:
        line += f"{scores.at(*of_set, subset).mean():11.3f}"
      lines.append(line)
  if scores.without:
    lines.append(scores.without.strip())
  return "\n".join(lines)
