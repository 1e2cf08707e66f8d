"""Whose numbers: a run knows its data and its parent, and refuses others."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest

from geomem import data, runs, studies
from geomem.studies import fields
from tests import binaries
from tests.fakes import SMALL_RUN, also_long, commit


def write_set(path, seed):
  rng = np.random.default_rng(seed)
  np.savez(
    path,
    x_train=rng.integers(0, 255, (180, 8, 8), np.uint8),
    y_train=np.arange(180) % 3,
    x_test=rng.integers(0, 255, (24, 8, 8), np.uint8),
    y_test=np.arange(24) % 3,
  )
  return path


def config_of(file, **changes):
  fields = SMALL_RUN | {"num_seeds": 1, "learning_rate": 0.1} | changes
  for name in ("num_classes", "examples_per_class"):
    del fields[name]  # The set is as large as theirs.
  return studies.make_config(dataset=f"npz:{file}", **fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Two runs on one set, `a` and `b`, which differ in the seed."""
  path = tmp_path_factory.mktemp("runs")
  file = write_set(path / "set.npz", 0)
  for name, seed in (("a", 0), ("b", 1)):
    train(path / name, config_of(file, seed=seed))
  return path


@pytest.fixture
def here(trained, tmp_path):
  """A copy of both, on a copy of the set."""
  for name in ("a", "b"):
    shutil.copytree(trained / name, tmp_path / name)
    file = tmp_path / name / "config.json"
    content = file.read_text().replace(str(trained), str(tmp_path))
    file.write_text(content)
  shutil.copy(trained / "set.npz", tmp_path)
  return tmp_path


def train(path, config):
  return studies.run(studies.Memorization(config), path)


def rewind(path, config=None):
  config = config or studies.RewindConfig()
  study = studies.LayerRewind(config, studies.TrainedRun(path))
  return studies.run(study)


def test_a_run_resumes_on_its_own_data_alone(here):
  config = config_of(here / "set.npz")
  assert train(here / "a", config)
  write_set(here / "set.npz", 1)
  with pytest.raises(runs.RunError, match="on data with the fingerprint"):
    train(here / "a", config)


def test_nothing_is_derived_from_a_run_whose_data_changed(here):
  """Of the same shape, under the same path."""
  assert studies.TrainedRun(here / "a").experiment
  write_set(here / "set.npz", 1)
  with pytest.raises(
    runs.RunError, match="trained on data with the fingerprint"
  ):
    studies.TrainedRun(here / "a")
  with pytest.raises(
    runs.RunError, match="trained on data with the fingerprint"
  ):
    rewind(here / "a")


@pytest.mark.parametrize("what", ["x_train", "x_test", "y_train", "y_test"])
def test_one_value_is_enough(here, what):
  with np.load(here / "set.npz") as arrays:
    arrays = dict(arrays)
  if what.startswith("x"):
    arrays[what][5, 2, 3] ^= 1
  else:
    arrays[what][[0, 1]] = arrays[what][[1, 0]]
  np.savez(here / "set.npz", **arrays)
  with pytest.raises(
    runs.RunError, match="trained on data with the fingerprint"
  ):
    studies.TrainedRun(here / "a")


def test_fingerprints_are_of_what_is_used():
  digits = data.load("digits", "train")
  assert data.fingerprint(digits) == data.fingerprint(digits)
  assert data.fingerprint(digits) != data.fingerprint(digits[:-1])
  names = digits._replace(class_names=tuple("abcdefghij"))
  assert data.fingerprint(digits) != data.fingerprint(names)
  turned = digits._replace(images=digits.images.swapaxes(1, 2))
  assert data.fingerprint(digits) != data.fingerprint(turned)


