"""TensorBoard's event files: the rows, whole, or the earlier ones."""

import errno
import os
import pathlib
import struct
import subprocess
import sys

import pytest

from geomem import disk, report, runs
from geomem.report import events
from tests import binaries
from tests.binaries import execute
from tests.fakes import commit
from tests.faults_test import room_for

LAYERS = ("input", "fc1")


def curves(seed: int, **columns) -> list[dict]:
  """Three epochs of accuracy and capacity, and a fact without an epoch."""
  rows = [{"metric": "best_epoch", "value": 1}]
  for epoch in range(3):
    at = {"epoch": epoch, "subset": "test"}
    rows.append({**at, "metric": "accuracy", "value": 0.3 * epoch + seed})
    for index, layer in enumerate(LAYERS):
      place = {"layer": layer, "layer_index": index}
      value = (1 + epoch) / (3 + index + seed)
      rows.append({**at, **place, "metric": "capacity", "value": value})
  return [{"seed": seed, **columns, **row} for row in rows]


def write(path, config, rows):
  with runs.Run(path, config) as run:
    commit(run, rows)
  return path


@pytest.fixture
def finished(tmp_path):
  """A run of two seeds and a rewind of the first."""
  path = tmp_path / "run"
  write(path, {"dataset": "digits"}, curves(0) + curves(1))
  sets = [
    {"kind": "suffix", "rewound": layers, **row}
    for layers in ("fc1", "conv1+fc1")
    for row in curves(0)
    if row["metric"] == "accuracy"
  ]
  write(path / "rewind", {"experiment": "rewind"}, sets)
  return path


def read_events(path: pathlib.Path) -> dict[str, list]:
  """The scalars of a directory's event file, decoded by hand."""
  from tensorboardX.proto.event_pb2 import Event

  (file,) = path.glob("events.*")
  content, start, found = file.read_bytes(), 0, {}
  while start < len(content):
    # A record: its length, a checksum of that, itself, its own checksum.
    (length,) = struct.unpack_from("<Q", content, start)
    event = Event.FromString(content[start + 12 : start + 12 + length])
    start += 16 + length
    for value in event.summary.value:
      points = found.setdefault(value.tag, [])
      points.append((event.step, value.simple_value))
  return found


def test_event_files_hold_the_rows(finished):
  written = report.write_events(finished)
  found = read_events(written / "seed1" / "test")
  assert set(found) == {"accuracy", "capacity/input", "capacity/fc1"}
  expected = [
    (row["epoch"], pytest.approx(row["value"]))
    for row in runs.read_rows(finished)
    if row["seed"] == 1 and (row["metric"], row["layer"]) == ("capacity", "fc1")
  ]
  assert found["capacity/fc1"] == expected
  rewinds = read_events(written / "rewind" / "seed0" / "test")
  assert set(rewinds) == {"accuracy/suffix-fc1", "accuracy/suffix-conv1_fc1"}
  assert "config/text_summary" in read_events(written)


def test_curves_go_by_epoch_however_they_were_measured(tmp_path):
  rows = curves(0)
  written = report.write_events(write(tmp_path / "run", {}, rows[::-1]))
  found = read_events(written / "seed0" / "test")
  assert [epoch for epoch, _ in found["capacity/fc1"]] == [0, 1, 2]
  values = [value for _, value in found["capacity/fc1"]]
  assert values == sorted(values)


def test_event_files_of_a_sweep_lie_by_cell(tmp_path):
  rows = curves(0, width=3) + curves(0, width=5)
  config = {"experiment": "model_size", "axes": ["width"]}
  written = report.write_events(write(tmp_path / "sweep", config, rows))
  cells = [p.name for p in written.iterdir() if p.is_dir()]
  assert sorted(cells) == ["width=3", "width=5"]


def test_event_files_are_whole_or_the_earlier_ones(finished):
  written = report.write_events(finished)
  before = sorted(written.rglob("*"))
  # Less than the points of a subset take.
  with room_for(300), pytest.raises(disk.DiskError, match="Make room"):
    report.write_events(finished)
  assert sorted(written.rglob("*")) == before
  assert not list(finished.glob(".tensorboard*"))


def test_event_files_that_cannot_take_their_place_leave_the_earlier_ones(
  finished, monkeypatch
):
  written = report.write_events(finished)
  before = sorted(written.rglob("*"))
  rename = pathlib.Path.rename

  def refuse(path, target):
    if path.name == f".tensorboard.{os.getpid()}":
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return rename(path, target)

  monkeypatch.setattr(pathlib.Path, "rename", refuse)
  with pytest.raises(disk.DiskError, match="Make room"):
    report.write_events(finished)
  assert sorted(written.rglob("*")) == before
  assert not list(finished.glob(".tensorboard*"))


