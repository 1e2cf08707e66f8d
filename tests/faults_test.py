"""What goes wrong for users: a sentence each, and nothing lost."""

import contextlib
import io
import itertools
import logging
import os
import re
import resource
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from absl import flags as absl_flags

from experiments import bars, terminal
from geomem import data, disk, geometry, runs, studies, training
from geomem.studies.measure import geometry_stage
from geomem.studies.measure_config import SavedEpochs
from geomem.studies.train import train_seeds
from tests.fakes import SMALL_RUN, fields_of

CONFIG = studies.make_config(**SMALL_RUN | {"epochs": 3, "num_seeds": 1})

TREE = {"fc": {"kernel": np.arange(3000, dtype=np.float32)}}


@contextlib.contextmanager
def room_for(num_bytes: int):
  """No file can grow beyond so many bytes, as on a disk that fills up."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def prepared():
  return studies.Memorization(CONFIG)


def open_run(path):
  return runs.Run(path, fields_of(CONFIG))


def do_all(path, prepared):
  studies.run(prepared, path)


def lines_of(path):
  return (path / "results.jsonl").read_bytes().splitlines()


@pytest.fixture(scope="module")
def calm(prepared, tmp_path_factory):
  path = tmp_path_factory.mktemp("calm")
  do_all(path, prepared)
  return path


@pytest.fixture
def copy(calm, tmp_path):
  return shutil.copytree(calm, tmp_path / "run")


def test_rows_that_do_not_fit_are_appended_when_there_is_room(tmp_path):
  rows = [{"seed": i, "metric": "loss", "value": i / 3} for i in range(9)]
  with runs.Run(tmp_path, {}) as run:
    run.commit({"unit": 0}, rows[:3])
    before = lines_of(tmp_path)
    with room_for(500), pytest.raises(disk.DiskError, match="Make room"):
      run.commit({"unit": 1}, rows[3:])
    assert lines_of(tmp_path) == before
    assert not run.has({"unit": 1})
    run.commit({"unit": 1}, rows[3:])
  assert len(lines_of(tmp_path)) == 9


def test_a_journal_that_does_not_fit_takes_its_rows_back(tmp_path):
  """The journal is longer than the rows, so that it alone does not fit."""
  rows = [{"seed": 0, "metric": "loss", "value": 1.0}]
  key = {"unit": "x" * 500}
  with runs.Run(tmp_path, {}) as run:
    with room_for(400), pytest.raises(disk.DiskError, match="Make room"):
      run.commit(key, rows)
    assert not run.rows
    run.commit(key, rows)
    assert len(run.rows) == 1


def test_a_file_that_does_not_fit_is_as_it_was(tmp_path):
  path = tmp_path / "file"
  disk.write_whole(path, b"old")
  with room_for(10), pytest.raises(disk.DiskError, match="is unchanged"):
    disk.write_whole(path, b"new" * 10)
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_that_does_not_fit_is_not_there(tmp_path):
  with training.Checkpoints(tmp_path) as saved:
    saved.save(0, TREE)
    with room_for(5000), pytest.raises(disk.DiskError, match="1 cannot be"):
      saved.save(1, TREE)
    assert saved.epochs == [0]
    saved.save(1, TREE)
  with training.Checkpoints(tmp_path) as saved:
    np.testing.assert_array_equal(
      saved.load(1, TREE)["fc"]["kernel"], TREE["fc"]["kernel"]
    )


@pytest.mark.slow
def test_a_run_goes_on_each_time_that_there_is_more_room(
  calm, prepared, tmp_path
):
  size = (calm / "results.jsonl").stat().st_size
  for room in (100, 1000, 4000, size // 2, size - 1):
    with room_for(room), pytest.raises(disk.DiskError, match="Make room"):
      do_all(tmp_path, prepared)
    assert not (tmp_path / "done").exists()
  do_all(tmp_path, prepared)
  assert lines_of(tmp_path) == lines_of(calm)
  assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("metric", ["accuracy", "capacity", "best_epoch"])
def test_a_damaged_row_of_a_complete_run_comes_again(
  metric, calm, copy, prepared
):
  lines = lines_of(calm)
  number = next(i for i, line in enumerate(lines) if metric.encode() in line)
  lines[number] = lines[number].replace(b'"metric"', b"\xff")
  (copy / "results.jsonl").write_bytes(b"\n".join(lines) + b"\n")
  with open_run(copy) as run:
    assert not run.is_done
  do_all(copy, prepared)
  assert sorted(lines_of(copy)) == sorted(lines_of(calm))
  with open_run(copy) as run:
    assert run.is_done


@pytest.mark.slow
# What a failed read leaves behind reports to an event loop that Orbax closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_state_to_resume_from_falls_back(
  calm, prepared, tmp_path, caplog
):
  with open_run(tmp_path) as run:
    steps = train_seeds(run, prepared.experiment, prepared.seeds)
    epochs = itertools.accumulate(step.size for step in steps)
    assert next(epoch for epoch in epochs if epoch == 2)
  (newest,) = tmp_path.glob("resume/*/2")
  shutil.rmtree(newest / "state" / "d")
  do_all(tmp_path, prepared)
  assert "epoch 2" in caplog.text
  assert "Resuming from an earlier one" in caplog.text
  assert lines_of(tmp_path) == lines_of(calm)


@pytest.mark.parametrize("has_rows", [True, False])
def test_a_copy_of_a_run_in_progress_ends_as_the_run(
  has_rows, calm, prepared, tmp_path, caplog
):
  """Its networks, and rows, may be older than the states to resume from."""
  with open_run(tmp_path) as run:
    steps = train_seeds(run, prepared.experiment, prepared.seeds)
    epochs = itertools.accumulate(step.size for step in steps)
    assert next(epoch for epoch in epochs if epoch == 2)
  shutil.rmtree(tmp_path / "checkpoints/seed0/1")
  if not has_rows:
    kept = [x for x in lines_of(tmp_path) if b'"epoch": 1' not in x]
    (tmp_path / "results.jsonl").write_bytes(b"\n".join([*kept, b""]))
  do_all(tmp_path, prepared)
  assert "network of epoch 1 is missing" in caplog.text
  assert sorted(lines_of(tmp_path)) == sorted(lines_of(calm))
  assert (tmp_path / "checkpoints/seed0/1").exists()


def test_training_writes_nothing_to_a_run_in_the_place_of_its_own(
  prepared, tmp_path
):
  """The other run took a network that it found there for its own."""
  path = tmp_path / "run"
  with open_run(path) as run:
    steps = train_seeds(run, prepared.experiment, prepared.seeds)
    next(steps)
    path.rename(tmp_path / "moved")
    with open_run(path), pytest.raises(runs.RunError, match="it was moved"):
      list(steps)
  assert not list(path.rglob("*/1"))


def test_an_epoch_that_cannot_be_scored_again_is_named(copy, prepared, caplog):
  """Its rows and its network are both lost, after training has ended."""
  kept = [x for x in lines_of(copy) if b'"epoch": 1' not in x]
  (copy / "results.jsonl").write_bytes(b"\n".join([*kept, b""]))
  do_all(copy, prepared)
  assert "are lost" not in caplog.text
  (copy / "results.jsonl").write_bytes(b"\n".join([*kept, b""]))
  shutil.rmtree(copy / "checkpoints/seed0/1")
  do_all(copy, prepared)
  assert "The scores of epochs 1 of seed 0 are lost" in caplog.text


def test_a_damaged_network_is_named_when_it_is_measured(copy, prepared):
  for file in (copy / "checkpoints" / "seed0" / "2").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  lines = [x for x in lines_of(copy) if b'"layer": null' in x]
  (copy / "results.jsonl").write_bytes(b"\n".join(lines) + b"\n")
  with pytest.raises(training.CheckpointError, match=r"epoch 2 .* is damaged"):
    do_all(copy, prepared)


@pytest.mark.parametrize(
  ("scale", "sentence"),
  [
    (np.nan, "Seed 0, epoch 0, layer fc1, unpermuted examples: .* not finite"),
    (1e30, "Seed 0, epoch 0, layer logits, unpermuted examples: .* overflow"),
  ],
)
def test_activations_that_are_not_finite_are_named(scale, sentence, prepared):
  state = prepared.experiment.network.init(jax.random.key(0))
  state = jax.tree.map(lambda x: x * np.float32(scale), state)
  config = prepared.config.measure
  stage = geometry_stage(
    prepared.experiment,
    prepared.seeds[:1],
    {0: SavedEpochs([0], best=0, last=0)},
    lambda seed, epoch: state,
    config,
  )
  (unit,) = stage.units
  with pytest.raises(ValueError, match=sentence):
    list(unit.work())


def test_a_damaged_config_is_no_reason_to_start_anew(copy):
  (copy / "config.json").write_text('{"config": {"model": ')
  with pytest.raises(runs.RunError, match=r"config.json is damaged"):
    open_run(copy)
  assert (copy / "results.jsonl").exists()


@pytest.mark.parametrize(
  ("points", "options", "sentence"),
  [
    (np.ones((4, 5)), {}, r"shape \(4, 5\); \[P, M, N\] was expected"),
    (np.ones((2, 3, 0)), {}, "at least one of each"),
    ([np.ones((3, 4)), np.ones((2, 5))], {}, "one N was expected"),
    ([np.ones((3, 4)), np.ones((0, 4))], {}, "Manifold 1 has no points"),
    (np.full((2, 3, 4), "a"), {}, "real numbers were expected"),
    (np.ones((2, 3, 4), complex), {}, "real numbers were expected"),
    (np.full((2, 3, 4), np.inf), {}, "Point 0 of manifold 0 is not finite"),
    (np.ones((2, 3, 4)), {"num_probes": 0}, "num_probes is 0"),
    (np.ones((2, 3, 4)), {"centers": "half"}, "'half' is not known"),
  ],
)
def test_arrays_that_are_no_manifolds_are_refused(points, options, sentence):
  with pytest.raises(ValueError, match=sentence):
    geometry.manifold_geometry(jax.random.key(0), points, **options)


IMAGES = np.zeros((6, 4, 4), np.uint8)
LABELS = np.arange(6) % 3


@pytest.mark.parametrize(
  ("images", "labels", "sentence"),
  [
    (IMAGES / 255, LABELS, "float64 .* uint8 of shape"),
    (IMAGES[0], LABELS, r"\[n, H, W, C\] or \[n, H, W\]"),
    (IMAGES, LABELS * 2, "No example has the label 1, .* largest label is 4"),
    (IMAGES, LABELS + 2**30, "No example has the label 0"),
    (IMAGES, LABELS - 1, "labels from 0 on"),
    (IMAGES, LABELS[:5], "one integer for each of the 6 images"),
    (IMAGES, np.eye(3)[LABELS], "one integer for each of the 6 images"),
    (IMAGES[:0], LABELS[:0], "at least one image"),
    (np.array([{}], object), LABELS, "pickled objects are refused"),
  ],
)
def test_own_data_that_is_none_is_refused(images, labels, sentence, tmp_path):
  np.savez(tmp_path / "own.npz", x_train=images, y_train=labels)
  with pytest.raises(data.DatasetError, match=sentence):
    data.load(f"npz:{tmp_path / 'own.npz'}", "train")


def test_own_data_of_other_classes_in_the_test_is_refused(tmp_path):
  arrays = {"x_train": IMAGES, "y_train": LABELS}
  arrays |= {"x_test": IMAGES, "y_test": np.arange(6)}
  np.savez(tmp_path / "own.npz", **arrays)
  with pytest.raises(data.DatasetError, match="up to 5, training labels up to"):
    data.load(f"npz:{tmp_path / 'own.npz'}", "test")
  (tmp_path / "own.npz").write_bytes(b"")
  with pytest.raises(data.DatasetError, match="cannot be read as npz"):
    data.load(f"npz:{tmp_path / 'own.npz'}", "test")


@pytest.fixture
def as_before():
  """Signals and loggers as they were, after a binary ran in this process."""
  signals = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
  names = ("geomem", "jax", "absl")
  loggers = [logging.getLogger(name) for name in names] + [logging.getLogger()]
  states = [(x, x.level, x.propagate, list(x.handlers)) for x in loggers]
  yield
  for number, handler in signals.items():
    signal.signal(number, handler)
  for logger, level, propagate, handlers in states:
    logger.setLevel(level)
    logger.propagate, logger.handlers = propagate, handlers


def full_disk():
  raise OSError(28, "No space left on device", "figures/accuracy.png")


def refuse():
  raise runs.RunError("It is so.")


def misunderstand():
  raise absl_flags.IllegalFlagValueError("--width=x is not a number.")


@pytest.mark.parametrize(
  ("main", "status", "sentence"),
  [
    (lambda: 0, 0, ""),
    (refuse, 1, "Error: It is so."),
    (full_disk, 1, "Error: figures/accuracy.png cannot be written: No space"),
    (misunderstand, 2, "Error: --width=x is not a number. See --help."),
    (lambda: signal.raise_signal(signal.SIGINT), 130, "resume with:\n  "),
    (lambda: signal.raise_signal(signal.SIGTERM), 143, "resume with:\n  "),
  ],
)
def test_binaries_end_in_a_sentence_and_a_status(
  main, status, sentence, as_before, capsys
):
  assert terminal.guarded(lambda _: main())([]) == status
  assert sentence in capsys.readouterr().err


def lose_another():
  try:
    raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
  except ValueError as error:
    raise training.CheckpointError("It has damaged metadata.") from error


def fail():
  raise RuntimeError("A bug.")


@pytest.mark.parametrize(
  ("main", "status", "sentence"),
  [
    (refuse, 1, "Error: It is so."),
    (lose_another, 1, "Error: Another process has failed or was stopped;"),
    (fail, 1, "RuntimeError: A bug."),
    (misunderstand, 2, "--width=x is not a number. See --help."),
    (lambda: signal.raise_signal(signal.SIGTERM), 143, "resume with:\n  "),
  ],
)
def test_a_process_that_fails_does_not_keep_the_others_waiting(
  main, status, sentence, as_before, capsys, monkeypatch
):
  left = []
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(terminal, "_FAREWELLS", (0.0, 0.0))
  monkeypatch.setattr(os, "_exit", left.append)
  # All return together, but one may fail alone.
  assert terminal.guarded(lambda _: 1)([]) == 1
  terminal.guarded(lambda _: main())([])
  assert left == [status]
  assert sentence in capsys.readouterr().err


def test_our_warnings_are_seen_and_not_those_of_others(as_before, capsys):
  def main(_):
    logging.getLogger("geomem.runs").warning("Line %d is damaged.", 3)
    logging.getLogger("absl").error("A thread of Orbax says so, too.")
    logging.getLogger("jax._src.xla_bridge").warning("A GPU may be present.")

  terminal.guarded(main)([])
  told = capsys.readouterr().err
  assert told == (
    "Warning: Line 3 is damaged.\nWarning: A GPU may be present.\n"
  )


def test_a_log_file_gets_lines_and_few(monkeypatch):
  log = io.StringIO()
  monkeypatch.setattr(sys, "stderr", log)
  with bars.bar(10_000, "cells") as outer:
    with bars.bar(10_000, "training, seed 0", leave=False) as inner:
      for _ in range(10_000):
        inner.set_postfix({"loss": "0.500"}, refresh=False)
        inner.update(1)
    outer.update(10_000)
  lines = log.getvalue().splitlines()
  assert len(lines) == 3
  assert not re.search(r"[\r\x1b]", log.getvalue())
  assert lines[0].startswith("cells: 0 of 10000 [00:00<?")
  assert lines[-1].startswith("cells: 10000 of 10000")
