"""Manifolds for the capacity study: synthetic ones, and layers of a run.

Points are built lazily, so that only one layer is in memory at a time.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from geomem import geometry, measures, plots
from geomem.studies import experiment as experiments
from geomem.studies.trained import TrainedRun


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


def _ellipsoid_axes(dimension: int) -> np.ndarray:
  """Returns semi-axes proportional to 1/i, with root mean square one."""
  axes = 1 / np.arange(1, dimension + 1, dtype=np.float32)
  return axes / np.sqrt((axes**2).mean())


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
    sizes["radius"] = radius * _ellipsoid_axes(config.dimension)
  elif family == "correlated centres":
    shape = "clouds"
    sizes["centers"] = geometry.correlated_centers(
      center_key, config.num_manifolds, config.num_features, **_SHARED
    )
  return np.asarray(geometry.synthetic_manifolds(key, shape, **sizes))


def _exact(config, family: str, radius: float) -> float | None:
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
        exact = _exact(config, family, radius)
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
    points = np.asarray(points).reshape(*stacked.shape[:3], -1)
    return dict(zip(images, points, strict=True))

  return lambda layer, subset: by_subset(layer)[subset]
