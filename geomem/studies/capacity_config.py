"""The config of the capacity study."""

import dataclasses

from geomem.studies.fields import check_least, check_seeds, check_types

_SYNTHETIC = ("num_manifolds", "manifold_points", "num_features", "dimension")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapacityConfig:
  """Config of the comparison of theory and simulation.

  Attributes:
    epochs: epochs of a run to use: `best`, `last` or `best,last`.
    num_draws: random dichotomies per simulation.
    num_probes: T, probes per manifold.
    num_shuffles: shuffles of the labels, for the capacity without classes.
    bias: whether simulated hyperplanes may miss the origin.
    num_manifolds: P, number of synthetic manifolds.
    manifold_points: M, points per synthetic manifold.
    num_features: N, features of the synthetic manifolds.
    dimension: D, dimension of synthetic spheres, ellipsoids and clouds.
    seed: first seed of the synthetic manifolds.
    num_seeds: number of seeds of the synthetic manifolds; a run has its own.
  """

  epochs: str = "best,last"
  num_draws: int = 100
  num_probes: int = 300
  num_shuffles: int = 5
  bias: bool = False
  num_manifolds: int = 40
  manifold_points: int = 10
  num_features: int = 500
  dimension: int = 5
  seed: int = 0
  num_seeds: int = 1

  def __post_init__(self):
    check_types(self)
    names = ("num_draws", "num_probes", "num_shuffles", "num_seeds")
    check_least(self, dict.fromkeys(names, 1))
    check_seeds(self.seed, self.num_seeds)
    names = self.epochs.split(",")
    if not set(names) <= {"best", "last"} or len(set(names)) < len(names):
      raise ValueError(
        f"epochs {self.epochs!r} is not known; use best, last or best,last."
      )
    if not 1 <= self.dimension < self.num_features:
      raise ValueError(
        f"dimension is {self.dimension}; from 1 to num_features - 1 ="
        f" {self.num_features - 1} was expected."
      )
    if self.num_manifolds < 4 or self.manifold_points < 2:
      raise ValueError(
        f"{self.num_manifolds} manifolds of {self.manifold_points} points"
        " are too few to compare on; at least 4 of 2 were expected."
      )


def ignored_fields(of_run: bool) -> tuple[str, ...]:
  """Lists the fields that do not apply, to a run or to synthetic manifolds."""
  return (*_SYNTHETIC, "seed", "num_seeds") if of_run else ("epochs",)


def check_applies(config: CapacityConfig, of_run: bool) -> None:
  """Raises if a field that does not apply has another value than by default."""
  defaults = {f.name: f.default for f in dataclasses.fields(config)}
  for name in ignored_fields(of_run):
    if getattr(config, name) != defaults[name]:
      advice = "leave it out" if of_run else "give a run with it"
      raise ValueError(
        f"{name} is {getattr(config, name)}, but it applies to"
        f" {'synthetic manifolds' if of_run else 'runs'} alone; {advice}."
      )
