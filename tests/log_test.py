"""The log of a run directory, the flags that are about it, and the bars."""

import logging
import os
import pathlib
import re
import signal
import time
import weakref

import pytest
from absl import flags

from experiments import bars, log, terminal
from geomem import runs
from tests import binaries
from tests.fakes import SMALL_RUN
from tests.faults_test import as_before  # noqa: F401

RUN = SMALL_RUN | {"layers": "last", "measure_epochs": "last"}


def lines_of(path) -> list[str]:
  """The lines of a log, without time and process."""
  lines = (path / "log.txt").read_text().splitlines()
  return [re.sub(r"^\d{4}-[\d :-]+ \[\d+\] ", "", line) for line in lines]


def test_a_stop_is_in_the_log_and_starts_follow_each_other(tmp_path):
  out = tmp_path / "run"
  files = {name: f"{tmp_path}/{name}" for name in ("stdout", "stderr")}
  for _ in range(2):
    earlier = lines_of(out) if out.exists() else []
    fields = RUN | {"epochs": 5000}
    process = binaries.start("memorization", out=out, **files, **fields)
    began = f"Work on {out} begins"
    for _ in range(3000):
      lines = (
        lines_of(out)[len(earlier) :] if (out / "log.txt").exists() else []
      )
      if any(line.startswith(began) for line in lines):
        break
      time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143, pathlib.Path(files["stderr"]).read_text()
    lines = lines_of(out)
    assert lines[: len(earlier)] == earlier
    assert lines[-1].startswith(f"Work on {out} was stopped by SIGTERM after")


def test_a_directory_that_was_moved_away_is_not_made_again(tmp_path, capsys):
  path, moved = tmp_path / "run", tmp_path / "moved"
  files = log._Files()
  files.open(path / "log.txt")
  line = logging.makeLogRecord({"msg": "text", "levelno": logging.INFO})
  files.emit(line)
  with runs.Clock(path) as clock:
    path.rename(moved)
    for _ in range(2):
      files.emit(line)
    assert not path.exists()
    assert capsys.readouterr().err.count("log.txt cannot be written") == 1
    path.mkdir()  # Another run's.
    clock.save()
  assert not (path / "duration.json").exists()
  assert (moved / "log.txt").read_text().count("text") == 1


def test_the_log_goes_elsewhere_and_is_no_condition(tmp_path):
  out, elsewhere = tmp_path / "run", tmp_path / "logs"
  fields = RUN | {"num_seeds": 1}
  binaries.execute("memorization", out=out, log_dir=elsewhere, **fields)
  assert not (out / "log.txt").exists()
  assert lines_of(elsewhere)[-1].startswith(f"Work on {out} is done")
  # A directory where the file would be: it cannot be written.
  (out / "done").unlink()
  (out / "log.txt").mkdir()
  told = binaries.execute("memorization", out=out, **fields)
  assert told.returncode == 0
  assert told.stderr.count("log.txt cannot be written: Is a directory") == 1
  assert runs.is_complete(out)


def test_the_cells_of_a_sweep_have_logs_and_events(tmp_path):
  fields = RUN | {"width": "2,3", "num_seeds": 1, "epochs": 1}
  told = binaries.execute(
    "memorization", "--tensorboard", out=tmp_path, **fields
  )
  assert told.returncode == 0, told.stderr
  for width in (2, 3):
    cell = tmp_path / f"width={width}"
    assert lines_of(cell)[0].startswith("Command: ")
    assert lines_of(cell)[-1].startswith(f"Work on {cell} is done")
    assert list((cell / "tensorboard" / "seed0" / "network").glob("events.*"))
  assert not (tmp_path / "tensorboard").exists()
  assert "cells: 2 of 2 [" in "\n".join(lines_of(tmp_path))


@pytest.fixture
def begun(as_before, monkeypatch):  # noqa: F811
  """Begins to tell, at a verbosity."""
  flag = flags.FLAGS["verbosity"]

  def begin(verbosity):
    monkeypatch.setattr(flag, "present", 1)
    monkeypatch.setattr(flag, "_value", verbosity)
    log.start()

  yield begin
  log._FILES.begin()


def refuse():
  raise runs.RunError("It is so.")


def fail():
  raise KeyError("of our own making")


