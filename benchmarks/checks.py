"""Checks of the geometry against known results; each one yields rows."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geomem import geometry, runs

_T = 400


def _iid(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _row(check, case, metric, value, stderr, expected) -> runs.Row:
  return {
    "check": check,
    "case": case,
    "metric": metric,
    "value": float(value),
    "stderr": None if stderr is None else float(stderr),
    "expected": float(expected),
  }


def _mean_field(points, seed: int = 0, **options):
  options = {"centers": None, "num_probes": _T} | options
  return geometry.manifold_geometry(jax.random.key(seed), points, **options)


def _with_negatives(points) -> np.ndarray:
  """Appends each manifold's negative, so that the mean of all points is 0.

  The package subtracts that mean; when it is 0 the lengths do not change.
  """
  points = np.asarray(points)
  return np.concatenate([points, -points])


def exact_limits() -> Iterator[runs.Row]:
  """Measures manifolds whose capacity is known in closed form."""

  def synthetic(shape, **options):
    return geometry.synthetic_manifolds(
      jax.random.key(1), shape, num_manifolds=20, num_features=500, **options
    )

  cases = {
    f"segments, R = {R:g}: ½ + (2/π) arctan R, inverse": (
      synthetic("segments", num_points=2, radius=R),
      0.0,
      geometry.segment_capacity(R),
    )
    for R in (0.5, 2.0)
  }
  for M in (10, 50):
    points = np.eye(10 * M, dtype="f4").reshape(10, M, -1)
    case = f"orthonormal points, M = {M}: 2/M"
    cases[case] = points, 0.0, geometry.simplex_capacity(M)
  for kappa in (0.0, 0.5):
    points = synthetic("points", num_points=1)
    case = f"points, κ = {kappa:g}: Gardner"
    cases[case] = points, kappa, geometry.point_capacity(kappa)
  for case, (points, kappa, expected) in cases.items():
    # The standard error is best known for the plain mean over probes.
    result = geometry.manifold_geometry(
      jax.random.key(0),
      _with_negatives(points),
      kappa=kappa,
      centers=None,
      reduce_variance=False,
    )
    value, error = result.mean_capacity, result.mean_capacity_stderr
    case = f"mean field, {case}"
    yield _row("exact limits", case, "capacity", value, error, expected)
  for M in (1, 8):
    points = np.eye(48 * M, dtype="f4").reshape(48, M, -1)
    result = geometry.glue(jax.random.key(0), points, num_probes=_T)
    value, error = result.capacity, result.capacity_stderr
    case = f"GLUE, orthonormal points, M = {M}: 2/M"
    yield _row("exact limits", case, "capacity", value, error, 2 / M)


def simulated() -> Iterator[runs.Row]:
  """Compares both theories with simulations, with and without correlations."""
  cases = {
    "independent, D = 4, R = 1": ("balls", 4, 1.0, 0.0),
    "independent, D = 10, R = .5": ("spheres", 10, 0.5, 0.0),
    "correlated centres, D = 4, R = 1": ("balls", 4, 1.0, 0.7),
    "correlated centres, D = 2, R = 2": ("spheres", 2, 2.0, 0.7),
  }
  for case, (shape, D, R, strength) in cases.items():
    key = jax.random.key(2)
    sizes = {"num_manifolds": 16, "num_features": 120}
    centers = None
    if strength:
      centers = geometry.correlated_centers(
        key, *sizes.values(), rank=3, strength=strength
      )
    points = geometry.synthetic_manifolds(
      key, shape, num_points=20, dimension=D, radius=R, centers=centers, **sizes
    )
    raw = np.asarray(points)
    result = geometry.glue(jax.random.key(0), raw, num_probes=_T)
    simulation = geometry.simulated_capacity(
      jax.random.key(3), raw, num_draws=150
    )
    yield _row(
      "simulated capacity",
      f"GLUE: {case}",
      "capacity",
      result.capacity,
      np.hypot(result.capacity_stderr, simulation.stderr),
      simulation.capacity,
    )
    centered = raw - raw.mean(axis=(0, 1))
    simulation = geometry.simulated_capacity(
      jax.random.key(3), centered, num_draws=150
    )
    result = _mean_field(raw)
    yield _row(
      "simulated capacity",
      f"mean field: {case}",
      "capacity",
      result.mean_capacity,
      np.hypot(result.mean_capacity_stderr, simulation.stderr),
      simulation.capacity,
    )


def coverage() -> Iterator[runs.Row]:
  """Measures how often 1.96 standard errors cover the mean over all keys."""
  points = jnp.asarray(_iid(4, 6, 20, 40) + 2 * _iid(5, 6, 1, 40))
  stats, products = (
    make(points) for make in (geometry.gram_statistics, geometry.point_products)
  )
  repeats = 200
  calls: dict[str, Callable[[Any], dict[str, Any]]] = {
    "mean field": lambda key: {
      name: (getattr(g, f"mean_{name}"), getattr(g, f"mean_{name}_stderr"))
      for g in (
        geometry.manifold_geometry(key, stats, centers=None, num_probes=200),
      )
      for name in ("capacity", "radius", "dimension")
    },
    "GLUE": lambda key: {
      name: (getattr(g, name), getattr(g, f"{name}_stderr"))
      for g in (geometry.glue(key, products, num_probes=200),)
      for name in ("capacity", "radius", "dimension", "utility")
    },
  }
  for theory, call in calls.items():
    results = [call(jax.random.key(100 + i)) for i in range(repeats)]
    for name in results[0]:
      values, errors = (
        np.array([float(result[name][i]) for result in results]) for i in (0, 1)
      )
      inside = np.abs(values - values.mean()) < 1.96 * errors
      yield _row(
        "error bars",
        f"{theory}: {name} within 1.96 errors, {repeats} keys",
        "coverage",
        inside.mean(),
        np.sqrt(0.95 * 0.05 / repeats),
        0.95,
      )


def precision() -> Iterator[runs.Row]:
  """Compares float32 with float64, whose probes differ but are many.

  Centre directions are kept: where several have nearly equal cost, different
  draws and different rounding would remove different ones.
  """
  base = _iid(6, 8, 20, 300) + 3 * _iid(7, 8, 1, 300)
  cases = {
    "as it is": base,
    "offset of 100": base + 100,
    "scale 1e-12": base * np.float32(1e-12),
  }
  for case, points in cases.items():
    estimates = []
    for dtype in (np.float32, np.float64):
      with jax.enable_x64(dtype == np.float64):
        # Both types get the same points, with offsets added in float32.
        stats = geometry.gram_statistics(points.astype(dtype))
        measured = geometry.manifold_geometry(
          jax.random.key(0), stats, centers=None, num_probes=20_000
        )
        value = float(measured.mean_capacity)
        estimates.append((value, float(measured.mean_capacity_stderr) / value))
    (a, error_a), (b, error_b) = estimates
    yield _row(
      "float32 against float64",
      f"mean field, {case}: relative difference",
      "capacity",
      a / b - 1,
      np.hypot(error_a, error_b),
      0.0,
    )


def invariances() -> Iterator[runs.Row]:
  """Applies changes that must not affect the capacity, with the same probes."""
  points = _iid(8, 8, 20, 200) + 2 * _iid(9, 8, 1, 200)
  Q, _ = np.linalg.qr(np.random.default_rng(10).normal(size=(200, 200)))
  changes = {
    "features rotated": (points @ Q).astype("f4"),
    "features of zeros appended": np.concatenate(
      [points, np.zeros((8, 20, 50), "f4")], axis=2
    ),
    "scaled by 1e6": points * np.float32(1e6),
  }
  base = _mean_field(points).mean_capacity
  base_glue = geometry.glue(jax.random.key(0), points).capacity
  for case, changed in changes.items():
    value = _mean_field(changed).mean_capacity / base - 1
    yield _row(
      "invariances", f"mean field, {case}", "relative", abs(value), None, 0
    )
    value = geometry.glue(jax.random.key(0), changed).capacity / base_glue - 1
    yield _row("invariances", f"GLUE, {case}", "relative", abs(value), None, 0)


CHECKS = (exact_limits, simulated, coverage, precision, invariances)
