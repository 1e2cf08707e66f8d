"""Theory against simulation: the mean-field capacity, and dichotomies tried.

The same points go to both. Directions that the centres share are left in, or
projected out of all points first, from theory and simulation alike.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from geomem import geometry, runs
from geomem.analysis import experiment as experiments
from geomem.analysis.fields import check_least, check_seeds, check_types

# The metric that is written last: where it is, the unit is whole.
LAST_METRIC = "simulated_capacity"
_REMOVED = {"none": "centres as they are", "low_rank": "directions removed"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapacityConfig:
  """How theory and simulation are compared; every field is a flag.

  Attributes:
    epochs: of a run: `best`, `last` or `best,last`.
    num_draws: random dichotomies of each simulation.
    num_probes: T, probes of each manifold.
    num_shuffles: of the labels, for the capacity without classes.
    bias: whether simulated hyperplanes may miss the origin.
    num_manifolds: P, of synthetic manifolds.
    manifold_points: M, points of each synthetic manifold.
    num_features: N, of synthetic manifolds.
    dimension: D, of synthetic spheres, ellipsoids and clouds.
    seed: the first seed of synthetic manifolds.
    num_seeds: how many; a run has its own.
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


_shared_directions = jax.jit(geometry.shared_directions, static_argnums=2)


class Unit(NamedTuple):
  """One set of manifolds to compare on.

  Attributes:
    key: for the simulation and the probes.
    columns: what its rows have in common.
    points: `[P, M, N]`.
    exact: closed-form capacity, where there is one.
  """

  key: jax.Array
  columns: dict[str, Any]
  points: np.ndarray
  exact: float | None = None


def check_capacity(config: CapacityConfig) -> None:
  """Raises ValueError, in a sentence, for what cannot be done."""
  check_types(config)
  names = ("num_draws", "num_probes", "num_shuffles", "num_seeds")
  check_least(config, dict.fromkeys(names, 1))
  check_seeds(config.seed, config.num_seeds)
  chosen_epochs(config)
  if not 1 <= config.dimension < config.num_features:
    raise ValueError(
      f"dimension is {config.dimension}; from 1 to num_features - 1 ="
      f" {config.num_features - 1} was expected."
    )
  if config.num_manifolds < 4 or config.manifold_points < 2:
    raise ValueError(
      f"{config.num_manifolds} manifolds of {config.manifold_points} points"
      " are too few to compare on; at least 4 of 2 were expected."
    )


def chosen_epochs(config: CapacityConfig) -> tuple[str, ...]:
  """`best` and `last`, as far as they were asked for."""
  names = tuple(config.epochs.split(","))
  if not set(names) <= {"best", "last"} or len(set(names)) < len(names):
    raise ValueError(
      f"epochs {config.epochs!r} is not known; use best, last or best,last."
    )
  return names


def without_shared_directions(key, points: np.ndarray, rule) -> np.ndarray:
  """The points about their mean, shared directions of the centres left out.

  With V = C̄ᵀA of `geometry.shared_directions`, x becomes x - V Vᵀx.
  """
  # In float64, so that directions are gone to rounding, and count no more.
  points = np.asarray(points, np.float64)
  points = points - points.mean(axis=(0, 1))
  stats = geometry.gram_statistics(points.astype(np.float32))
  shared = _shared_directions(key, stats.centers, rule)
  centers = points.mean(axis=1)
  A = np.asarray(shared.coefficients, np.float64)[:, : int(shared.rank)]
  V, _ = np.linalg.qr((centers - centers.mean(axis=0)).T @ A)
  return points - (points @ V) @ V.T


def compare(unit: Unit, config: CapacityConfig) -> list[dict]:
  """Rows of one set of manifolds: the theory, the simulation, the null."""
  direction_key, probe_key, draw_key, null_key = jax.random.split(unit.key, 4)
  rule = experiments.parse_centers(unit.columns["centers"])
  points = without_shared_directions(direction_key, unit.points, rule)
  points32 = points.astype(np.float32)
  options = {"num_probes": config.num_probes, "centers": None}
  found = geometry.manifold_geometry(probe_key, points32, **options)
  simulated = geometry.simulated_capacity(
    draw_key, points, num_draws=config.num_draws, bias=config.bias
  )
  null = geometry.shuffled_null(
    null_key, points32, num_samples=config.num_shuffles, **options
  )
  ball = geometry.ball_capacity(found.mean_radius, found.mean_dimension)
  values = {} if unit.exact is None else {"exact_capacity": (unit.exact, None)}
  values |= {
    "capacity": (found.mean_capacity, found.mean_capacity_stderr),
    "critical_dimension": (
      simulated.critical_dimension,
      simulated.critical_stderr,
    ),
    "ball_capacity": (ball, None),
    "null_capacity": (null.mean.capacity, null.sd.capacity),
    "radius": (found.mean_radius, found.mean_radius_stderr),
    "dimension": (found.mean_dimension, found.mean_dimension_stderr),
    "center_correlation": (found.center_correlation, None),
    LAST_METRIC: (simulated.capacity, simulated.stderr),
  }
  return [
    {**unit.columns, "metric": metric, "value": value, "stderr": stderr}
    for metric, (value, stderr) in values.items()
  ]


