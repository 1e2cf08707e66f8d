"""Small copies of runs: what is in them, and that studies go on from them."""

import json
import logging
import shutil
import socket
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import paper as binary
from geomem import runs, studies, training
from geomem.studies import paper
from geomem.studies.packing import pack, size_of
from geomem.studies.paper import estimates
from geomem.studies.rewind import LayerRewind
from tests.binaries import execute
from tests.fakes import SMALL_RUN, draw_as_png

REWIND = {"kinds": ("suffix",)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of two seeds and three epochs, with a rewind of it."""
  path = tmp_path_factory.mktemp("whole") / "run"
  studies.run(studies.Memorization(studies.make_config(**SMALL_RUN)), path)
  rewind(path)
  return path


def rewind(path, **fields):
  config = studies.RewindConfig(**REWIND | fields)
  return studies.run(LayerRewind(config, studies.TrainedRun(path)))


def contents(path) -> dict:
  """All files but those of networks."""
  return {
    file.relative_to(path): file.read_bytes()
    for file in path.rglob("*")
    if file.is_file()
    and file.name != ".lock"
    and "checkpoints" not in file.parts
  }


def network(path, seed, epoch):
  return studies.TrainedRun(path).state(seed, epoch)


def test_a_copy_has_all_but_the_other_networks(whole, tmp_path):
  before = contents(whole)
  (found,) = pack(whole, tmp_path / "small", networks="last,1")
  assert contents(tmp_path / "small") == before == contents(whole)
  last = runs.read_rows(whole).epochs("last")
  trained = studies.TrainedRun(tmp_path / "small")
  for seed, epoch in last.items():
    assert found.epochs[seed] == sorted({1, epoch})
    assert trained.epochs(seed) == found.epochs[seed]
    # Exactly.
    for kept in found.epochs[seed]:
      jax.tree.map(
        np.testing.assert_array_equal,
        network(tmp_path / "small", seed, kept),
        network(whole, seed, kept),
      )
  assert size_of(tmp_path / "small") < size_of(whole)


def test_studies_go_on_from_it_with_the_same_numbers(whole, tmp_path):
  small = tmp_path / "small"
  pack(whole, small, networks="best,last,first")
  fields = {"kinds": ("prefix",), "epochs": (0, 2)}
  here, there = rewind(whole, **fields), rewind(small, **fields)
  assert here == there


def test_without_networks_it_has_its_rows_and_says_what_it_lacks(
  whole, tmp_path, monkeypatch
):
  small = tmp_path / "small"
  (found,) = pack(whole, small, networks="none")
  assert found.epochs == {0: [], 1: []}
  assert contents(small) == contents(whole)
  # It is complete as ever, and can be drawn.
  config = studies.make_config(**SMALL_RUN)
  studies.run(studies.Memorization(config), small)
  draw_as_png(monkeypatch)
  assert studies.draw(small)
  with pytest.raises(training.CheckpointError, match="no checkpoints in"):
    rewind(small, kinds=("prefix",))
  first = tmp_path / "first"
  pack(whole, first, networks="0")
  config = studies.MeasuringConfig(measure_epochs="last")
  with pytest.raises(
    ValueError, match=r"no network of measure_epochs last; .* epochs 0\."
  ):
    studies.Measuring(config, studies.TrainedRun(first))


def test_rounded_networks_are_marked_in_all_that_comes_from_them(
  whole, tmp_path, caplog
):
  small = tmp_path / "small"
  pack(whole, small, networks="all", dtype="bfloat16")
  exact, rounded = network(whole, 0, 2), network(small, 0, 2)
  for a, b in zip(*map(jax.tree.leaves, (exact, rounded)), strict=True):
    assert b.dtype == a.dtype
    np.testing.assert_array_equal(a.astype(jnp.bfloat16).astype(a.dtype), b)
  with caplog.at_level(logging.WARNING):
    studies.TrainedRun(small)
  assert "rounded to bfloat16" in caplog.text
  rows = rewind(small, kinds=("prefix",))
  content = runs.read_content(small / "rewind-prefix")
  assert content["origin"]["networks"] == "bfloat16"
  assert "networks" not in runs.read_content(small / "rewind-suffix")["origin"]
  # What was complete stays so, and a run is as it was.
  assert rewind(small) == runs.read_rows(whole / "rewind-suffix")
  # Numbers differ, and by little.
  expected = rewind(whole, kinds=("prefix",)).where("loss", kind="prefix")
  differences = np.abs(
    rows.where("loss", kind="prefix").values - expected.values
  )
  assert 0 < differences.max() < 0.05


def test_numbers_do_not_go_on_from_other_networks(whole, tmp_path):
  small, again = tmp_path / "small", tmp_path / "again"
  pack(whole, small)
  pack(whole, again, dtype="bfloat16")
  for path in (small, again):
    (path / "rewind-suffix" / "done").unlink()
  rewind(small)
  sentence = "begun with networks in float32, and they are now in bfloat16"
  with pytest.raises(runs.RunError, match=sentence):
    rewind(again)
  with pytest.raises(
    runs.RunError, match="rewind-suffix is not complete, and the rest"
  ):
    pack(again, tmp_path / "no", dtype="bfloat16")
  assert not (tmp_path / "no").exists()


def test_training_that_has_not_ended_keeps_what_it_needs(whole, tmp_path):
  class StoppedError(Exception):
    pass

  moves = [2]

  def stop(**_):
    from geomem.studies.study import _Silent

    class Bar(_Silent):
      def update(self, size):
        moves[0] -= 1
        if not moves[0]:
          raise StoppedError

    return Bar()

  config = studies.make_config(**SMALL_RUN)
  with pytest.raises(StoppedError):
    studies.run(studies.Memorization(config), tmp_path / "a", progress=stop)
  (found,) = pack(tmp_path / "a", tmp_path / "b", networks="none")
  assert not found.is_trained
  assert (tmp_path / "b" / "resume").exists()
  rows = studies.run(studies.Memorization(config), tmp_path / "b")
  assert rows == runs.read_rows(whole)


def test_a_run_that_is_still_measured_keeps_all_networks(whole, tmp_path):
  """What is left to measure is of any epoch."""
  run = tmp_path / "run"
  shutil.copytree(whole, run)
  (run / "done").unlink()
  (found,) = pack(run, tmp_path / "small")
  trained = studies.TrainedRun(whole)
  assert found.epochs == {seed: trained.epochs(seed) for seed in (0, 1)}


def test_a_run_stopped_in_its_first_seconds_is_packed(whole, tmp_path):
  run = tmp_path / "run"
  shutil.copytree(whole, run)
  shutil.rmtree(run / "checkpoints" / "seed1")
  for name in ("done", "results.jsonl"):
    (run / name).unlink()
  (found,) = pack(run, tmp_path / "small")
  assert found.epochs[1] == []
  assert found.epochs[0]


def test_a_copy_in_work_is_not_removed_by_another(whole, tmp_path):
  host = socket.gethostname()
  with subprocess.Popen(["true"]) as process:
    process.wait()
  ended, *others = (
    tmp_path / f".{name}.{process.pid}.copy"
    for name in (f"small.{host}", f"small.v2.{host}", "small.of-another-host")
  )
  with subprocess.Popen(["sleep", "60"]) as process:
    kept = *others, tmp_path / f".small.{host}.{process.pid}.copy"
    for place in (*kept, ended):
      place.mkdir()
    pack(whole, tmp_path / "small")
    process.kill()
  assert all(place.is_dir() for place in kept)
  assert not ended.exists()


def test_a_copy_is_whole_or_not_there(whole, tmp_path, monkeypatch):
  out = tmp_path / "small"

  def fail(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patched:
    patched.setattr("shutil.copy2", fail)
    with pytest.raises(ValueError, match="No space left"):
      pack(whole, out)
  assert not list(tmp_path.iterdir())
  out.mkdir()
  with pytest.raises(runs.RunError, match="exists already"):
    pack(whole, out)
  with pytest.raises(runs.RunError, match="or is within"):
    pack(whole, whole / "small")
  with pytest.raises(runs.RunError, match="not a run directory"):
    pack(tmp_path, tmp_path / "other")


def test_what_others_work_on_is_not_copied(whole, tmp_path):
  # The rows would be of one time, and the networks of a later one.
  below = next(file.parent for file in whole.glob("rewind*/config.json"))
  for place in (whole, below):
    with (
      runs.Run(place, runs.read_config(place)),
      pytest.raises(runs.BusyError, match=f"works on {place}; wait"),
    ):
      pack(whole, tmp_path / "small")
    assert not list(tmp_path.iterdir())
  pack(whole, tmp_path / "small", networks="none")


def test_the_binary_says_what_is_there(whole, tmp_path):
  out = tmp_path / "small"
  told = execute("pack", run=whole, out=out, networks="last")
  assert told.returncode == 0, told.stderr
  assert f"{out}: networks of seed 1 at epochs 2." in told.stdout
  assert " MB of the " in told.stdout
  for flags in ({"networks": "lost"}, {"dtype": "float8"}):
    told = execute("pack", run=whole, out=tmp_path / "no", **flags)
    assert told.returncode == 2
    assert told.stderr.startswith("Error: ")
  assert not (tmp_path / "no").exists()
  told = execute("pack", run=whole, out=out)
  assert told.returncode == 1
  assert "exists already" in told.stderr


def test_the_paper_goes_on_from_a_copy(tmp_path, monkeypatch, capsys):
  fields = {
    "memorization": SMALL_RUN | {"num_seeds": 1, "measure_epochs": "best,last"},
    "rewind": REWIND | {"kinds": ("suffix", "prefix")},
    "gradients": {"draws": 2, "max_examples": 80},
    # Of the same network and subsets, so that there is less to compile.
    "model_size": SMALL_RUN
    | {"width": (4,), "num_seeds": 1, "permuted_fraction": 0.5}
    | {"subsets": "unpermuted,permuted,restored,test"},
  }
  scales = {"small": paper.Scale("for tests", fields)}
  monkeypatch.setattr(paper, "SCALES", scales)
  monkeypatch.setattr(studies, "draw", lambda *_, **__: [])
  monkeypatch.setattr(estimates, "calibrate", lambda *_: paper.Work(*[1.0] * 9))

  def do(path, *only):
    stages = paper.choose(only)
    return binary.reproduce("small", path, stages, binary.Budget())

  here, home, there = (tmp_path / name for name in ("here", "home", "there"))
  do(here, "fig3", "fig4")
  table = (here / "paper.md").read_text()
  found = {str(run.path): run for run in pack(here, home)}
  assert found["memorization"].epochs[0][0] == 0
  # Of sweeps only rows are left.
  assert not found["model_size/width=4"].epochs[0]
  do(home, "fig3", "fig4", "figa1")
  said = capsys.readouterr().out
  assert said.count("; complete.") == 3
  assert runs.is_complete(home / "memorization" / "gradients")
  later = (home / "paper.md").read_text()
  assert "| A.1 " in later
  assert "| A.1 " not in table
  lines = [x for x in table.splitlines() if x.startswith(("| 3", "| 4"))]
  assert lines
  assert {" ".join(x.split()) for x in lines} <= {
    " ".join(x.split()) for x in later.splitlines()
  }
  # Complete stages need no networks.
  pack(home, there, networks="none")
  assert do(there, "fig3", "fig4", "figa1") == 0
  assert json.loads((there / "memorization" / "done").read_text())
