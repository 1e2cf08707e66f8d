"""The scores of rewinds, arranged for findings and tables."""

import numpy as np

from geomem import runs

# The largest standard error at which recovered shares are informative.
_VAGUE = 0.25


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
    np.mean([row["stderr"] or 0.0 for row in of_seed])
    for of_seed in rows.split("seed").values()
  ]
  return float(np.linalg.norm(errors)) / max(len(errors), 1)
