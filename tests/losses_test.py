"""The losses of training: of every epoch, wherever it was cut off."""

import shutil

import pytest

from geomem import runs, studies
from tests.fakes import SMALL_RUN, also_long
from tests.studies_test import KilledError, killer

# Of these epochs 4 and 6 are not saved.
FIELDS = {"epochs": 7, "layers": "last", "measure_epochs": "last"}
CONFIG = studies.make_config(**SMALL_RUN | FIELDS)


def train(path, config=CONFIG, **options) -> runs.Rows:
  return studies.run(studies.Memorization(config), path, **options)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  path = tmp_path_factory.mktemp("calm")
  train(path)
  return path


def lines_of(path) -> list[bytes]:
  return (path / "results.jsonl").read_bytes().splitlines()


def test_one_step_an_epoch_has_the_loss_of_the_network_before(tmp_path):
  whole = {"batch_size": 180, "epochs": 3, "num_seeds": 1, "layers": "last"}
  rows = train(tmp_path, studies.make_config(**SMALL_RUN | whole))
  counts = {s: rows.fact(f"num_{s}")[0] for s in ("unpermuted", "permuted")}
  assert sum(counts.values()) == 180
  found = rows.where("training_loss")
  assert found.distinct("epoch") == [1, 2, 3]
  for row in found:
    before = rows.where("loss", epoch=row["epoch"] - 1)
    expected = sum(
      count * before.where(subset=subset).values[0]
      for subset, count in counts.items()
    )
    assert row["value"] == pytest.approx(expected / 180, rel=1e-5)


def test_every_epoch_of_every_seed_has_one(calm):
  found = runs.read_rows(calm).where("training_loss")
  where = sorted((row["seed"], row["epoch"]) for row in found)
  assert where == [(s, e) for s in (0, 1) for e in range(1, 8)]
  assert len({row["value"] for row in found}) == len(found)


@pytest.mark.parametrize(
  "moves",
  [
    (2, 4, 6),
    *also_long((5, 7), (5,), (7,)),
  ],
)
def test_cut_off_between_saved_epochs_it_ends_with_the_same_rows(
  calm, tmp_path, moves
):
  for move in moves:
    with pytest.raises(KilledError):
      train(tmp_path, progress=killer(move))
  train(tmp_path)
  assert lines_of(tmp_path) == lines_of(calm)


@pytest.mark.parametrize("is_last", [False, True])
def test_a_row_that_was_lost_comes_again_without_training(
  calm, tmp_path, monkeypatch, is_last
):
  shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
  lines = lines_of(tmp_path)
  lost = [x for x in lines if b"training_loss" in x][-1 if is_last else 0]
  lines.remove(lost)
  (tmp_path / "results.jsonl").write_bytes(b"\n".join(lines) + b"\n")

  def refuse(*_, **__):
    raise AssertionError("It is trained already.")

  monkeypatch.setattr("geomem.training.train_seeds", refuse)
  train(tmp_path)
  assert sorted(lines_of(tmp_path)) == sorted(lines_of(calm))


def test_what_an_earlier_version_did_not_keep_is_left_out(tmp_path, caplog):
  with pytest.raises(KilledError):
    train(tmp_path, progress=killer(5))
  (tmp_path / "losses.npz").write_bytes(b"damaged")
  found = train(tmp_path).where("training_loss", seed=0)
  assert "losses.npz is damaged" in caplog.text
  # Rows of before stay; those since the state that was resumed from are new.
  assert found.distinct("epoch") == list(range(1, 8))
  assert found.values.size == 7
