"""Speed and errors of our geometry, compared with other solvers."""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import baselines
from benchmarks.timing import Timing, timed
from geomem import geometry, runs, studies
from geomem.studies.fields import Fields

_NUM_MANIFOLDS = 10
_NUM_PROBES = 300
_NUM_EXACT = 100  # Problems for solvers that take one at a time.


class _Result(NamedTuple):
  """The time of `count` problems, and F of the first `_NUM_EXACT` of them."""

  timing: Timing
  count: int
  force: np.ndarray


def _dual(frames, t, kappa) -> tuple[jax.Array, jax.Array]:
  """Returns G and b of the problems of all frames and probes."""
  G = jnp.einsum("pmd,pkd->pmk", frames, frames, precision="highest")
  b = kappa - jnp.einsum("ptd,pmd->ptm", t, frames, precision="highest")
  return G, b


def _ours(S, probes, kappa, dtype) -> _Result:
  with jax.enable_x64(dtype == np.float64):
    frames, t = jnp.asarray(S, dtype), jnp.asarray(probes, dtype)
    G, b = _dual(frames, t, kappa)
    timing = timed(lambda: geometry.solve_nonnegative_qp(G, b))
    solution = geometry.anchors(frames[0], t[0, :_NUM_EXACT], kappa)
  force = np.asarray(solution.force, np.float64)
  return _Result(timing, b.shape[0] * b.shape[1], force)


def _one_by_one(solver, S, probes, kappa) -> _Result:
  def solve():
    return [solver(S[0], t, kappa) for t in probes[0, :_NUM_EXACT]]

  return _Result(timed(solve, repeats=3), _NUM_EXACT, np.asarray(solve()))


def _stock(S, probes, kappa) -> _Result:
  frames, t = (
    jnp.asarray(x, jnp.float32) for x in (S[:1], probes[:1, :_NUM_EXACT])
  )
  G, b = _dual(frames, t, kappa)
  solve = functools.partial(baselines.stock_jaxopt(), G, b)
  lam = np.asarray(solve()[0], np.float64)
  force = np.einsum("tm,mk,tk->t", lam, np.asarray(G[0], np.float64), lam)
  return _Result(timed(solve, repeats=3), _NUM_EXACT, force)


def compare_solvers(num_points: int, kappa: float) -> Iterator[list[dict]]:
  """Yields the rows of one family at a time: times and errors of all solvers.

  The reference for errors is SciPy's NNLS in float64, on 100 probes of one
  manifold: the relative error of the capacity, and the largest error of any F,
  in units of max(F, 1).
  """
  points = baselines.families(_NUM_MANIFOLDS, num_points)
  for family, cloud in points.items():
    S = np.stack(list(baselines.frames(cloud)))
    shape = (len(S), _NUM_PROBES, S.shape[2])
    probes = np.random.default_rng(1).normal(size=shape)
    results = {
      "geomem float32": _ours(S, probes, kappa, np.float32),
      "geomem float64": _ours(S, probes, kappa, np.float64),
    }
    for name, solver in baselines.solvers().items():
      results[name] = _one_by_one(solver, S, probes, kappa)
    if num_points <= 50:
      results["jaxopt BoxCDQP"] = _stock(S, probes, kappa)
    exact = results["scipy nnls"].force
    rows = []
    for name, (timing, count, force) in results.items():
      worst = np.abs(force - exact) / np.maximum(exact, 1)
      each = 1e6 / count
      metrics = {
        "microseconds": (each * timing.median, each * timing.spread),
        "capacity_error": (abs(exact.mean() / force.mean() - 1), None),
        "force_error": (worst.max(), None),
      }
      tags = {"family": family, "points": num_points, "kappa": kappa}
      rows += _rows(metrics, **tags, solver=name)
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
    timing = timed(call)
    metrics = {
      "first_call": (timing.first, None),
      "seconds": (timing.median, timing.spread),
    }
    rows += _rows(metrics, family="layer", solver=name)
  start = time.perf_counter()
  baselines.analyse_layer(points, _NUM_PROBES)
  metrics = {"seconds": (time.perf_counter() - start, None)}
  solver = "numpy + nnls, centres kept"
  return rows + _rows(metrics, family="layer", solver=solver)


def _rows(metrics: dict[str, tuple], **tags) -> list[dict]:
  """Makes rows of values and of half their interquartile ranges, or None."""
  return [
    tags | {"metric": metric, "value": value, "spread": spread}
    for metric, (value, spread) in metrics.items()
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Fields):
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
    super().__post_init__()
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
    for size, kappa in itertools.product(self.config.sizes, self.config.kappas):
      unit = studies.Unit(
        {"points": size, "kappa": kappa},
        lambda size=size, kappa=kappa: map(
          studies.Step, compare_solvers(size, kappa)
        ),
        7,
      )
      yield studies.Stage(f"M = {size}, κ = {kappa}", [unit])
    if self.config.layer:
      unit = studies.Unit(
        {"layer": True}, lambda: iter([studies.Step(compare_layer())])
      )
      yield studies.Stage("layer", [unit])

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
      + "".join(f"{c['value']:11.2f} ± {c['spread']:4.1f}" for c in cells)
    )
  for metric in ("capacity_error", "force_error"):
    worst = [max(rows.where(metric, solver=n).values) for n in names]
    lines.append(f"{metric:14}" + "".join(f"{w:18.1e}" for w in worst))
  return "\n".join(lines)
