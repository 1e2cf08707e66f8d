"""Evidence from rewinds on where permuted labels are memorized.

Two claims are tested. Stephenson et al., ICLR 2021: rewinding the final layers
restores generalization. Maini et al., ICML 2023: the layers that
memorize are generally not the last ones.
"""

import math

import numpy as np

from geomem import runs
from geomem.studies.finding import Finding

# The largest standard error at which recovered shares are informative.
_VAGUE = 0.25


ENOUGH = 0.8
# Smallest share of permuted labels fitted beyond chance that counts as memory.
_MEMORIZED = 0.2
_CLAIMS = {
  "suffix": ("F4.1", "the last layers restore generalization"),
  "prefix": ("F4.2", "the first layers do not"),
}


class RewindScores:
  """The scores of rewinds, by rewound layers, epoch and seed.

  Attributes:
    subsets: names of the subsets, in the order of the rows.
    chance: 1 / classes.
    error: standard error of a recovered share's mean over seeds, from the
      number of test examples: large if little was lost.
  """

  def __init__(self, rows: runs.Rows):
    """Selects the rows of networks, leaving out those of layers."""
    self._best, self._last = rows.epochs("best"), rows.epochs("last")
    self.subsets = rows.distinct("subset")
    self.chance = rows.where("chance_accuracy")[0]["value"]
    self.error = _error_of(rows.where("recovered"))
    self._seeds = rows.seeds
    self._networks = rows.where(layer=None)
    self._rewinds: dict[tuple, runs.Rows] = {}
    for row in self._networks:
      if row.get("kind") is not None:
        key = (row["kind"], row["rewound"])
        self._rewinds.setdefault(key, runs.Rows()).append(row)

  @property
  def tell_shares(self) -> bool:
    """Whether recovered shares are precise enough to be informative."""
    return not self.error > _VAGUE

  @property
  def kinds(self) -> list[str]:
    """The kinds of rewinds, in the order of the rows."""
    return list(dict.fromkeys(kind for kind, _ in self._rewinds))

  def rewound(self, kind: str) -> list[str]:
    """Lists the rewound sets of layers of a kind, in the order of the rows."""
    return [rewound for k, rewound in self._rewinds if k == kind]

  def at_best(self, kind, rewound, subset, metric="accuracy") -> np.ndarray:
    """Returns values by seed, at the epoch nearest to the seed's best one.

    Seeds without the metric are left out.
    """
    rows = self._rewinds[kind, rewound].where(metric, subset=subset)
    values = []
    for seed, best in self._best.items():
      of_seed = rows.where(seed=seed)
      if of_seed:
        nearest = min(of_seed, key=lambda row: abs(row["epoch"] - best))
        values.append(nearest["value"])
    return np.array(values)

  def by_epoch(
    self, kind, rewound, subset, metric="accuracy"
  ) -> dict[int, np.ndarray]:
    """Returns values by seed, for each epoch that all seeds have."""
    rows = self._rewinds[kind, rewound].where(metric, subset=subset)
    return {
      epoch: at_epoch.values
      for epoch, at_epoch in rows.split("epoch").items()
      if at_epoch.seeds == self._seeds
    }

  def at_last(self, subset: str) -> np.ndarray:
    """Returns accuracies of the last networks without any rewind, by seed."""
    rows = self._networks.where("accuracy", subset=subset, kind=None)
    return np.array(
      [
        rows.where(seed=seed, epoch=epoch)[0]["value"]
        for seed, epoch in self._last.items()
      ]
    )


def _error_of(rows: runs.Rows) -> float:
  errors = [
    np.array([row["stderr"] for row in of_seed], float).mean()
    for of_seed in rows.split("seed").values()
  ]
  return float(np.linalg.norm(errors)) / max(len(errors), 1)