def test_several_runs_have_event_files_beside_each_other(tmp_path):
  for i, place in enumerate(("x/demo", "y/demo", "z")):
    write(tmp_path / place, {"dataset": "digits"}, curves(i))
  paths = [str(tmp_path / place) for place in ("x/demo", "y/demo", "z")]
  found = execute(
    "report", "--tensorboard", run=",".join(paths), out=tmp_path / "out"
  )
  assert found.returncode == 0, found.stderr
  for i, name in enumerate(("x/demo", "y/demo", "z")):
    there = tmp_path / "out" / name / "tensorboard"
    assert str(there) in found.stdout.splitlines()
    points = read_events(there / f"seed{i}" / "test")["accuracy"]
    assert [value for *_, value in points] == pytest.approx(
      [0.3 * epoch + i for epoch in range(3)]
    )
  # One run is in the place itself, as before, and where it is without --out.
  for flags in ({"out": tmp_path / "one"}, {}):
    found = execute("report", "--tensorboard", run=tmp_path / "z", **flags)
    there = flags.get("out", tmp_path / "z") / "tensorboard"
    assert found.stdout.split() == [str(there)]


def test_live_event_files_grow_with_the_rows(tmp_path, monkeypatch):
  monkeypatch.setattr(events, "_SECONDS", -1)
  path, rows = tmp_path / "run", curves(0)
  place = path / "tensorboard" / "seed0" / "test"

  with runs.Run(path, {"dataset": "digits"}) as run:
    commit(run, rows[:4])
    # As an earlier start: what it committed is there once.
    for _ in range(2):
      with report.live_events(path) as update:
        update()
    old = path / "tensorboard" / "events.out.tfevents.1.host.geomem"
    old.touch()
    with report.live_events(path) as update:
      assert [len(points) for points in read_events(place).values()] == [1] * 3
      commit(run, rows[4:])
      update()
      found = read_events(place)
  assert found == read_events(report.write_events(path) / "seed0" / "test")
  assert [step for step, _ in found["accuracy"]] == [0, 1, 2]
  assert not old.exists()


def test_live_event_files_do_not_end_the_work(tmp_path, monkeypatch, caplog):
  path = tmp_path / "run"
  monkeypatch.setattr(events, "_SECONDS", -1)
  with runs.Run(path, {}) as run:
    (path / "tensorboard").write_text("A file where the directory would be.")
    with report.live_events(path) as update:
      commit(run, curves(0))
      update()
  (told,) = [record.getMessage() for record in caplog.records]
  assert "tensorboard cannot be written" in told


def test_a_full_disk_ends_live_event_files_and_not_the_work(
  tmp_path, monkeypatch, caplog
):
  """tensorboardX's own writer waits forever for the thread that has failed."""
  path = tmp_path / "run"
  monkeypatch.setattr(events, "_SECONDS", -1)
  with runs.Run(path, {}) as run:
    with report.live_events(path) as update:
      commit(run, curves(0))
      with room_for(300):
        update()
        update()
      (file,) = (path / "tensorboard" / "seed0" / "test").glob("events.*")
      content = file.read_bytes()
    assert len(run.rows) == len(curves(0))
  (told,) = [record.getMessage() for record in caplog.records]
  assert "File too large" in told
  assert told.endswith("Work continues without event files.")
  assert file.read_bytes() == content  # Its beginning, whole.
  assert not read_events(file.parent)


def test_without_the_writer_there_is_a_sentence(finished, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(runs.RunError, match=r"pip install .\.\[tensorboard\]"):
    report.write_events(finished)
  assert not list(finished.glob("*tensorboard*"))


def test_without_the_writer_no_run_is_begun(tmp_path):
  (tmp_path / "tensorboardX.py").write_text("raise ImportError")
  command = binaries.command(
    "memorization", "--tensorboard", out=tmp_path / "run"
  )
  paths = os.pathsep.join([str(tmp_path), *sys.path])
  environment = os.environ | {"PYTHONPATH": paths}
  told = subprocess.run(
    command, env=environment, cwd=binaries.ROOT, capture_output=True, text=True
  )
  assert told.returncode == 2, told.stderr
  assert "tensorboardX, which is not installed" in told.stderr
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["events.out.tfevents.1.host", "notes.txt"])
def test_a_directory_of_other_files_is_not_replaced(finished, tmp_path, name):
  """Such as a run of this name, or TensorBoard's files of other programs."""
  other = tmp_path / "tensorboard" / "mine" / name
  other.parent.mkdir(parents=True)
  other.write_text("precious")
  with pytest.raises(runs.RunError, match="none of geomem's event files"):
    report.write_events(finished, tmp_path)
  assert other.read_text() == "precious"


def test_below_a_run_only_event_files_are_replaced(tmp_path):
  path = write(tmp_path / "run", {}, curves(0))
  before = path / "tensorboard" / "events.out.tfevents.1.host"
  notes = path / "tensorboard" / "notes.txt"
  before.parent.mkdir()
  for file in (before, notes):
    file.write_text("")
  live = events._Live(path, path / "tensorboard")
  for _ in range(2):  # The second takes the place of the first.
    live.begin()
    assert len([*notes.parent.glob("events.*")]) == 1
  assert notes.exists()
  with pytest.raises(runs.RunError, match=r"notes\.txt is none"):
    report.write_events(path)
  notes.unlink()
  before.write_text("")  # Of an earlier version.
  report.write_events(path)
  assert not before.exists()