def test_labels_are_read_back(here):
  experiment = studies.TrainedRun(here / "a").experiment
  (seed,) = studies.prepare_seeds(experiment, here / "a")
  other = (seed.labels.labels + 1) % 3
  file = here / "a" / "labels_seed0.npz"
  seed.labels._replace(labels=other).save(file)
  with pytest.raises(runs.RunError, match="other labels than seed 0"):
    studies.prepare_seeds(experiment, here / "a")
  (here / "a" / "done").unlink()
  with pytest.raises(runs.RunError, match="other labels than seed 0"):
    train(here / "a", config_of(here / "set.npz"))
  file.write_bytes(b"damaged")
  with pytest.raises(data.DatasetError, match="cannot be read"):
    studies.prepare_seeds(experiment, here / "a")


@pytest.mark.parametrize(
  "binary",
  ["measure", *also_long("rewind", "gradients", "capacity")],
)
@pytest.mark.parametrize("half", [False, True])
def test_what_is_derived_from_one_run_is_refused_to_another(here, binary, half):
  """Whether it is complete or half done."""
  out = here / "out"
  study = {
    "rewind": (studies.LayerRewind, studies.RewindConfig),
    "gradients": (studies.Gradients, studies.GradientConfig),
    "capacity": (studies.Capacity, studies.CapacityConfig),
    "measure": (studies.Measuring, studies.MeasuringConfig),
  }[binary]
  fields = study[0](study[1](), studies.TrainedRun(here / "a")).as_dict()
  origin = runs.parent_of(here / "a").as_origin()
  with runs.Run(out, fields, origin) as run:
    commit(run, [{"seed": 0, "metric": "x", "value": 1}])
    if not half:
      run.finish()
  before = (out / "results.jsonl").read_bytes()
  for _ in range(2 if half else 1):
    result = binaries.execute(binary, run=here / "b", out=out)
    assert result.returncode == 1
    assert f"derived from the run {here / 'a'}" in result.stderr
    assert "complete" not in result.stdout
  assert (out / "results.jsonl").read_bytes() == before


def test_a_run_that_moved_is_still_the_parent(here):
  rewind(here / "a")
  (here / "a").rename(here / "c")
  assert rewind(here / "c")
  out = here / "c" / "rewind" / "config.json"
  parent = json.loads(out.read_text())["origin"]["run"]
  assert parent["path"] == str(here / "a")
  # Trained again in the same place, it is another run.
  shutil.rmtree(here / "b")
  shutil.move(here / "c" / "rewind", here / "rewind")
  studies.run(
    studies.Memorization(config_of(here / "set.npz", seed=1)), here / "b"
  )
  shutil.move(here / "rewind", here / "b" / "rewind")
  with pytest.raises(runs.RunError, match="derived from the run"):
    rewind(here / "b")


