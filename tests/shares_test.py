"""The cores of one processor share manifold sets out, and none waits for ever.

Devices are made once in a process, so that each test has one of its own.
"""

import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from geomem import geometry, measures
from geomem.measures import layers
from tests.parallel_test import ROOT

# Threads that wait for each other do so for ever; this takes some 30 seconds.
PATIENCE = 240

MEASURE = """
import os, pickle, sys
os.sched_getaffinity = lambda process: range(3)
from geomem import parallel, shares
parallel.start()
import jax
from tests import shares_test
assert (jax.device_count(), parallel.mesh().size) == (3, 1)
small = jax.numpy.zeros((4, 10))
assert shares.devices_for(small).size == 3
shares._MOST_BYTES_A_CORE = 39
assert shares.devices_for(small).size == 1
shares._MOST_BYTES_A_CORE = 2**25
pickle.dump(shares_test.measured(), sys.stdout.buffer)
"""

TWO_THREADS = """
import concurrent.futures
import jax
from geomem import geometry
from tests.shares_test import points

def measure(seed):
  key = jax.random.key(seed)
  return geometry.manifold_geometry(key, points(seed, 30), num_probes=20).rank

first = measure(0)
with concurrent.futures.ThreadPoolExecutor(2) as pool:
  assert list(pool.map(measure, [0] * 12)) == [first] * 12
"""


def points(seed: int, P: int = 6) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.normal(size=(P, 1, 40)) + 0.5 * rng.normal(size=(P, 50, 40))


def measured() -> dict:
  """Measures two layers of two subsets: four sets, which three cores share."""
  stats = [geometry.gram_statistics(points(seed)) for seed in range(4)]
  stacked = jax.tree.map(
    lambda *xs: jax.numpy.stack(xs).reshape(2, 2, *xs[0].shape), *stats
  )
  chosen = (measures.MEASURES["mean_field"], measures.MEASURES["collapse"])
  options = measures.Options(num_probes=30)
  return layers.measure(
    jax.random.key(3), chosen, {"manifolds": stacked}, options
  )


def run(code: str) -> bytes:
  found = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    timeout=PATIENCE,
    check=False,
  )
  assert found.returncode == 0, found.stderr.decode()[-3000:]
  return found.stdout


def test_cores_find_what_one_device_finds():
  found, expected = pickle.loads(run(MEASURE)), measured()
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for value, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert value.shape == (2, 2)
    np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-5)
  capacity = found["mean_field"]["capacity"][0]
  assert len(np.unique(capacity)) == 4, "each set has numbers of its own"


@pytest.mark.slow
def test_two_threads_do_not_wait_for_each_other():
  """JAX shares factorizations out to the threads that run programs."""
  run(TWO_THREADS)
