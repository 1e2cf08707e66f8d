"""What theory and simulation are compared on: ideal manifolds, layers of a run.

A unit is built when its turn comes, so that one layer is held at a time.
"""

import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from geomem import geometry, runs
from geomem.activations import layer_blocks
from geomem.analysis import experiment as experiments
from geomem.analysis.capacity import CapacityConfig, Unit, chosen_epochs
from geomem.analysis.findings import epoch_of
from geomem.analysis.memorization import checkpoints_of

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
# Of the correlated centres: a third of the variance in a few directions.
_SHARED = {"rank": 3, "strength": 0.35}


def _ellipsoid_axes(dimension: int) -> np.ndarray:
  """Semi-axes that fall as 1/i, of root mean square one."""
  axes = 1 / np.arange(1, dimension + 1, dtype=np.float32)
  return axes / np.sqrt((axes**2).mean())


def _build(config: CapacityConfig, family: str, radius: float, key):
  """The points of one family; `[P, M, N]`."""
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


def _exact(config: CapacityConfig, family: str, radius: float) -> float | None:
  if family == "points":
    return float(geometry.point_capacity(0.0))
  if family == "segments":
    # The mean of P centres is subtracted, and their norm is 1 no more.
    norm = np.sqrt(1 - 1 / config.num_manifolds)
    return float(geometry.segment_capacity(radius / norm))
  return None


def synthetic_units(config: CapacityConfig) -> Iterator[Unit]:
  """Each family of synthetic manifolds, at each radius."""
  for seed in range(config.seed, config.seed + config.num_seeds):
    for index, family in enumerate(FAMILIES):
      family_key = jax.random.fold_in(jax.random.key(seed), index)
      for number, radius in enumerate(RADII[:1] if index == 0 else RADII):
        key = jax.random.fold_in(family_key, number)
        points = _build(config, family, radius, key)
        exact = _exact(config, family, radius)
        shared = family == "correlated centres"
        for centers in CENTERS if shared else CENTERS[:1]:
          columns = {
            "seed": seed,
            "subset": family,
            "manifold_radius": radius,
            "centers": centers,
          }
          yield Unit(key, columns, points, exact)


def run_units(
  path: pathlib.Path | str,
  experiment: experiments.Experiment,
  config: CapacityConfig,
) -> Iterator[Unit]:
  """Each layer of a finished run at the chosen epochs, by subset.

  With the manifolds, and the images, that the run itself was measured on.
  """
  rows = runs.read_rows(path)
  for seed in experiments.prepare_seeds(experiment, path):
    number = seed.seed
    epochs = {
      which: epoch_of(rows, which, number) for which in ("best", "last")
    }
    for epoch in sorted({epochs[which] for which in chosen_epochs(config)}):
      with checkpoints_of(pathlib.Path(path), number) as saved:
        state = saved.load(epoch, experiment.network.abstract_state)
      yield from _layer_units(experiment, seed, epoch, state)


def _layer_units(experiment, seed, epoch: int, state) -> Iterator[Unit]:
  network = experiment.network
  images = experiments.manifold_images(experiment, seed)
  forward = experiments.measuring_forward(experiment)
  flat = images.reshape(-1, *images.shape[3:])
  blocks = layer_blocks(forward, state, flat, network.layer_names)
  for index, (layer, points) in enumerate(blocks):
    points = points.reshape(*images.shape[:3], -1)
    for name, manifolds in zip(seed.manifolds, points, strict=True):
      for centers in CENTERS:
        columns = {
          "seed": seed.seed,
          "epoch": epoch,
          "layer": layer,
          "layer_index": index,
          "subset": name,
          "centers": centers,
        }
        yield Unit(seed.geometry_key, columns, manifolds)


def count_synthetic_units(config: CapacityConfig) -> int:
  """How many `synthetic_units` there are."""
  # Points have one radius; correlated centres count twice.
  return config.num_seeds * (1 + len(RADII) * len(FAMILIES))


def count_run_units(
  path: pathlib.Path | str,
  experiment: experiments.Experiment,
  config: CapacityConfig,
) -> int:
  """How many `run_units` there are."""
  rows = runs.read_rows(path)
  first = experiment.config.seed
  seeds = range(first, first + experiment.config.num_seeds)
  num_epochs = sum(
    len({epoch_of(rows, which, seed) for which in chosen_epochs(config)})
    for seed in seeds
  )
  num_subsets = len(experiments.prepare_seed(experiment, first).manifolds)
  num_layers = len(experiment.network.layer_names)
  return num_epochs * num_layers * num_subsets * len(CENTERS)
