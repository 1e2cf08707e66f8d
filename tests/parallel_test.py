"""Many devices and several hosts give the numbers of one device."""

import os
import pathlib
import pickle
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry, parallel, runs, training
from geomem.measures import activations
from geomem.runs import shared
from tests import parallel_worker as worker

ROOT = pathlib.Path(__file__).parent.parent
# Rounding of the activations, and what the geometry makes of it.
TOLERANCES = {"accuracy": 1e-5, "loss": 1e-5, "recovered": 1e-5}
OF_GEOMETRY = 2e-3


def start(path, *processes, devices=1) -> subprocess.Popen:
  # Whoever starts again finds its programs compiled.
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(path / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "JAX_PLATFORMS": "cpu",
  }
  command = [sys.executable, "-m", "tests.parallel_worker", path, *processes]
  return subprocess.Popen(
    list(map(str, command)),
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(path) -> list[subprocess.Popen]:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  return [start(path, address, 2, number) for number in range(2)]


def expect_success(process) -> None:
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
  """The run of this process, which has one device."""
  assert jax.device_count() == 1
  path = tmp_path_factory.mktemp("one") / "run"
  worker.do_run(path)
  return path


@pytest.fixture(scope="module")
def numbers():
  """Of this process."""
  return worker.find_numbers()


def assert_same_rows(path, expected) -> None:
  rows, others = (
    {
      tuple((k, v) for k, v in row.items() if k not in ("value", "stderr")): row
      for row in runs.read_rows(p)
    }
    for p in (path, expected)
  )
  assert rows.keys() == others.keys()
  for row, other in zip(rows.values(), (others[k] for k in rows), strict=True):
    if row["metric"] == "residual":  # Rounding itself.
      continue
    tolerance = TOLERANCES.get(row["metric"], OF_GEOMETRY)
    assert row["value"] == pytest.approx(
      other["value"], rel=tolerance, nan_ok=True
    ), row


@pytest.mark.slow
def test_eight_devices_equal_one(one_device, numbers, tmp_path):
  network = worker.make_network()
  state = network.init(jax.random.key(4))
  with training.Checkpoints(tmp_path / "saved") as saved:
    saved.save(1, state)
  expect_success(start(tmp_path, devices=8))
  for part in ("", "rewind"):
    assert_same_rows(tmp_path / "run" / part, one_device / part)
  found = pickle.loads((tmp_path / "found.pickle").read_bytes())
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6),
    found.pop("geometry"),
    worker.find_geometry(),
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max()
    ),
    found,
    numbers,
  )
  # Saved by one device, loaded and saved by eight, loaded by one.
  with training.Checkpoints(tmp_path / "saved") as saved:
    loaded = saved.load(2, state)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, y + 1), loaded, state
  )


@pytest.mark.long
def test_two_processes_killed_and_resumed_equal_one(one_device, tmp_path):
  killed = start_two(tmp_path)
  for line in killed[0].stdout:
    if line == "epoch 2\n":
      break
  for process in killed:
    process.kill()
    process.communicate()
  rows = runs.read_rows(tmp_path / "run")
  assert {row["epoch"] for row in rows} == {0, 1, 2}
  for process in start_two(tmp_path):
    expect_success(process)
  worker.do_capacity(one_device)
  for part in ("", "rewind", "capacity"):
    assert_same_rows(tmp_path / "run" / part, one_device / part)


@pytest.fixture
def two_processes(monkeypatch):
  """This process as the first of two; returns which checked value differs."""
  differs = []

  def gather(sums):
    found = np.stack([sums, sums])
    if differs and differs[0] < len(sums):
      found[1, differs[0]] += 1
    if differs:
      differs[0] -= len(sums)
    return found

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(parallel, "from_first", lambda function: function())
  monkeypatch.setattr(parallel.multihost_utils, "process_allgather", gather)
  return differs


def test_processes_that_differ_do_not_work_together(two_processes, tmp_path):
  origin = {"data": "1f", "run": {"path": "/runs/a", "id": "2e"}}
  fields = {"width": 4, "data_dir": "/data"}
  told = []
  for position in range(4):
    two_processes[:] = [position]
    with pytest.raises(ValueError, match="Process 1 has another") as error:
      runs.open_run(tmp_path, fields, origin)
    told.append(
      re.search("another (.*?),? than process 0", str(error.value))[1]
    )
    runs.Run(tmp_path, fields, origin).close()  # It is not held.
  assert told == [
    "value of width",
    "version of geomem or JAX",
    "fingerprint of the data, or run",
    "run directory, --out",
  ]
  two_processes.clear()
  runs.open_run(tmp_path, fields, origin).close()


