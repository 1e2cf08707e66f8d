"""Checks of the geometry against known results.

Each one yields a case, a metric, its value and standard error, and the value
that is expected.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geomem import geometry, runs

_T = 400

Result = tuple[str, str, Any, Any, Any]


def _iid(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _mean_field(key, points, names=("capacity",), **options) -> dict:
  """Returns mean-field numbers and their standard errors by name."""
  options = {"centers": None, "num_probes": _T} | options
  g = geometry.manifold_geometry(key, points, **options)
  return {
    name: (getattr(g, f"mean_{name}"), getattr(g, f"mean_{name}_stderr"))
    for name in names
  }


def _glue(key, points, names=("capacity",), num_probes: int = _T) -> dict:
  """Returns GLUE's numbers and their standard errors by name."""
  g = geometry.glue(key, points, num_probes=num_probes)
  return {
    name: (getattr(g, name), getattr(g, f"{name}_stderr")) for name in names
  }


def _with_negatives(points) -> np.ndarray:
  """Appends each manifold's negative, so that the mean of all points is 0.

  The package subtracts that mean; when it is 0 the lengths do not change.
  """
  points = np.asarray(points)
  return np.concatenate([points, -points])


def exact_limits() -> Iterator[Result]:
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
    options = {"num_probes": 300, "reduce_variance": False, "kappa": kappa}
    points = _with_negatives(points)
    measured = _mean_field(jax.random.key(0), points, **options)["capacity"]
    yield f"mean field, {case}", "capacity", *measured, expected
  for M in (1, 8):
    points = np.eye(48 * M, dtype="f4").reshape(48, M, -1)
    measured = _glue(jax.random.key(0), points)["capacity"]
    case = f"GLUE, orthonormal points, M = {M}: 2/M"
    yield case, "capacity", *measured, 2 / M


def simulated() -> Iterator[Result]:
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
    centered = raw - raw.mean(axis=(0, 1))
    for theory, measure, simulated_points in (
      ("GLUE", _glue, raw),
      ("mean field", _mean_field, centered),
    ):
      value, error = measure(jax.random.key(0), raw)["capacity"]
      simulation = geometry.simulated_capacity(
        jax.random.key(3), simulated_points, num_draws=150
      )
      error = np.hypot(error, simulation.stderr)
      yield f"{theory}: {case}", "capacity", value, error, simulation.capacity


def coverage() -> Iterator[Result]:
  """Measures how often 1.96 standard errors cover the mean over all keys."""
  points = jnp.asarray(_iid(4, 6, 20, 40) + 2 * _iid(5, 6, 1, 40))
  shared, repeats = ("capacity", "radius", "dimension"), 200
  for theory, measure, products, names in (
    ("mean field", _mean_field, geometry.gram_statistics(points), shared),
    ("GLUE", _glue, geometry.point_products(points), (*shared, "utility")),
  ):
    results = [
      measure(jax.random.key(100 + i), products, names, num_probes=200)
      for i in range(repeats)
    ]
    for name in names:
      values, errors = np.array([result[name] for result in results], float).T
      inside = np.abs(values - values.mean()) < 1.96 * errors
      case = f"{theory}: {name} within 1.96 errors, {repeats} keys"
      error = np.sqrt(0.95 * 0.05 / repeats)
      yield case, "coverage", inside.mean(), error, 0.95


def precision() -> Iterator[Result]:
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
        key, options = jax.random.key(0), {"num_probes": 20_000}
        value, error = _mean_field(key, stats, **options)["capacity"]
        estimates.append((float(value), float(error) / float(value)))
    (a, error_a), (b, error_b) = estimates
    case = f"mean field, {case}: relative difference"
    yield case, "capacity", a / b - 1, np.hypot(error_a, error_b), 0


def invariances() -> Iterator[Result]:
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
  theories = {"mean field": _mean_field, "GLUE": _glue}
  for case, changed in changes.items():
    for theory, measure in theories.items():
      (value, _), (base, _) = (
        measure(jax.random.key(0), x)["capacity"] for x in (changed, points)
      )
      yield f"{theory}, {case}", "relative", abs(value / base - 1), None, 0


# The checks by their names in the rows.
CHECKS: dict[str, Callable[[], Iterator[Result]]] = {
  "exact limits": exact_limits,
  "simulated capacity": simulated,
  "error bars": coverage,
  "float32 against float64": precision,
  "invariances": invariances,
}


def rows_of(name: str) -> list[runs.Row]:
  """Returns the rows of a check."""
  return [
    {
      "check": name,
      "case": case,
      "metric": metric,
      "value": float(value),
      "stderr": None if stderr is None else float(stderr),
      "expected": float(expected),
    }
    for case, metric, value, stderr, expected in CHECKS[name]()
  ]
