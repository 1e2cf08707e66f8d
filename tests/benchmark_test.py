"""The benchmark: its solvers agree, and its table says what was timed."""

import jax
import numpy as np
import pytest

from benchmarks import baselines, glue
from benchmarks.benchmark import Benchmark, BenchmarkConfig, compare_solvers
from geomem import geometry, runs, studies


def test_the_other_solvers_are_right():
  """SciPy's projection against the conditions that only the optimum meets."""
  rng = np.random.default_rng(0)
  S, t = (
    np.hstack([rng.normal(size=(9, 4)), np.ones((9, 1))]),
    rng.normal(size=5),
  )
  kappa = 0.3
  found = {n: solve(S, t, kappa) for n, solve in baselines.solvers().items()}
  # By brute force: the least distance to any feasible set of active points.
  best = np.inf
  for active in range(2**9):
    chosen = [i for i in range(9) if active >> i & 1]
    A = S[chosen]
    v = t + np.linalg.pinv(A) @ (kappa - A @ t) if chosen else t
    if (S @ v >= kappa - 1e-9).all():
      best = min(best, ((v - t) ** 2).sum())
  assert found["scipy nnls"] == pytest.approx(best, rel=1e-6)
  assert list(found.values()) == pytest.approx([best] * len(found), rel=1e-6)


@pytest.fixture(scope="module")
def rows():
  families = compare_solvers(6, 0.5)
  return runs.Rows(dict.fromkeys(runs.COLUMNS) | row for row in next(families))


def test_every_solver_is_timed_and_ours_has_the_right_forces(rows):
  assert set(rows.distinct("metric")) == {
    "microseconds",
    "capacity_error",
    "force_error",
  }
  names = rows.distinct("solver")
  assert {"geomem float32", "geomem float64", "scipy nnls"} <= set(names)
  assert (rows.where("microseconds").values > 0).all()
  for name, bound in (("float32", 1e-5), ("float64", 1e-9)):
    errors = rows.where("force_error", solver=f"geomem {name}").values
    assert errors.max() < bound


def test_the_table_has_the_times_and_the_errors(rows):
  table = Benchmark.table(rows)
  for row in rows.where("microseconds"):
    assert f"{row['value']:11.2f} ± {row['spread']:4.1f}" in table
  assert f"{max(rows.where('force_error').values):18.1e}" in table


def test_a_benchmark_is_a_study(tmp_path, monkeypatch):
  monkeypatch.setattr(
    "benchmarks.benchmark.compare_solvers",
    lambda size, kappa: iter(
      [[{"metric": "x", "value": size, "points": size}]]
    ),
  )
  config = BenchmarkConfig(sizes=(3, 4), kappas=(0.0,), layer=False)
  rows = studies.run(Benchmark(config), tmp_path)
  assert rows.values.tolist() == [3, 4]
  other = Benchmark(BenchmarkConfig(sizes=(3,), kappas=(0.0,), layer=False))
  with pytest.raises(runs.RunError, match="sizes differs"):
    studies.run(other, tmp_path)


def test_a_loop_over_nnls_finds_the_capacity_of_glue():
  size = glue.Size("spheres", 4, 12, 40)
  points = glue.draw(size)
  _, capacity, error = glue.by_nnls(points, 400)
  found = geometry.glue(jax.random.key(0), points, num_probes=400)
  apart = np.hypot(error, found.capacity_stderr)
  assert abs(found.capacity - capacity) < 4 * apart
  assert apart < 0.05 * capacity
