"""Every binary, killed at random moments and started again each time.

GEOMEM_KILLS=20 kills each of them twenty times; a few by default.
"""

import multiprocessing
import os
import pathlib
import random
import runpy
import sys
import time

import pytest

KILLS = int(os.environ.get("GEOMEM_KILLS", "2"))
SMALL = {
  "num_classes": 3,
  "examples_per_class": 60,
  "epochs": 3,
  "batch_size": 30,
  "manifold_points": 5,
  "num_probes": 10,
}
MLP = SMALL | {"model": "mlp1", "width": 4}
# Of each binary its module, its flags, and whether it goes on with a run.
JOBS = {
  "memorization": ("memorization", MLP, False),
  "sweep": (
    "memorization",
    MLP | {"permuted_fraction": "0.3,0.6", "layers": "last", "epochs": 2},
    False,
  ),
  "model_size": ("model_size", SMALL | {"width": "2,3", "epochs": 2}, False),
  "rewind": ("rewind", {"epochs": "0,1,2"}, True),
  "gradients": ("gradients", {"draws": 2}, True),
  "capacity": (
    "capacity",
    {"num_draws": 2, "num_probes": 10, "num_shuffles": 2, "epochs": "last"},
    True,
  ),
}
# What all binaries import, and no device: their processes are forks of one
# that has it, and start at once.
SHARED = ["experiments.work", "experiments.flags"]


def _be_the_binary(module: str, arguments: list[str], log: str) -> None:
  with open(log, "a") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  sys.argv = [module, *arguments]
  runpy.run_module(f"experiments.{module}", run_name="__main__")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """Starts a binary: `start(name, options, out)` gives its process."""
  # What one compiled the next one need not.
  os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(SHARED)

  def start(module, flags, out):
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    arguments.append(f"--out={out}")
    process = context.Process(
      target=_be_the_binary, args=(module, arguments, f"{out}.log")
    )
    process.start()
    return process

  return start


def _finish(process, out) -> None:
  process.join()
  assert process.exitcode == 0, pathlib.Path(f"{out}.log").read_text()


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
  """A run that the other binaries go on with."""
  out = tmp_path_factory.mktemp("runs") / "finished"
  _finish(start("memorization", MLP, out), out)
  return out


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_killed_at_any_moment_it_ends_with_the_same_rows(
  job, start, tmp_path, request
):
  module, flags, goes_on = JOBS[job]
  if goes_on:
    flags = flags | {"run": request.getfixturevalue("finished")}
  calm, killed = tmp_path / "calm", tmp_path / "killed"
  began = time.monotonic()
  _finish(start(module, flags, calm), calm)
  duration = time.monotonic() - began
  rng = random.Random(job)
  for _ in range(KILLS):
    process = start(module, flags, killed)
    process.join(rng.uniform(0, duration))
    process.kill()
    process.join()
  _finish(start(module, flags, killed), killed)
  for name in ("results.jsonl", "*.png", "done"):
    assert _found(killed, name) == _found(calm, name)
  for path in calm.rglob("results.jsonl"):
    there = killed / path.relative_to(calm)
    assert there.read_bytes() == path.read_bytes()
  assert not _found(killed, "*tmp*")
  assert not _found(killed, "*.partial")


def _found(path, name) -> set[pathlib.Path]:
  return {found.relative_to(path) for found in path.rglob(name)}
