"""Speed and errors of our geometry, compared with other solvers."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import baselines
from geomem import geometry, runs, studies
from geomem.studies.fields import check_types

_NUM_MANIFOLDS = 10
_NUM_PROBES = 300
_NUM_EXACT = 100  # Problems for solvers that take one at a time.


def timed(run: Callable, repeats: int = 5) -> tuple[float, float]:
  """Returns the median seconds of a call and half the interquartile range."""
  run()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  low, median, high = np.percentile(seconds, (25, 50, 75))
  return float(median), float(high - low) / 2


def _problems(points: np.ndarray):
  """Returns frames `[P, M, D]` and probes `[P, T, D]` in float64."""
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
  """Times our solver, and returns F of the first `_NUM_EXACT` problems."""
  with jax.enable_x64(dtype == np.float64):
    frames, t = jnp.asarray(S, dtype), jnp.asarray(probes, dtype)
    G = jnp.einsum("pmd,pkd->pmk", frames, frames, precision="highest")
    b = kappa - jnp.einsum("ptd,pmd->ptm", t, frames, precision="highest")
    seconds, spread = timed(
      lambda: jax.block_until_ready(geometry.solve_nonnegative_qp(G, b))
    )
    solution = geometry.anchors(frames[0], t[0, :_NUM_EXACT], kappa)
  count = b.shape[0] * b.shape[1]
  return {
    "time": (seconds / count, spread / count),
    "force": np.asarray(solution.force, np.float64),
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
  """Yields the rows of one family at a time: times and errors of all solvers.

  The reference for errors is SciPy's NNLS in float64, on 100 probes of one
  manifold: the relative error of the capacity, and the largest error of any F,
  in units of max(F, 1).
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
      metrics = {
        "microseconds": (1e6 * value, 1e6 * spread),
        "capacity_error": (abs(exact.mean() / force.mean() - 1), None),
        "force_error": (worst.max(), None),
      }
      tags = {"family": family, "points": num_points, "kappa": kappa}
      rows += [
        tags | {"solver": name, "metric": m, "value": v, "stderr": e}
        for m, (v, e) in metrics.items()
      ]
    yield rows


def compare_layer(shape=(100, 50, 5000)) -> list[dict]:
  """Times the analysis of a whole layer, in geomem and in plain NumPy."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
  """What the benchmark times.

  Attributes:
    sizes: points of a manifold, M.
    kappas: margins κ.
    layer: whether to time a whole layer.
  """

  sizes: tuple[int, ...] = (20, 50, 100, 200)
  kappas: tuple[float, ...] = (0.0, 0.5)
  layer: bool = True

  def __post_init__(self):
    check_types(self)
    if min(self.sizes) < 1:
      raise ValueError(
        f"--sizes has {min(self.sizes)}; at least 1 was expected."
      )


class Benchmark:
  """Study that times our solver and a whole layer against alternatives."""

  name = "benchmark"
  figures: ClassVar[dict[str, Any]] = {}
  origin = None
  directory = pathlib.Path("runs/benchmark")

  def __init__(self, config: BenchmarkConfig, trained: None = None):
    """Stores the config; no finished run is needed."""
    del trained
    self.config = config

  def as_dict(self) -> dict[str, Any]:
    """Returns the config in the form that a run directory stores."""
    return {"experiment": self.name} | vars(self.config)

  def stages(self, run: runs.Run) -> Iterator[studies.Stage]:
    """Yields stages for the solvers, by M and κ, and one for a whole layer."""
    del run
    for size in self.config.sizes:
      for kappa in self.config.kappas:
        work = functools.partial(self._solvers, size, kappa)
        unit = studies.Unit({"points": size, "kappa": kappa}, work, 7)
        yield studies.Stage(f"M = {size}, κ = {kappa}", [unit])
    if self.config.layer:
      yield studies.Stage("layer", [studies.Unit({"layer": True}, self._layer)])

  def _solvers(self, size: int, kappa: float) -> Iterator[studies.Step]:
    for rows in compare_solvers(size, kappa):
      yield studies.Step(rows)

  def _layer(self) -> Iterator[studies.Step]:
    yield studies.Step(compare_layer())

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Returns no findings; the table shows the results."""
    del config, rows
    return []

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Tabulates times by family and solver, and largest errors by solver."""
    tables = [
      _table_of(of_size.where(kappa=kappa), size, kappa)
      for size, of_size in rows.split("points").items()
      for kappa in of_size.split("kappa")
    ]
    times = rows.where(("seconds", "first_call"))
    if times:
      tables.append(
        "A layer of 100 manifolds of 50 points in 5,000 features, seconds:\n"
        + "\n".join(
          f"  {row['solver']:28}{row['metric']:12}{row['value']:8.3f}"
          for row in times
        )
      )
    return "\n\n".join(tables)


def _table_of(rows: runs.Rows, size: int, kappa: float) -> str:
  names = rows.distinct("solver")
  lines = [f"M = {size}, κ = {kappa}: microseconds a problem (± spread)"]
  lines.append(f"{'':14}" + "".join(f"{name:>18}" for name in names))
  for family in rows.distinct("family"):
    family_rows = rows.where("microseconds", family=family)
    cells = [family_rows.where(solver=name)[0] for name in names]
    lines.append(
      f"{family:14}"
      + "".join(f"{c['value']:11.2f} ± {c['stderr']:4.1f}" for c in cells)
    )
  for metric in ("capacity_error", "force_error"):
    worst = [max(rows.where(metric, solver=n).values) for n in names]
    lines.append(f"{metric:14}" + "".join(f"{w:18.1e}" for w in worst))
  return "\n".join(lines)
