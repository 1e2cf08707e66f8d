"""Does the theory hold? Figure 1B of the paper: theory against simulation.

Mean-field capacity is compared with simulated capacity: random dichotomies
(divisions of the manifolds into two groups) of the same points are tested for
separability. The points are those of synthetic manifolds,

  python -m experiments capacity --out=runs/capacity

or of every layer of a finished run, at its best and its last epoch:

  python -m experiments capacity --run=runs/demo

which writes to runs/demo/capacity. The two commands take one and two minutes
on two cores. Repeat a command to resume what was interrupted.

Theory and simulation get the same points, built lazily: only one layer is in
memory at a time. The directions that the centres share are either kept, or
projected out of all points first.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from geomem import geometry, measures, parallel, plots, runs
from geomem.geometry.simulation import FEWEST_DRAWS
from geomem.studies import experiment as experiments
from geomem.studies.capacity_findings import find_agreements
from geomem.studies.fields import Fields, check_seeds
from geomem.studies.finding import doubts
from geomem.studies.measure_config import parse_centers
from geomem.studies.study import Stage, at_once
from geomem.studies.trained import OfRun, TrainedRun

_EPS = np.finfo(np.float32).eps
# The largest relative rounding of a centre, as in the mean-field geometry.
_MOST_ROUNDING = 1e-3
# The fields that do not apply to a run, and to synthetic manifolds.
_SYNTHETIC = (
  "num_manifolds",
  "manifold_points",
  "num_features",
  "dimension",
  "seed",
  "num_seeds",
)
_OF_RUNS = ("epochs",)
CENTERS = ("none", "low_rank")
RADII = (0.1, 0.3, 1.0, 3.0)
FAMILIES = (
  "points",
  "segments",
  "spheres",
  "ellipsoids",
  "clouds",
  "correlated centres",
)
# Correlated centres have a third of their variance in a few directions.
_SHARED = {"rank": 3, "strength": 0.35}
_shared_directions = jax.jit(geometry.shared_directions, static_argnums=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapacityConfig(Fields):
  """Config of the comparison of theory and simulation.

  Attributes:
    epochs: epochs of a run to use: `best`, `last` or `best,last`.
    num_draws: random dichotomies per simulation, at least five.
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

  _least: ClassVar = {
    "num_draws": FEWEST_DRAWS,
    "num_probes": 1,
    "num_shuffles": 1,
    "num_seeds": 1,
  }
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
    super().__post_init__()
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


class ManifoldSet(NamedTuple):
  """One set of manifolds on which theory and simulation are compared.

  Attributes:
    key: PRNG key of the simulation and the probes.
    columns: columns that its rows share.
    points: function that builds the points, `[P, M, N]`.
    exact: closed-form capacity, if there is one.
  """

  key: jax.Array
  columns: dict[str, Any]
  points: Callable[[], np.ndarray]
  exact: float | None = None

  @property
  def name(self) -> str:
    """The name of the set in figures and sentences."""
    return plots.name_of_set(self.columns)


def _build(config, family: str, radius: float, key) -> np.ndarray:
  """Builds the `[P, M, N]` points of one family."""
  center_key, key = jax.random.split(key)
  sizes = {
    "num_manifolds": config.num_manifolds,
    "num_points": config.manifold_points,
    "num_features": config.num_features,
    "dimension": config.dimension,
    "radius": radius,
  }
  shape = family
  if family == "points":
    sizes |= {"num_points": 1, "dimension": 1}
  elif family == "segments":
    sizes |= {"num_points": 2, "dimension": 1}
  elif family == "ellipsoids":
    shape = "spheres"
    # The semi-axes go with 1/i, and their root mean square is the radius.
    axes = 1 / np.arange(1, config.dimension + 1, dtype=np.float32)
    sizes["radius"] = radius * (axes / np.sqrt((axes**2).mean()))
  elif family == "correlated centres":
    shape = "clouds"
    sizes["centers"] = geometry.correlated_centers(
      center_key, config.num_manifolds, config.num_features, **_SHARED
    )
  return np.asarray(geometry.synthetic_manifolds(key, shape, **sizes))