def too_vague(recovered: runs.Rows) -> str:
  """Says why shares of the lost test accuracy cannot be told, if so."""
  error = _error_of(recovered)
  if math.isnan(error):  # Older versions did not write it.
    return "the error of the recovered shares is unknown"
  if error <= _VAGUE:
    return ""
  return (
    "the network has lost too little test accuracy for shares of it to be"
    f" known: the test examples alone leave ± {error:.0%}"
  )


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
  if not scores.tell_shares:
    too_little = (
      "the network has lost too little test accuracy for shares of it to be"
      f" known: the test examples alone leave ± {scores.error:.0%}"
    )
    return Finding(name, None, too_little, claim)

  def says(rewound):
    recovered = scores.at_best(kind, rewound, "test", "recovered")
    permuted = scores.at_best(kind, rewound, "permuted").mean()
    return f"{_share(recovered)}, with permuted accuracy {permuted:.3f}"

  sets = scores.rewound(kind)
  means = [
    scores.at_best(kind, rewound, "test", "recovered").mean()
    for rewound in sets
  ]
  few = max(1, len(sets) // 2)
  # Epochs chosen by hand may all be too far from the best one.
  enough = next(
    (i for i, mean in enumerate(means, 1) if mean >= ENOUGH), len(sets) + 1
  )
  takes = f"no number of layers gives {ENOUGH:.0%}"
  if enough <= len(sets):
    named = _set_name(kind, sets[enough - 1])
    takes = f"{ENOUGH:.0%} takes {named}: {says(sets[enough - 1])}"
  sentence = (
    f"at the best epoch {_set_name(kind, sets[few - 1])} of {len(sets)} recover"
    f" {says(sets[few - 1])} (chance {scores.chance:.3f}), of the test accuracy"
    f" that was lost; {takes}"
  )
  return Finding(name, (enough <= few) == (kind == "suffix"), sentence, claim)


def best_rewinds(rows: runs.Rows) -> list[str]:
  """Names the layers and the epoch that recover most, for each kind.

  Rewinding all layers is left out: it gives an earlier epoch's network.
  """
  scores, sentences = RewindScores(rows), []
  for kind in scores.kinds if scores.tell_shares else ():
    sets = scores.rewound(kind)
    recovered = {
      (rewound, epoch): values
      for rewound in (sets[:-1] if kind in ("suffix", "prefix") else sets)
      for epoch, values in scores.by_epoch(
        kind, rewound, "test", "recovered"
      ).items()
    }
    if recovered:
      best = max(recovered, key=lambda rewind: recovered[rewind].mean())
      sentences.append(
        f"Best {kind} rewind: {_set_name(kind, best[0])}, to epoch {best[1]};"
        f" {_share(recovered[best])} of the lost test accuracy is recovered."
      )
  return sentences


def _selective(scores: RewindScores) -> Finding:
  """Finds the single layer whose rewind forgets most selectively.

  Selectivity is (fall of permuted accuracy) - (fall of unpermuted accuracy), at
  the epoch where it is largest for the layer.
  """
  layers = scores.rewound("single")
  outcomes = {}
  for layer in layers:
    after = {
      subset: scores.by_epoch("single", layer, subset)
      for subset in ("permuted", "unpermuted")
    }
    gains = {
      epoch: (after["unpermuted"][epoch] - after["permuted"][epoch]).mean()
      for epoch in after["permuted"]
    }
    epoch = max(gains, key=gains.get)
    means = {s: after[s][epoch].mean() for s in after}
    outcomes[layer] = gains[epoch], epoch, means
  first = max(layers, key=lambda layer: outcomes[layer][0])
  late = layers[-math.ceil(len(layers) / 3) :]
  rival = max(late, key=lambda layer: outcomes[layer][0])

  def says(layer):
    _, epoch, means = outcomes[layer]
    changes = (
      f"{subset} accuracy {scores.at_last(subset).mean():.3f} to {mean:.3f}"
      for subset, mean in means.items()
    )
    return f"{layer} at epoch {epoch} ({', '.join(changes)})"

  sentence = (
    "of all single layers, the one whose rewind forgets most at the least loss"
    f" is {says(first)}. "
  )
  if first in late:
    sentence += (
      f"It is one of the last third ({', '.join(late)}), where by Maini et al."
      " the memory generally is not"
    )
  else:
    sentence += (
      f"In the last third ({', '.join(late)}) it is {says(rival)}: the last"
      " layers do not hold the memory singly, as Maini et al. find"
    )
  claim = "by Maini et al.: the memory is not in the last layers"
  fitted = scores.at_last("permuted").mean()
  if fitted - scores.chance < _MEMORIZED * (1 - scores.chance):
    too_little = (
      f"permuted accuracy ends at {fitted:.3f}, and chance is"
      f" {scores.chance:.3f}: there is too little memory to look for"
    )
    return Finding("F4.3", None, too_little, claim)
  return Finding("F4.3", first not in late, sentence, claim)


def find_rewinds(rows: runs.Rows) -> list[Finding]:
  """Tests both claims; each sentence quotes means and standard deviations."""
  scores = RewindScores(rows)
  findings = []
  if rows.where("recovered"):
    sides = [k for k in scores.kinds if k in ("suffix", "prefix")]
    findings += [_side(scores, kind) for kind in sides]
  if "single" in scores.kinds:
    findings.append(_selective(scores))
  return findings


def rewind_table(rows: runs.Rows) -> str:
  """Lists the scores of every rewind near the best epoch, mean over seeds."""
  scores = RewindScores(rows)
  subsets = "".join(f"{subset:>11}" for subset in scores.subsets)
  lines = [f"{'to the best epoch':24}{'recovered':>10}{subsets}"]
  for kind in scores.kinds:
    for rewound in scores.rewound(kind):
      recovered = scores.at_best(kind, rewound, "test", "recovered")
      line = f"{kind:8}{_short_name(kind, rewound):16}"
      known = recovered.size and scores.tell_shares
      line += f"{recovered.mean():10.2f}" if known else f"{'':10}"
      for subset in scores.subsets:
        line += f"{scores.at_best(kind, rewound, subset).mean():11.3f}"
      lines.append(line)
  return "\n".join(lines)


def _short_name(kind: str, rewound: str) -> str:
  names = rewound.split("+")
  return {"suffix": f"{names[0]} ...", "prefix": f"... {names[-1]}"}.get(
    kind, rewound
  )
