"""Every binary, killed at random moments and started again each time.

Killed outright, or asked to stop, as by Ctrl-C or a batch system. GEOMEM_KILLS
says how often each; by default it is once, and some of the binaries.
"""

import os
import pathlib
import random
import re
import signal
import time

import pytest

from tests import binaries

KILLS = int(os.environ.get("GEOMEM_KILLS", "0"))
SMALL = {
  "num_classes": 3,
  "examples_per_class": 60,
  "epochs": 3,
  "batch_size": 30,
  "manifold_points": 5,
  "num_probes": 10,
}
MLP = SMALL | {"model": "mlp1", "width": 4}
# How a process ends by a signal.
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
# Of each binary its module, its flags, and whether it goes on with a run.
JOBS = {
  "memorization": ("memorization", MLP, False),
  "sweep": (
    "memorization",
    MLP | {"permuted_fraction": "0.3,0.6", "layers": "last", "epochs": 2},
    False,
  ),
  "model_size": ("model_size", SMALL | {"width": "2,3", "num_seeds": 2}, False),
  "rewind": ("rewind", {"epochs": "0,1,2"}, True),
  "gradients": ("gradients", {"draws": 2}, True),
  "capacity": (
    "capacity",
    {"num_draws": 5, "num_probes": 10, "num_shuffles": 2, "epochs": "last"},
    True,
  ),
  "measure": ("measure", {"num_probes": 10}, True),
}
# Every study is killed in its process by studies_test; these from without.
OFTEN = ("memorization",)

EXPERIMENTS = sorted(
  (pathlib.Path(__file__).parent.parent / "experiments").glob("*.py")
)


@pytest.fixture(scope="module")
def start():
  """Starts a binary: `start(name, options, out)` gives its process."""

  def start(module, flags, out, *more):
    log = f"{out}.log"
    return binaries.start(
      module, *more, stdout=log, stderr=log, out=out, **flags
    )

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


@pytest.mark.parametrize(
  "module",
  [
    path.stem
    for path in EXPERIMENTS
    if "if __name__ ==" in path.read_text() and path.stem != "__main__"
  ],
)
def test_help_teaches(module, start, tmp_path):
  _finish(start(module, {}, tmp_path / "no", "--help"), tmp_path / "no")
  told = (tmp_path / "no.log").read_text()
  what, flags = told.split("\nFlags:\n")
  assert f"python -m experiments {module} " in what
  assert re.search(r"^  --(out|run)=", flags, re.MULTILINE)
  assert all(len(line) <= 80 for line in told.splitlines())
  # Every flag says what it is.
  assert not re.search(r"^  --\S+\s*\n  --", flags, re.MULTILINE)
  # None has two defaults.
  assert not re.search(r"by default\W[^.-]*default depends", flags)
  assert not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS if KILLS else OFTEN)
def test_killed_at_any_moment_it_ends_with_the_same_rows(
  job, start, tmp_path, request
):
  module, flags, goes_on = JOBS[job]
  if goes_on:
    flags = flags | {"run": request.getfixturevalue("finished")}
  calm = tmp_path / "calm"
  _finish(start(module, flags, calm), calm)
  rng = random.Random(job)
  number, kills = 0, 0
  while kills < max(KILLS, 1):
    killed = tmp_path / f"killed{number}"
    process = start(module, flags, killed)
    # By the units of work that are done: compilation takes most of the time,
    # and of what was compiled before, a start takes no time at all.
    wanted = rng.randint(0, _units(calm))
    while process.is_alive() and _units(killed) < wanted:
      time.sleep(0.01)
    process.join(rng.uniform(0, 1))
    if not process.is_alive():
      _expect_the_same(process, killed, calm)
      number += 1  # From the start again: each kill shall meet work.
      continue
    kills += 1
    chosen = rng.choice(list(STATUS))
    os.kill(process.pid, chosen)
    process.join()
    # Killed, before it could take care of signals too, or done just then.
    assert process.exitcode in (0, STATUS[chosen], -chosen)
    if process.exitcode > 0:
      assert "resume with:" in pathlib.Path(f"{killed}.log").read_text()
  _expect_the_same(start(module, flags, killed), killed, calm)


def _expect_the_same(process, killed, calm) -> None:
  _finish(process, killed)
  assert "Traceback" not in pathlib.Path(f"{killed}.log").read_text()
  for name in ("results.jsonl", "*.png", "done"):
    assert _found(killed, name) == _found(calm, name)
  assert _results(killed) == _results(calm)
  assert not _found(killed, "*tmp*")
  assert not _found(killed, "*.partial")


def _units(path) -> int:
  """Counts the units that are done, of all cells of a sweep."""
  # Not by rglob: other directories may go while it looks into them.
  files = [path / "units.jsonl", *path.glob("*/units.jsonl")]
  return sum(x.read_bytes().count(b"\n") for x in files if x.exists())


def _results(path) -> dict[pathlib.Path, bytes]:
  names = _found(path, "results.jsonl")
  return {name: (path / name).read_bytes() for name in names}


def _found(path, name) -> set[pathlib.Path]:
  return {found.relative_to(path) for found in path.rglob(name)}
