"""Alternatives to `geomem.geometry`, for comparison.

Solvers of one quadratic programme, v = argmin ½‖v − t‖² subject to S v ≥ κ, and
a straightforward analysis of a layer in NumPy.
"""

import importlib.util
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from geomem import data

# (S, t, κ) -> F = ‖v − t‖².
Solver = Callable[[np.ndarray, np.ndarray, float], float]


def force_by_nnls(S: np.ndarray, t: np.ndarray, kappa: float) -> float:
  """Computes F by SciPy, as the squared projection on the points' cone."""
  shifted = t.copy()
  shifted[-1] -= kappa  # The last column of S is 1, so κ shifts the probe.
  lam, _ = optimize.nnls(S.T, -shifted)
  return float(((lam @ S) ** 2).sum())


def _force_by_daqp(S, t, kappa):
  import daqp

  upper = np.full(len(S), 1e30)
  lower = np.full(len(S), float(kappa))
  eye = np.eye(len(t))
  v, *_ = daqp.solve(eye, -t, S, upper, lower, np.zeros(len(S), np.int32))
  return float(((v - t) ** 2).sum())


def _force_by_quadprog(S, t, kappa):
  import quadprog

  v, *_ = quadprog.solve_qp(
    np.eye(len(t)), t, np.ascontiguousarray(S.T), np.full(len(S), kappa)
  )
  return float(((v - t) ** 2).sum())


def solvers() -> dict[str, Solver]:
  """Returns the installed solvers; the extra `bench` has DAQP and quadprog."""
  installed = {"scipy nnls": force_by_nnls}
  for name, solver in (
    ("daqp", _force_by_daqp),
    ("quadprog", _force_by_quadprog),
  ):
    if importlib.util.find_spec(name):
      installed[name] = solver
  return installed


def stock_jaxopt():
  """Returns JAXopt's batched box-constrained coordinate descent, (G, b) → λ."""
  from jaxopt import BoxCDQP

  solver = BoxCDQP(tol=1e-5, maxiter=2000)

  def solve(G, b):
    bounds = (jnp.zeros_like(b), jnp.full_like(b, 1e6))
    start = jnp.zeros_like(b)
    return solver.run(start, params_obj=(G, -b), params_ineq=bounds).params

  return jax.jit(jax.vmap(jax.vmap(solve, (None, 0))))


def frames(points: np.ndarray) -> Iterator[np.ndarray]:
  """Yields S of each manifold of `[P, M, N]` points, in float64."""
  points = points.astype(np.float64)
  for manifold in points - points.mean(axis=(0, 1)):
    center = manifold.mean(axis=0)
    relative = (manifold - center) / np.linalg.norm(center)
    R = np.linalg.qr(relative.T, mode="r").T
    yield np.hstack([R, np.ones((len(R), 1))])


def analyse_layer(points: np.ndarray, num_probes: int) -> float:
  """Computes the mean capacity of `[P, M, N]` points, probe by probe."""
  rng = np.random.default_rng(0)
  inverse = []
  for S in frames(points):
    probes = rng.normal(size=(num_probes, S.shape[1]))
    inverse.append(np.mean([force_by_nnls(S, t, 0.0) for t in probes]))
  return 1 / float(np.mean(inverse))


def _digit_pixels(rng, num_manifolds, num_points):
  digits = data.load("digits", "train")
  images = digits.images.reshape(len(digits.images), -1).astype(np.float64)
  chosen = [
    rng.choice(
      np.flatnonzero(digits.labels == c % 10), num_points, replace=True
    )
    for c in range(num_manifolds)
  ]
  # Small classes yield copies of images; a little noise tells them apart.
  points = images[np.stack(chosen)]
  return points + 0.1 * rng.normal(size=points.shape)


def families(
  num_manifolds: int, num_points: int, num_features: int = 500
) -> dict[str, np.ndarray]:
  """Returns the families of `[P, M, N]` points that solvers are compared on."""
  rng = np.random.default_rng(0)
  shape = (num_manifolds, num_points, num_features)
  unit = 1 / np.sqrt(num_features)
  centers = unit * rng.normal(size=(num_manifolds, 1, num_features))
  points = {
    f"cloud R={radius:g}": centers + radius * unit * rng.normal(size=shape)
    for radius in (0.3, 1.0, 3.0, 10.0)
  }
  points["iid noise"] = rng.normal(size=shape)
  points["digit pixels"] = _digit_pixels(rng, num_manifolds, num_points)
  weights = rng.normal(size=(points["digit pixels"].shape[-1], num_features))
  points["random ReLU"] = np.maximum(points["digit pixels"] @ weights, 0)
  return points