def _identity(columns: dict[str, Any]) -> tuple:
  names = ("seed", "epoch", "layer", "subset", "centers", "manifold_radius")
  return tuple(columns.get(name) for name in names)


def measure_units(
  run: runs.Run, config: CapacityConfig, units: Iterable[Unit]
) -> Iterator[Unit]:
  """Compares on every unit that has no rows yet; hands on each."""
  done = {_identity(row) for row in run.rows() if row["metric"] == LAST_METRIC}
  if run.has_holes:
    done = set()
  for unit in units:
    if _identity(unit.columns) not in done:
      run.append(compare(unit, config))
    yield unit


def capacity_config_dict(config: CapacityConfig, *, of_run: bool) -> dict:
  """The config as JSON takes it, without what does not apply."""
  synthetic = ("num_manifolds", "manifold_points", "num_features", "dimension")
  left_out = (*synthetic, "seed", "num_seeds") if of_run else ("epochs",)
  fields = dataclasses.asdict(config)
  return {k: v for k, v in fields.items() if k not in left_out}


class Agreement(NamedTuple):
  """How well theory and simulation agree.

  Attributes:
    centers: `none` or `low_rank`, what was removed.
    count: sets of manifolds with both.
    unknown: sets that even all features do not separate.
    correlation: of the logarithms; None for less than three sets.
    ratios: simulated over theory, their 0, 5, 50, 95 and 100 % quantiles.
    farthest: what the ratio farthest from one belongs to.
  """

  centers: str
  count: int
  unknown: int
  correlation: float | None
  ratios: tuple[float, ...]
  farthest: str

  def __str__(self) -> str:
    low, likely_low, middle, likely_high, high = self.ratios
    sentence = (
      f"{_REMOVED[self.centers]}: simulated over theory has median"
      f" {middle:.3f}, {likely_low:.3f} to {likely_high:.3f} in 90 % of"
      f" {self.count} sets, {low:.3f} to {high:.3f} in all (the farthest:"
      f" {self.farthest})"
    )
    if self.correlation is not None:
      sentence += f"; correlation {self.correlation:.3f}"
    if self.unknown:
      sentence += f"; {self.unknown} more are not separable in all features"
    return sentence + "."


def pair_capacities(rows, first: str, second: str) -> list[tuple[dict, dict]]:
  """The rows of two metrics that belong together; both have values."""
  found = {
    metric: {_identity(r): r for r in rows if r["metric"] == metric}
    for metric in (first, second)
  }
  pairs = [(a, found[second].get(key)) for key, a in found[first].items()]
  return [
    (a, b)
    for a, b in pairs
    if b is not None and runs.has_value(a) and runs.has_value(b)
  ]


def agreements(rows) -> list[Agreement]:
  """Theory against simulation, for each treatment of the centres."""
  result = []
  for centers in dict.fromkeys(row["centers"] for row in rows):
    here = [row for row in rows if row["centers"] == centers]
    pairs = pair_capacities(here, "capacity", "simulated_capacity")
    total = sum(row["metric"] == "capacity" for row in here)
    if not pairs:
      continue
    logs = np.log([[a["value"], b["value"]] for a, b in pairs])
    ratios = logs[:, 1] - logs[:, 0]
    enough = len(pairs) > 2 and (logs.std(axis=0) > 0).all()
    result.append(
      Agreement(
        centers,
        len(pairs),
        total - len(pairs),
        float(np.corrcoef(logs.T)[0, 1]) if enough else None,
        tuple(np.exp(np.quantile(ratios, (0, 0.05, 0.5, 0.95, 1))).tolist()),
        name_of(pairs[np.abs(ratios).argmax()][0]),
      )
    )
  return result


def name_of(columns: dict[str, Any]) -> str:
  """What a row, or a unit's columns, is about."""
  names = ("layer", "subset", "manifold_radius", "epoch")
  words = {"manifold_radius": "R=", "epoch": "epoch "}
  return " ".join(
    f"{words.get(name, '')}{columns[name]}"
    for name in names
    if columns.get(name) is not None
  )
