"""The speed and the errors of the geometry beside those of other solvers."""

import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from geomem import geometry
from geomem.analysis import baselines

_NUM_MANIFOLDS = 10
_NUM_PROBES = 300
_NUM_EXACT = 100  # Problems for the solvers that take them one by one.


def timed(run: Callable, repeats: int = 5) -> tuple[float, float]:
  """Median seconds of a call, and half the range between its quartiles."""
  run()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  low, median, high = np.percentile(seconds, (25, 50, 75))
  return float(median), float(high - low) / 2


def _problems(points: np.ndarray):
  """Frames `[P, M, D]` and probes `[P, T, D]` in float64."""
  rng = np.random.default_rng(1)
  points = points - points.mean(axis=(0, 1))
  frames = []
  for manifold in points:
    center = manifold.mean(axis=0)
    relative = (manifold - center) / np.linalg.norm(center)
    R = np.linalg.qr(relative.T, mode="r").T
    frames.append(np.hstack([R, np.ones((len(R), 1))]))
  frames = np.stack(frames)
  return frames, rng.normal(size=(len(frames), _NUM_PROBES, frames.shape[2]))


def _ours(S, probes, kappa, dtype) -> dict:
  """Time for each problem, and F of those that are solved exactly too."""
  with jax.enable_x64(dtype == np.float64):
    frames, t = jnp.asarray(S, dtype), jnp.asarray(probes, dtype)
    G = jnp.einsum("pmd,pkd->pmk", frames, frames, precision="highest")
    b = kappa - jnp.einsum("ptd,pmd->ptm", t, frames, precision="highest")
    seconds, spread = timed(
      lambda: jax.block_until_ready(geometry.solve_nonnegative_qp(G, b))
    )
    found = geometry.anchors(frames[0], t[0, :_NUM_EXACT], kappa)
  count = b.shape[0] * b.shape[1]
  return {
    "time": (seconds / count, spread / count),
    "force": np.asarray(found.force, np.float64),
  }


def _one_by_one(solver, S, probes, kappa) -> dict:
  def run():
    return [solver(S[0], t, kappa) for t in probes[0, :_NUM_EXACT]]

  seconds, spread = timed(run, repeats=3)
  return {
    "time": (seconds / _NUM_EXACT, spread / _NUM_EXACT),
    "force": np.asarray(run()),
  }


def _stock(S, probes, kappa) -> dict:
  frames = jnp.asarray(S[:1], jnp.float32)
  t = jnp.asarray(probes[:1, :_NUM_EXACT], jnp.float32)
  G = jnp.einsum("pmd,pkd->pmk", frames, frames, precision="highest")
  b = kappa - jnp.einsum("ptd,pmd->ptm", t, frames, precision="highest")
  solve = baselines.stock_jaxopt()
  seconds, spread = timed(lambda: jax.block_until_ready(solve(G, b)), repeats=3)
  lam = np.asarray(solve(G, b)[0], np.float64)
  force = np.einsum("tm,mk,tk->t", lam, np.asarray(G[0], np.float64), lam)
  return {
    "time": (seconds / _NUM_EXACT, spread / _NUM_EXACT),
    "force": force,
  }


def compare_solvers(num_points: int, kappa: float) -> Iterator[list[dict]]:
  """Rows of every solver on each family: microseconds and errors.

  Errors are those of 100 probes of one manifold against SciPy's NNLS in
  float64: of the capacity, relative, and the worst of a single F, in units of
  max(F, 1).
  """
  points = baselines.families(_NUM_MANIFOLDS, num_points)
  for family, cloud in points.items():
    S, probes = _problems(cloud)
    results = {
      "geomem float32": _ours(S, probes, kappa, np.float32),
      "geomem float64": _ours(S, probes, kappa, np.float64),
    }
    for name, solver in baselines.solvers().items():
      results[name] = _one_by_one(solver, S, probes, kappa)
    if num_points <= 50:
      results["jaxopt BoxCDQP"] = _stock(S, probes, kappa)
    exact = results["scipy nnls"]["force"]
    rows = []
    for name, result in results.items():
      force, (value, spread) = result["force"], result["time"]
      worst = np.abs(force - exact) / np.maximum(exact, 1)
      found = {
        "microseconds": (1e6 * value, 1e6 * spread),
        "capacity_error": (abs(exact.mean() / force.mean() - 1), None),
        "force_error": (worst.max(), None),
      }
      tags = {"family": family, "points": num_points, "kappa": kappa}
      rows += [
        tags | {"solver": name, "metric": m, "value": v, "stderr": e}
        for m, (v, e) in found.items()
      ]
    yield rows


def compare_layer(shape=(100, 50, 5000)) -> list[dict]:
  """Rows of the seconds that a whole layer takes, here and in plain NumPy."""
  points = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  key = jax.random.key(0)
  stats = geometry.gram_statistics(points)
  calls = {
    "statistics": lambda: geometry.gram_statistics(points),
    "geomem": lambda: geometry.manifold_geometry(key, stats),
    "geomem, centres kept": lambda: geometry.manifold_geometry(
      key, stats, centers=None
    ),
  }
  rows = []
  for name, call in calls.items():
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    seconds, spread = timed(lambda call=call: jax.block_until_ready(call()))
    rows += [
      {"solver": name, "metric": "first_call", "value": first},
      {"solver": name, "metric": "seconds", "value": seconds, "stderr": spread},
    ]
  start = time.perf_counter()
  baselines.analyse_layer(points, _NUM_PROBES)
  rows.append(
    {
      "solver": "numpy + nnls, centres kept",
      "metric": "seconds",
      "value": time.perf_counter() - start,
    }
  )
  return [{"family": "layer"} | row for row in rows]