def test_processes_that_see_other_directories_do_not_work_together(
  two_processes, tmp_path, monkeypatch
):
  monkeypatch.setattr(shared, "_PATIENCE", 0.0)
  first, path = tmp_path / "first", tmp_path / "other"
  runs.Run(first, {}).close()
  with runs.open_run(path, {}) as other:
    place = other._identity()
    monkeypatch.setattr(parallel, "from_first", lambda _: place)
    assert other._identity() == place  # As both see it.
    other.path = first
    assert other._identity() not in (None, place)
    other.path = tmp_path / "nowhere"
    assert other._identity() is None


def test_what_the_first_process_does_alone_is_not_sent_twice(monkeypatch):
  # The others would take a message within for that of the whole.
  sent = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(parallel, "_broadcast", lambda x: sent.append(x) or x)

  def fail():
    return parallel.from_first(lambda: 1 / 0)

  assert parallel.from_first(lambda: parallel.from_first(lambda: 3) + 1) == 4
  with pytest.raises(ZeroDivisionError):
    parallel.from_first(fail)
  assert parallel.from_first(lambda: 5) == 5
  assert len(sent) == 3


def test_stops_are_not_left_to_jax(monkeypatch):
  # Its service for preemptions takes SIGTERM away from the binaries.
  seen = []
  name = "jax_enable_preemption_service"
  if not hasattr(jax.config, name):
    pytest.skip("JAX has no such option.")
  monkeypatch.setattr(
    jax.distributed,
    "initialize",
    lambda *given: seen.append((*given, getattr(jax.config, name))),
  )
  before = getattr(jax.config, name)
  try:
    parallel.start("localhost:1234", 2, 1)
    parallel.start(automatic=True)
  finally:
    jax.config.update(name, before)
  assert seen == [("localhost:1234", 2, 1, False), (False,)]


def test_two_passes_give_the_statistics_of_one(numbers):
  for layer, expected in numbers["one"].items():
    for name, value in expected.items():
      np.testing.assert_allclose(
        numbers["two"][layer][name],
        value,
        rtol=1e-5,
        atol=1e-5 * np.abs(value).max(),
      )


def test_blocks_of_manifolds_are_bounded():
  images = np.arange(6 * 4 * 10, dtype=np.float32).reshape(6, 4, 10)

  def forward(state, x):
    return {"layer": state * x}

  for limit, expected in ((1, 1), (4 * 4 * 10 * 5, 3), (2**20, 6)):
    blocks = list(
      activations.manifold_blocks(
        forward, 2.0, images, "layer", max_bytes=limit
      )
    )
    assert {len(block) for block in blocks} == {expected}
    np.testing.assert_array_equal(np.concatenate(blocks), 2 * images)


def test_what_is_not_finite_is_named_manifold_by_manifold():
  points = np.ones((4, 3, 5), np.float32)
  points[2, 1, 0] = np.inf
  with pytest.raises(ValueError, match="Point 1 of manifold 2"):
    geometry.statistics_by_manifold(lambda: iter([points[:2], points[2:]]))


def test_half_a_set_of_process_flags_is_refused():
  with pytest.raises(ValueError, match="all three"):
    parallel.start("localhost:1234", 2)


def test_bfloat16_computes_in_it_and_keeps_float32():
  network = worker.make_network(jnp.bfloat16)
  exact = worker.make_network()
  state = exact.init(jax.random.key(1))
  abstract = jax.tree.map(lambda x: x.dtype, network.abstract_state)
  assert abstract == jax.tree.map(lambda x: x.dtype, state)
  images = jax.random.normal(jax.random.key(0), (16, 6, 6, 1))
  output = network.apply(state, images, train=True)
  hidden = (output.activations[name] for name in ("conv1", "conv2"))
  assert {x.dtype for x in hidden} == {jnp.dtype("bfloat16")}
  kept = [output.logits, *jax.tree.leaves(output.state)]
  assert {x.dtype for x in kept} == {jnp.dtype("float32")}
  logits = exact.apply(state, images, train=True).logits
  error = jnp.abs(output.logits - logits).max() / jnp.abs(logits).max()
  assert 1e-4 < error < 0.05