def _closed_form(config, family: str, radius: float) -> float | None:
  if family == "points":
    return float(geometry.point_capacity(0.0))
  if family == "segments":
    # Subtracting the mean of the P centres reduces their norm from 1.
    norm = np.sqrt(1 - 1 / config.num_manifolds)
    return float(geometry.segment_capacity(radius / norm))
  return None


def synthetic_sets(config) -> list[ManifoldSet]:
  """Lists the synthetic sets: every family at every radius, for each seed."""
  sets = []
  for seed in range(config.seed, config.seed + config.num_seeds):
    for index, family in enumerate(FAMILIES):
      family_key = jax.random.fold_in(jax.random.key(seed), index)
      for number, radius in enumerate(RADII[:1] if index == 0 else RADII):
        key = jax.random.fold_in(family_key, number)
        points = functools.partial(_build, config, family, radius, key)
        exact = _closed_form(config, family, radius)
        shared = family == "correlated centres"
        for centers in CENTERS if shared else CENTERS[:1]:
          columns = {
            "seed": seed,
            "subset": family,
            "manifold_radius": radius,
            "centers": centers,
          }
          sets.append(ManifoldSet(key, columns, points, exact))
  return sets


def layer_sets(trained: TrainedRun, which: Sequence[str]) -> list[ManifoldSet]:
  """Lists each layer of a run at its `best` or `last` epoch, by subset.

  Manifolds and images are those on which the run itself was measured.
  """
  sets = []
  names = trained.experiment.network.layer_names
  for seed in trained.seeds:
    epochs = {getattr(trained, w)(seed.number) for w in which}
    for epoch in sorted(epochs):
      points_of = _layer_points(trained, seed, epoch)
      for (index, layer), subset, centers in itertools.product(
        enumerate(names), seed.manifolds, CENTERS
      ):
        columns = {
          "seed": seed.number,
          "epoch": epoch,
          "layer": layer,
          "layer_index": index,
          "subset": subset,
          "centers": centers,
        }
        points = functools.partial(points_of, layer, subset)
        sets.append(ManifoldSet(seed.geometry_key, columns, points))
  return sets


def _layer_points(trained: TrainedRun, seed, epoch: int):
  """Returns a function from a layer and a subset to points; caches a layer."""

  @functools.lru_cache(maxsize=1)
  def by_subset(layer: str) -> dict[str, np.ndarray]:
    images = experiments.manifold_images(trained.experiment, seed)
    stacked = np.stack(list(images.values()))
    flat = stacked.reshape(-1, *stacked.shape[3:])
    forward = experiments.measuring_forward(trained.experiment)
    state = trained.state(seed.number, epoch)
    ((_, points),) = measures.layer_blocks(forward, state, flat, [layer])
    points = parallel.fetch(points).reshape(*stacked.shape[:3], -1)
    return dict(zip(images, points, strict=True))

  return lambda layer, subset: by_subset(layer)[subset]


class Capacity(OfRun):
  """The capacity study: theory against simulation (figure 1B).

  It uses the layers of a finished run, or synthetic manifolds.
  """

  name = "capacity"
  needs_run = False
  figures = plots.CAPACITY

  def __init__(self, config: CapacityConfig, trained: TrainedRun | None = None):
    """Creates the study; without a run, it uses synthetic manifolds.

    Raises:
      ValueError: a field is given that does not apply.
      RunError: the run lacks a network.
    """
    super().__init__(config, trained)
    self.ignored = _SYNTHETIC if trained else _OF_RUNS
    for field in dataclasses.fields(config):
      value = getattr(config, field.name)
      if field.name in self.ignored and value != field.default:
        advice = "leave it out" if trained else "give a run with it"
        raise ValueError(
          f"{field.name} is {value}, but it applies to"
          f" {'synthetic manifolds' if trained else 'runs'} alone; {advice}."
        )
    if trained:
      trained.check_networks(*self._which())

  def as_dict(self) -> dict[str, Any]:
    """Returns the fields that apply, as a run directory stores them."""
    return {k: v for k, v in super().as_dict().items() if k not in self.ignored}

  def sets(self) -> list[ManifoldSet]:
    """Lists the sets of manifolds; their points are built lazily."""
    if self.trained is None:
      return synthetic_sets(self.config)
    return layer_sets(self.trained, self._which())

  def _which(self) -> list[str]:
    return [w for w in ("best", "last") if w in self.config.epochs]

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields one stage, with a unit for each set of manifolds."""
    units = [
      at_once(
        one.columns, functools.partial(compare, one, self.config), done=one.name
      )
      for one in self.sets()
    ]
    yield Stage("capacity", units)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Returns doubts, and the agreement for each treatment of the centres."""
    return [*doubts(rows), *find_agreements(rows)]