def test_done_is_believed_with_its_rows_alone(here, caplog):
  config = config_of(here / "set.npz")
  whole = (here / "a" / "results.jsonl").read_bytes()
  lines = whole.splitlines(keepends=True)
  changes = {
    "deleted": None,
    "empty": b"",
    "cut at a line's end": b"".join(lines[: len(lines) // 2]),
    "a line less": b"".join(lines[:20] + lines[21:]),
    "a score less": b"".join(x for x in lines if b'"loss"' not in x),
  }
  for name, content in changes.items():
    caplog.clear()
    file = here / "a" / "results.jsonl"
    file.unlink() if content is None else file.write_bytes(content)
    assert not runs.is_complete(here / "a"), name
    with caplog.at_level(logging.WARNING):
      found = train(here / "a", config)
    assert "its rows have changed" in caplog.text, name
    assert sorted(file.read_bytes().splitlines()) == sorted(
      whole.splitlines()
    ), name
    assert len(found) == len(lines)
    assert runs.is_complete(here / "a")


def test_a_missing_network_is_named(here, caplog):
  shutil.rmtree(here / "a" / "checkpoints" / "seed0" / "1")
  with caplog.at_level(logging.WARNING):
    rows = rewind(here / "a")
  assert "The networks of epochs 1 of seed 0 are missing" in caplog.text
  assert {row["epoch"] for row in rows if row.get("kind")} == {0, 2}
  # Measured anew it cannot be.
  file = here / "a" / "results.jsonl"
  lines = [x for x in file.read_bytes().splitlines(True) if b'"fc' not in x]
  file.write_bytes(b"".join(lines))
  with pytest.raises(ValueError, match="no checkpoint of epoch 1"):
    train(here / "a", config_of(here / "set.npz"))


def test_rewinds_of_a_notebook_are_measured_if_asked_for(here):
  config = studies.RewindConfig(kinds=("single",), geometry=True)
  rows = rewind(here / "a", config)
  measured = {row["layer"] for row in rows if row["metric"] == "capacity"}
  assert measured == {"logits"}


def test_a_run_finished_elsewhere_gets_its_figures(here):
  assert not (here / "a" / "figures").exists()
  config = config_of(here / "set.npz")
  given = {
    name: value
    for name, value in config.flat().items()
    if value not in (None, False)
  }
  result = binaries.execute("memorization", out=here / "a", **given)
  assert result.returncode == 0, result.stderr
  assert "complete; nothing to do" in result.stdout
  assert list((here / "a" / "figures").glob("*.png"))


EDITED = [
  ({"width": "wide"}, "width is 'wide'; a whole number"),
  ({"width": 4.5}, "width is 4.5; a whole number"),
  ({"width": True}, "width is True; a whole number"),
  ({"num_seeds": 1e9}, "num_seeds is 1000000000.0; a whole number"),
  ({"num_seeds": 10**9}, "at most 10000"),
  ({"seed": 2**40}, "seeds from 0 to 4294967295"),
  ({"model": 7}, "model is 7; text"),
  ({"flip": "yes"}, "flip is 'yes'; true or false"),
  ({"learning_rate": float("inf")}, "learning_rate is inf"),
  ({"kappa": [0.0]}, "kappa is [0.0]; a number"),
  ({"permuted_fraction": None}, "permuted_fraction is None; a number"),
  ({"unknown": 1}, "fields ['unknown']"),
]


def test_a_config_that_was_edited_is_refused_by_field(here):
  """In a process of its own: in the tests' own, jaxtyping checks before."""
  file = here / "a" / "config.json"
  content = json.loads(file.read_text())
  for i, (change, _) in enumerate(EDITED):
    directory = here / f"edited{i}"
    directory.mkdir()
    groups = json.loads(json.dumps(content["config"]))
    for name, value in change.items():
      in_group = (g for g in groups.values() if name in g)
      next(in_group, groups["data"])[name] = value
    edited = content | {"config": groups}
    (directory / "config.json").write_text(json.dumps(edited))
  code = f"""
from geomem import studies, runs
for i in range({len(EDITED)}):
  try:
    studies.TrainedRun(f"{here}/edited{{i}}")
  except runs.RunError as error:
    print(error)
"""
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  lines = result.stdout.splitlines()
  assert len(lines) == len(EDITED)
  for line, (_, sentence) in zip(lines, EDITED, strict=True):
    assert sentence in line


def test_seeds_do_not_repeat_each_other():
  fields.check_seeds(2**32 - 1, 1)
  for first, count in ((2**32 - 1, 2), (2**32, 1), (2**40, 1), (-1, 1)):
    with pytest.raises(ValueError, match="repeat others"):
      fields.check_seeds(first, count)
  with pytest.raises(ValueError, match="at most"):
    fields.check_seeds(0, 10**9)
  for make in (
    studies.make_config,
    studies.model_size_sweep,
    studies.CapacityConfig,
  ):
    with pytest.raises(ValueError, match="repeat others"):
      make(seed=2**40)


def test_labels_from_a_file_are_not_replaced_by_those_of_another(
  here, monkeypatch
):
  experiment = studies.TrainedRun(here / "a").experiment
  (here / "a" / "labels_seed0.npz").unlink()
  studies.prepare_seeds(experiment, here / "a")  # The seed makes them again.
  monkeypatch.setattr(data, "has_own_fraction", lambda _: True)
  with pytest.raises(runs.RunError, match=r"labels_seed0\.npz is missing"):
    studies.prepare_seeds(experiment, here / "a")
