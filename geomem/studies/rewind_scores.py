"""The scores of rewinds, and when the shares that they recover are known."""

import math

import numpy as np

from geomem import runs
from geomem.plots import style
from geomem.studies.finding import bounds, grouped, name_seeds

# The largest standard error at which recovered shares are informative.
_VAGUE = 0.25
# The share of the lost test accuracy that counts as recovered.
ENOUGH = 0.8


class RewindScores:
  """The scores of rewinds, by rewound layers, epoch and seed.

  Seeds that have lost no test accuracy since their best epoch have nothing to
  recover; they are left out where others have lost some.

  Attributes:
    subsets: names of the subsets, in the order of the rows.
    chance: the accuracy that needs no image; NaN if not recorded.
    has_lost: whether any seed has lost test accuracy.
    without: names the seeds that are left out, in parentheses; empty if none.
    best: the best epoch of each seed.
    last: its last epoch.
    nearest: the epoch nearest to its best that it is rewound to.
  """

  def __init__(self, rows: runs.Rows):
    """Selects the rows of networks, leaving out those of layers."""
    self.subsets = rows.distinct("subset")
    # Old runs have none.
    self.chance = max(rows.blind_accuracy().values(), default=math.nan)
    recovered = rows.where("recovered")
    self.has_lost = bool(recovered)
    self._vague = too_vague(recovered)
    self._seeds = recovered.seeds or rows.seeds
    self.without = without_loss(rows.seeds, self._seeds)
    self.best, self.last = (
      {seed: rows.epochs(which)[seed] for seed in self._seeds}
      for which in ("best", "last")
    )
    of_networks = rows.where(layer=None, seed=tuple(self._seeds))
    self._by_set = grouped(of_networks, "kind", "rewound")
    rewound = of_networks.where(kind=tuple(self.kinds))
    self._epochs = sorted(rewound.distinct("epoch"))
    self._rewound = set(grouped(rewound, "seed", "epoch"))
    nearest = rewound.nearest(self.best)
    self.nearest = {row["seed"]: row["epoch"] for row in nearest}

  @property
  def unknown_shares(self) -> str:
    """Why recovered shares are not informative; empty if they are."""
    if not self.has_lost:
      return "no test accuracy is lost after the best epoch"
    return self._vague

  @property
  def kinds(self) -> list[str]:
    """The kinds of rewinds, in the order of the rows."""
    return list(dict.fromkeys(k for k, _ in self._by_set if k is not None))

  def rewound(self, kind: str) -> list[str]:
    """Lists the rewound sets of layers of a kind, in the order of the rows."""
    return [rewound for k, rewound in self._by_set if k == kind]

  def at(
    self,
    epochs: dict[int, int],
    kind,
    rewound,
    subset,
    metric="accuracy",
    column="value",
  ) -> np.ndarray:
    """Returns values by seed, at an epoch for each; NaN where there is none."""
    rows = self._by_set[kind, rewound].where(metric, subset=subset)
    values = {
      row["seed"]: row.get(column)
      for row in rows
      if row["epoch"] == epochs.get(row["seed"])
    }
    return np.array([values.get(seed, np.nan) for seed in self._seeds], float)

  def at_best(self, kind, rewound, subset, metric="accuracy") -> np.ndarray:
    """Returns values by seed, at its best epoch; NaN if not rewound to it."""
    return self.at(self.best, kind, rewound, subset, metric)

  def bounds(
    self, kind: str, rewound: str, subset: str, metric: str
  ) -> tuple[float, float]:
    """Returns `bounds` of a mean over seeds, each at its best epoch."""
    at = self.best, kind, rewound, subset, metric
    return bounds(self.at(*at), self.at(*at, "stderr"))

  def places(self) -> dict[str, dict[int, int]]:
    """Returns the epochs that layers are put back to: a name, one of each seed.

    It is the same for all seeds, or the best epoch of each. Those that not all
    seeds are rewound to are left out, as some end early, and so is the last
    network's own epoch: it rewinds nothing.
    """
    places = {f"epoch {e}": dict.fromkeys(self._seeds, e) for e in self._epochs}
    best = list(self.best.values())
    if len(set(best)) > 1:
      name = f"each seed's best epoch ({', '.join(map(str, best))})"
      places[name] = self.best
    return {
      name: place
      for name, place in places.items()
      if all(
        place[seed] != last and (seed, place[seed]) in self._rewound
        for seed, last in self.last.items()
      )
    }

  def undecided(self, kind: str) -> str:
    """Says why shares recovered at the best epochs cannot be told, if so."""
    sets = self.rewound(kind)
    if len(sets) < 2:
      return "fewer than two sets of layers are rewound"
    if not self.has_lost:
      return self.unknown_shares
    if missing := {
      seed: best
      for seed, best in self.best.items()
      if self.nearest.get(seed) != best
    }:
      seeds, epochs = name_seeds(missing), style.name_epochs(missing.values())
      return f"no rewind of {seeds} goes to the best epoch ({epochs})"
    if self._vague:
      return self._vague
    if any(
      np.isnan(self.at_best(kind, rewound, "test", "recovered")).any()
      for rewound in sets
    ):
      return "recovered shares are missing"
    return ""


def without_loss(seeds: list[int], others: list[int]) -> str:
  """Names the seeds but for the others, in parentheses; empty if none."""
  names = name_seeds(seed for seed in seeds if seed not in others)
  is_any = not set(seeds) <= set(others)
  return f" (left out, as no test accuracy is lost: {names})" if is_any else ""


def too_vague(recovered: runs.Rows) -> str:
  """Says why shares of the lost test accuracy cannot be told, if so.

  The standard error of a share's mean over seeds, from the number of test
  examples, is large if little was lost.
  """
  errors = [
    np.array([row["stderr"] for row in of_seed], float).mean()
    for of_seed in recovered.split("seed").values()
  ]
  error = float(np.linalg.norm(errors)) / max(len(errors), 1)
  if math.isnan(error):  # Older versions did not write it.
    return "the error of the recovered shares is unknown"
  if error <= _VAGUE:
    return ""
  return (
    "the network has lost too little test accuracy for shares of it to be"
    f" known: the test examples alone leave ± {error:.0%}"
  )