@pytest.mark.parametrize(
  ("work", "shown", "is_traceback"),
  [(refuse, "Error: It is so.", False), (fail, "of our own making", True)],
)
def test_errors_are_in_the_log(begun, tmp_path, work, shown, is_traceback):
  begun(0)
  with pytest.raises((ValueError, KeyError)), log.kept(tmp_path):
    work()
  text = "\n".join(lines_of(tmp_path))
  assert shown in text
  assert ("Traceback" in text) == is_traceback
  assert lines_of(tmp_path)[-1].startswith(f"Work on {tmp_path} failed after")


@pytest.mark.parametrize(
  ("verbosity", "levels"),
  [
    (-1, ["Error"]),
    (0, ["Error", "Warning"]),
    (1, ["Error", "Warning", "Info"]),
    (2, ["Error", "Warning", "Info", "Debug"]),
  ],
)
def test_verbosity_chooses_what_the_terminal_shows(
  begun, tmp_path, capsys, verbosity, levels
):
  begun(verbosity)
  with log.kept(tmp_path):
    for name in ("geomem.runs", "jax._src.dispatch", "of_others"):
      for level in ("error", "warning", "info", "debug"):
        getattr(logging.getLogger(name), level)("%s of %s", level, name)
  told = capsys.readouterr().err.splitlines()
  assert told == [
    f"{level}: {level.lower()} of {name}"
    for name in ("geomem.runs", "jax._src.dispatch")
    for level in levels
  ]
  # The log does not hold less.
  text = (tmp_path / "log.txt").read_text()
  assert "Warning: warning of jax" in text
  assert "info of geomem.runs" in text
  assert "of_others" not in text


def test_a_stop_keeps_its_signal(as_before, capsys, tmp_path):  # noqa: F811
  def main(_):
    with log.kept(tmp_path):
      try:
        signal.raise_signal(signal.SIGINT)
      except KeyboardInterrupt:
        # As libraries do that call back.
        raise TypeError("Not to be shown.") from None

  assert terminal.guarded(main)([]) == 130
  assert "was stopped by SIGINT" in lines_of(tmp_path)[-1]
  assert "Not to be shown" not in (tmp_path / "log.txt").read_text()


class Clock:
  """A bar whose time goes on when it is told to."""

  def __init__(self, monkeypatch, total):
    self.now = 1000.0
    monkeypatch.setattr(bars, "_BEAT", 600)
    self.bar = bars.bar(total, "geometry, seed 0", postfix="compiling")
    self.bar._time = lambda: self.now
    self.bar.start_t = self.now

  def pass_by(self, seconds, units=1):
    self.now += seconds
    self.bar.update(units)

  @property
  def left(self) -> str:
    return re.search(r"<([\d:?]+)", str(self.bar))[1]


def test_the_time_that_is_left_is_not_that_of_compilation(monkeypatch):
  clock = Clock(monkeypatch, 12)
  assert clock.left == "?"
  clock.pass_by(100)
  assert clock.left == "?"
  clock.pass_by(2)
  assert clock.left == "00:20"
  # All layers of the first network are compiled.
  clock.pass_by(50)
  for _ in range(5):
    clock.pass_by(2)
  assert clock.left == "00:08"
  clock.bar.close()


def test_what_was_done_before_tells_nothing_of_the_time(monkeypatch):
  clock = Clock(monkeypatch, 10)
  clock.bar.initial += 4
  clock.pass_by(0, 4)
  clock.pass_by(60)
  assert clock.left == "?"
  clock.pass_by(3)
  assert clock.left == "00:12"
  clock.bar.close()


def test_a_long_step_is_not_silent(monkeypatch, capsys):
  monkeypatch.setattr(bars, "_BEAT", 0.01)
  monkeypatch.setattr(bars, "_LOG_SECONDS", 0.05)
  with bars.bar(3, "reading") as bar:
    for _ in range(500):
      time.sleep(0.01)
      told = capsys.readouterr().err
      if told.count("\n") > 1 or bar._drawn > bar.start_t + 0.1:
        break
    assert "reading: 0 of 3 [" in told


def test_a_bar_that_is_not_closed_goes_with_its_last_reference(monkeypatch):
  monkeypatch.setattr(bars, "_BEAT", 0.01)
  bar = bars.bar(3, "reading")
  reference = weakref.ref(bar)
  time.sleep(0.05)
  del bar
  for _ in range(500):
    if reference() is None:
      break
    time.sleep(0.01)
  assert reference() is None