def _without_shared_directions(key, points: np.ndarray, rule) -> np.ndarray:
  """Projects the shared directions of the centres out of all points.

  The points are first centred on their mean. With V = C̄ᵀA from
  `geometry.shared_directions`, x becomes x - V Vᵀx.
  """
  # In float64, removed directions vanish to rounding and no longer add to the
  # rank.
  points = np.asarray(points, np.float64)
  points = points - points.mean(axis=(0, 1))
  stats = geometry.gram_statistics(points.astype(np.float32))
  shared = _shared_directions(key, stats.centers, rule)
  centers = points.mean(axis=1)
  A = np.asarray(shared.coefficients, np.float64)[:, : int(shared.rank)]
  V, _ = np.linalg.qr((centers - centers.mean(axis=0)).T @ A)
  return points - (points @ V) @ V.T


def _exact(given: np.ndarray, points: np.ndarray) -> Bool[np.ndarray, " P"]:
  """Returns where rounding of the given points is small beside their centre.

  The centre is what projection has left of it, and the rounding float32's.
  """
  with np.errstate(over="ignore"):  # Infinite rounding is not small, either.
    rounding = _EPS * np.linalg.norm(given, axis=-1).max(axis=1)
  return rounding < _MOST_ROUNDING * np.linalg.norm(points.mean(axis=1), axis=1)


def compare(one: ManifoldSet, config: CapacityConfig) -> list[runs.Row]:
  """Computes the rows of one set: theory, simulation and null."""
  direction_key, probe_key, draw_key, null_key = jax.random.split(one.key, 4)
  rule = parse_centers(one.columns["centers"])
  given = one.points()
  points = _without_shared_directions(direction_key, given, rule)
  points32 = points.astype(np.float32)
  options = {"num_probes": config.num_probes, "centers": None}
  theory = geometry.manifold_geometry(probe_key, points32, **options)
  simulated = geometry.simulated_capacity(
    draw_key, points, num_draws=config.num_draws, bias=config.bias
  )
  null = geometry.shuffled_null(
    null_key, points32, num_samples=config.num_shuffles, **options
  )
  ball = geometry.ball_capacity(theory.mean_radius, theory.mean_dimension)
  values = {} if one.exact is None else {"exact_capacity": (one.exact, None)}
  values |= {
    "manifold_points": (points.shape[1], None),
    "capacity": (theory.mean_capacity, theory.mean_capacity_stderr),
    "critical_dimension": (
      simulated.critical_dimension,
      simulated.critical_stderr,
    ),
    "ball_capacity": (ball, None),
    # The error of the mean over shuffles; NaN for one.
    "null_capacity": (
      null.mean.capacity,
      null.sd.capacity / np.sqrt(config.num_shuffles),
    ),
    "radius": (theory.mean_radius, theory.mean_radius_stderr),
    "dimension": (theory.mean_dimension, theory.mean_dimension_stderr),
    "center_correlation": (theory.center_correlation, None),
    "converged": ((theory.converged & _exact(given, points)).mean(), None),
    "simulated_capacity": (simulated.capacity, simulated.stderr),
  }
  return [
    {**one.columns, "metric": metric, "value": value, "stderr": stderr}
    for metric, (value, stderr) in values.items()
  ]
