"""The labels that the benchmark of human noise compares."""

import numpy as np

from benchmarks import human_noise
from geomem import data


def fake_load(name, split, data_dir):
  del data_dir
  assert name == "cifar100"
  rng = np.random.default_rng(len(split))
  labels = rng.permutation(np.repeat(np.arange(25), 30))
  names = [n for group in human_noise.SUPERCLASSES for n in group]
  names = [*names[::-1], "bear", "bee", "bus", "cat", "chair"]
  images = rng.integers(256, size=(len(labels), 2, 2, 3), dtype=np.uint8)
  images[:, 0, 0, 0] = labels  # To be told apart by.
  return data.make_dataset(images, labels, tuple(names))


def fake_people(key, dataset, fraction, name):
  del key, fraction
  assert name == "noisy_label"
  rng = np.random.default_rng(1)
  drawn = rng.integers(25, size=len(dataset.labels))
  given = np.where(rng.random(len(drawn)) < 0.4, drawn, dataset.labels)
  return data.PermutedLabels(given, dataset.labels, given != dataset.labels)


def confusions(given, true):
  found = np.zeros((20, 20), int)
  np.add.at(found, (true, given), 1)
  return found


def test_shuffled_labels_keep_who_is_taken_for_whom(tmp_path, monkeypatch):
  monkeypatch.setattr(data, "load", fake_load)
  monkeypatch.setitem(data.LABELS, "cifar_n", fake_people)
  wrong = human_noise.prepare(tmp_path, None, per_class=15)
  with np.load(tmp_path / "images.npz") as arrays:
    true, images = arrays["y_train"], arrays["x_train"]
    assert set(arrays["y_test"]) == set(range(20))
  human, shuffled = (
    np.load(tmp_path / f"{name}.npy") for name in ("human", "shuffled")
  )
  assert np.bincount(true).tolist() == [15] * 20
  # Names, not numbers, say which class is which: here they are backwards.
  np.testing.assert_array_equal(images[:, 0, 0, 0], 19 - true)
  assert 0.25 < wrong < 0.4
  assert wrong == (human != true).mean() == (shuffled != true).mean()
  np.testing.assert_array_equal(
    confusions(human, true), confusions(shuffled, true)
  )
  assert (human != shuffled).mean() > 0.2


def test_as_many_labels_are_wrong_in_every_run(tmp_path):
  made = {
    kind: human_noise.make_config(kind, tmp_path, 0.38, manifold_points=7)
    for kind in human_noise.KINDS
  }
  assert made["permuted"].data.permuted_fraction == 0.4
  assert made["human"].data.labels == f"file:{tmp_path / 'human'}.npy"
  alike = {
    repr((config.model, config.training, config.measure))
    for config in made.values()
  }
  assert len(alike) == 1
