"""The cores of one processor share manifold sets out, and none waits for ever.

Devices are made once in a process, so that each test has processes of its own.
"""

import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from geomem import geometry, measures
from geomem.measures import layers
from tests.parallel_test import ROOT

# Threads that wait for each other do so for ever; this takes some ten seconds.
PATIENCE = 240

START = """
import os, pickle, sys
cores = int(sys.argv[1])
os.sched_getaffinity = lambda process: range(cores)
from geomem import parallel, shares, studies
parallel.start()
import jax
from tests import parallel_worker, shares_test
assert (jax.device_count(), parallel.mesh().size) == (cores, 1)
"""

MEASURE = f"""{START}
small = jax.numpy.zeros((4, 10))
assert shares.devices_for(small).size == cores
shares._MOST_BYTES_A_CORE = 39
assert shares.devices_for(small).size == 1
shares._MOST_BYTES_A_CORE = 2**25
pickle.dump(shares_test.measured(), sys.stdout.buffer)
"""

# One run for each path that follows. That of the last ends by itself after so
# many steps: the bar's, of training and measuring.
RUNS = f"""{START}
*calm, last, left = *sys.argv[2:-1], int(sys.argv[-1])

class Bar(parallel_worker.Bar):
  def update(self, size=1):
    global left
    left -= size
    if left == 0:
      os._exit(9)

study = studies.Memorization(parallel_worker.CONFIG)
for path in calm:
  studies.run(study, path)
studies.run(study, last, progress=Bar)
"""

TWO_THREADS = """
import concurrent.futures
import jax
from geomem import geometry
from tests.shares_test import points

def measure(seed):
  key = jax.random.key(seed)
  found = geometry.manifold_geometry(key, points(seed, 30), num_probes=20)
  glue = geometry.glue(key, points(seed)[:, :20], num_probes=20)
  return found.rank, glue.capacity

first = measure(0)
with concurrent.futures.ThreadPoolExecutor(2) as pool:
  assert list(pool.map(measure, [0] * 12)) == [first] * 12
"""


def points(seed: int, P: int = 6) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.normal(size=(P, 1, 40)) + 0.5 * rng.normal(size=(P, 50, 40))


def measured() -> dict:
  """Measures two layers of two subsets: four sets, which the cores share."""
  stats = [geometry.gram_statistics(points(seed)) for seed in range(4)]
  stacked = jax.tree.map(
    lambda *xs: jax.numpy.stack(xs).reshape(2, 2, *xs[0].shape), *stats
  )
  chosen = (measures.MEASURES["mean_field"], measures.MEASURES["collapse"])
  options = measures.Options(num_probes=30)
  return layers.measure(
    jax.random.key(3), chosen, {"manifolds": stacked}, options
  )


def run(code: str, *arguments, status: int = 0) -> bytes:
  told = "JAX_NUM_CPU_DEVICES"
  found = subprocess.run(
    [sys.executable, "-c", code, *map(str, arguments)],
    cwd=ROOT,
    env={name: value for name, value in os.environ.items() if name != told},
    capture_output=True,
    timeout=PATIENCE,
    check=False,
  )
  assert found.returncode == status, found.stderr.decode()[-3000:]
  return found.stdout


def test_cores_find_what_one_device_finds():
  found, expected = pickle.loads(run(MEASURE, 3)), measured()
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for value, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert value.shape == (2, 2)
    np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-5)
  capacity = found["mean_field"]["capacity"][0]
  assert len(np.unique(capacity)) == 4, "each set has numbers of its own"


@pytest.mark.long
def test_killed_on_many_cores_it_ends_with_the_same_rows(tmp_path):
  """Three epochs of training, and after some layers the end."""
  run(RUNS, 2, tmp_path / "calm", tmp_path / "killed", 6, status=9)
  begun = (tmp_path / "killed" / "results.jsonl").read_bytes()
  run(RUNS, 2, tmp_path / "killed", -1)
  calm, killed = (
    (tmp_path / name / "results.jsonl").read_bytes()
    for name in ("calm", "killed")
  )
  assert killed == calm
  assert b"capacity" in begun
  assert len(begun) < len(calm)


@pytest.mark.long
def test_two_threads_do_not_wait_for_each_other():
  """JAX shares factorizations out to the threads that run programs."""
  run(TWO_THREADS)
