"""Data: sets by name, labels that remember the truth, subsets, batches."""

import inspect
import io
import tarfile
import types
from unittest import mock

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import datasets

from geomem import data, studies
from geomem.data import digits
from geomem.data.dataset import make_dataset
from geomem.data.labels import permutations

FEW = hypothesis.settings(max_examples=20, deadline=None)


def test_digits_are_split_once_and_for_all():
  train, test = (data.load("digits", split) for split in ("train", "test"))
  assert len(train.labels) + len(test.labels) == 1797
  assert not set(train.ids) & set(test.ids)
  assert np.bincount(test.labels).min() >= 34
  assert train.images.dtype == np.uint8
  assert train.images.max() == 255


@FEW
@hypothesis.given(
  fraction=st.floats(0, 1), seed=st.integers(0, 99), redraw=st.booleans()
)
def test_permuted_labels_remember_the_truth(fraction, seed, redraw):
  labels = np.arange(60) % 4
  found = data.permute_labels(
    jax.random.key(seed), labels, fraction, redraw=redraw
  )
  np.testing.assert_array_equal(found.true_labels, labels)
  assert found.permuted.sum() == round(fraction * 60)
  kept = ~found.permuted
  np.testing.assert_array_equal(found.labels[kept], labels[kept])
  if not redraw:  # Shuffled among themselves: the counts stay.
    np.testing.assert_array_equal(
      np.bincount(found.labels, minlength=4), np.bincount(labels, minlength=4)
    )
  same = found.labels[found.permuted] == labels[found.permuted]
  assert found.num_unchanged == same.sum()
  again = data.permute_labels(
    jax.random.key(seed), labels, fraction, redraw=redraw
  )
  np.testing.assert_array_equal(again.labels, found.labels)


def test_redrawn_labels_are_of_all_classes():
  """Of five, though no example is of the last two."""
  images = np.zeros((3000, 2, 2), np.uint8)
  dataset = data.make_dataset(images, np.arange(3000) % 3, list("abcde"))
  labels = data.make_labels("redrawn", jax.random.key(0), dataset, 1.0).labels
  # Five standard deviations of a count.
  assert np.abs(np.bincount(labels, minlength=5) - 600).max() < 110


def test_labels_survive_the_disk(tmp_path):
  labels = data.permute_labels(jax.random.key(0), np.arange(20) % 3, 0.5)
  labels.save(tmp_path / "labels.npz")
  for a, b in zip(
    labels, data.PermutedLabels.load(tmp_path / "labels.npz"), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@FEW
@hypothesis.given(fraction=st.floats(0, 1), seed=st.integers(0, 99))
def test_subsets_are_the_papers(fraction, seed):
  labels = np.arange(80) % 4
  permuted = data.permute_labels(jax.random.key(seed), labels, fraction)
  subsets = data.make_subsets(permuted, np.arange(8) % 4)
  train = [
    subsets[n].indices for n in ("unpermuted", "permuted") if n in subsets
  ]
  assert sorted(np.concatenate(train)) == list(range(80))
  if "permuted" in subsets:
    noisy, restored = subsets["permuted"], subsets["restored"]
    np.testing.assert_array_equal(noisy.indices, restored.indices)
    np.testing.assert_array_equal(noisy.labels, permuted.labels[noisy.indices])
    np.testing.assert_array_equal(restored.labels, labels[restored.indices])
  chosen = data.sample_manifolds(jax.random.key(1), subsets["test"], 4, 2)
  np.testing.assert_array_equal(chosen % 4, np.arange(4)[:, None] * [[1, 1]])
  assert len(set(chosen.ravel())) == 8


def test_permutations_are_jax_s_own():
  # From 1,626 on JAX sorts twice. Others would be other examples and labels
  # than those of runs on disk.
  sizes = [0, 1, 3, 37, 180, 1625, 1626, 2100]
  keys = jax.random.split(jax.random.key(5), len(sizes))
  for key, size, found in zip(
    keys, sizes, permutations(keys, sizes), strict=True
  ):
    np.testing.assert_array_equal(found, jax.random.permutation(key, size))


def test_too_many_points_are_refused_by_class():
  subset = data.Subset("test", "test", np.arange(5), np.array([0, 0, 0, 1, 1]))
  with pytest.raises(ValueError, match="Class 1 has 2 test examples"):
    data.sample_manifolds(jax.random.key(0), subset, 2, 3)


@pytest.mark.parametrize("has_file", [True, False])
def test_digits_are_scikit_learn_s(monkeypatch, tmp_path, has_file):
  if not has_file:
    elsewhere = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: elsewhere)
  pixels, labels = digits._read.__wrapped__()
  monkeypatch.undo()
  expected = datasets.load_digits()
  np.testing.assert_array_equal(pixels, expected.data)
  np.testing.assert_array_equal(labels, expected.target)


def test_normalized_pixels_have_zero_mean_and_unit_variance():
  images = data.load("digits", "train").images
  mean, std = data.pixel_moments(images)
  seen = data.normalize(
    jnp.asarray(images), jnp.asarray(mean), jnp.asarray(std)
  )
  assert float(seen.mean()) == pytest.approx(0, abs=1e-4)
  assert float(seen.std()) == pytest.approx(1, abs=1e-4)


def test_augmentation_moves_and_mirrors():
  images = jnp.arange(64, dtype=jnp.uint8).reshape(1, 8, 8, 1)
  images = jnp.repeat(images, 200, axis=0)
  flipped = data.augment(jax.random.key(0), images, flip=True)
  mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
  same = (flipped == images).all(axis=(1, 2, 3))
  assert bool((mirrored | same).all())
  assert 60 < int(mirrored.sum()) < 140
  cropped = data.augment(jax.random.key(0), images, crop=1)
  assert cropped.shape == images.shape
  centre = np.asarray(cropped[:, 4, 4, 0])
  # Nine corners: the middle pixel comes from its 3 x 3 neighbourhood.
  assert set(centre) == {27, 28, 29, 35, 36, 37, 43, 44, 45}


def write_npz(path, **arrays):
  np.savez(path, **arrays)
  return f"npz:{path}"


def test_own_arrays_and_what_is_wrong_with_them(tmp_path):
  images = np.zeros((6, 4, 4), np.uint8)
  good = write_npz(tmp_path / "good.npz", x_train=images, y_train=np.arange(6))
  assert data.load(good, "train").images.shape == (6, 4, 4, 1)
  with pytest.raises(data.DatasetError, match="no array 'x_test'"):
    data.load(good, "test")
  bad = write_npz(tmp_path / "nolabels.npz", x_train=images)
  with pytest.raises(data.DatasetError, match="no array 'y_train'"):
    data.load(bad, "train")
  floats = images.astype(float)
  bad = write_npz(tmp_path / "float.npz", x_train=floats, y_train=np.arange(6))
  with pytest.raises(data.DatasetError, match="uint8"):
    data.load(bad, "train")
  pickled = np.array([{}, {}], object)
  bad = write_npz(
    tmp_path / "object.npz", x_train=pickled, y_train=np.arange(2)
  )
  with pytest.raises(data.DatasetError, match="cannot be read"):
    data.load(bad, "train")
  with pytest.raises(data.DatasetError, match="There is no file"):
    data.load("npz:nowhere.npz", "train")
  for x, y, told in (
    (images[:0], np.arange(0), r"x_train and .* the shape \(0, 4, 4, 1\)"),
    (images, np.arange(6) - 1, "smallest label is -1"),
  ):
    bad = write_npz(tmp_path / "bad.npz", x_train=x, y_train=y)
    with pytest.raises(data.DatasetError, match=told):
      data.load(bad, "train")
  # One that has moved is found, and one that has not is read where it is.
  (tmp_path / "a").mkdir()
  other = {"x_train": images + 1, "y_train": np.arange(6)}
  moved = write_npz(tmp_path / "a" / "good.npz", **other)
  assert data.load(good, "train", tmp_path / "a").images.max() == 0
  (tmp_path / "good.npz").unlink()
  assert data.load(good, "train", tmp_path / "a").images.max() == 1
  assert data.load(moved, "train", tmp_path).images.max() == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_with_their_channels_first_are_refused(tmp_path, channels):
  images = np.zeros((6, channels, 8, 9), np.uint8)
  name = write_npz(tmp_path / "a.npz", x_train=images, y_train=np.arange(6))
  with pytest.raises(data.DatasetError, match=r"x\.transpose\(0, 2, 3, 1\)"):
    data.load(name, "train")
  mended = images.transpose(0, 2, 3, 1)
  assert data.make_dataset(mended, np.arange(6)).images.shape[3] == channels
  # Small images and many channels are not a mistake.
  for shape in ((6, 3, 3, 2), (6, 8, 8, 13), (6, 1, 1, 4)):
    assert data.make_dataset(np.zeros(shape, np.uint8), np.arange(6))


@pytest.mark.parametrize("labels", [["a", "b"], [], [0.5, 1.5]])
def test_training_labels_are_checked_with_those_of_the_test(tmp_path, labels):
  arrays = {"x_test": np.zeros((2, 4, 4), np.uint8), "y_test": np.arange(2)}
  arrays |= {"x_train": arrays["x_test"], "y_train": np.array(labels)}
  name = write_npz(tmp_path / "a.npz", **arrays)
  with pytest.raises(data.DatasetError, match="The training labels in"):
    data.load(name, "test")


def test_missing_sets_say_what_to_do(tmp_path):
  with pytest.raises(data.DatasetError, match="no data set 'nonesuch'"):
    data.load("nonesuch", "train", tmp_path)
  with pytest.raises(data.DatasetError, match="imagenet2012 is not prepared"):
    data.load("imagenet2012", "train", tmp_path)
  with pytest.raises(data.DatasetError, match="split 'val' is not known"):
    data.load("digits", "val")


def fake_cifar100(path, rng):
  """A small archive in the original binary layout."""
  records = {}
  for split, count in (("train", 30), ("test", 10)):
    rows = rng.integers(0, 256, (count, 2 + 3072), dtype=np.uint8)
    rows[:, 0] %= 20
    rows[:, 1] %= 100
    records[split] = rows
  files = {f"{name}.bin": rows.tobytes() for name, rows in records.items()}
  files["coarse_label_names.txt"] = names(20)
  files["fine_label_names.txt"] = names(100)
  with tarfile.open(path, "w:gz") as archive:
    for name, content in files.items():
      member = tarfile.TarInfo(f"cifar-100-binary/{name}")
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return records


def names(count):
  return "".join(f"name{i}\n" for i in range(count)).encode()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cifar_is_prepared_from_a_hand_placed_archive(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  from geomem.data import cifar

  monkeypatch.setenv("GEOMEM_CACHE", str(tmp_path / "cache"))
  manual = tmp_path / "downloads" / "manual"
  manual.mkdir(parents=True)
  archive = manual / "cifar-100-binary.tar.gz"
  records = fake_cifar100(archive, np.random.default_rng(0))
  info = tfds.core.download.checksums.compute_url_info(archive)
  url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
  with mock.patch.object(cifar.Cifar100, "url_infos", {url: info}):
    loaded = data.load("cifar100", "train", str(tmp_path))
  order = np.argsort(loaded.labels, kind="stable")
  expected = records["train"]
  pixels = expected[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  assert sorted(loaded.labels) == sorted(expected[:, 1])
  assert {x.tobytes() for x in loaded.images} == {x.tobytes() for x in pixels}
  assert len(order) == 30
  # Whatever TFDS shuffled: the ids count as the archive does.
  np.testing.assert_array_equal(loaded.images, pixels[loaded.ids])
  np.testing.assert_array_equal(loaded.labels, expected[loaded.ids, 1])
  coarse = data.load("cifar100#coarse_label", "train", str(tmp_path))
  np.testing.assert_array_equal(coarse.labels, expected[coarse.ids, 0])
  # The stock builder opens it, and so does the cache.
  stock = tfds.builder("cifar100", data_dir=tmp_path)
  assert stock.info.splits["train"].num_examples == 30
  again = data.load("cifar100", "train", str(tmp_path))
  np.testing.assert_array_equal(again.images, loaded.images)


def test_classes_and_examples_are_limited():
  digits = data.load("digits", "train")
  few = data.limit_per_class(data.select_classes(digits, 3), 5)
  np.testing.assert_array_equal(np.bincount(few.labels), [5, 5, 5])
  with pytest.raises(data.DatasetError, match="num_classes is 11"):
    data.select_classes(digits, 11)


@pytest.mark.parametrize(
  "labels",
  [[0.7, 1.9], [True, False], [1, 2**33], np.array([2**32], np.uint64)],
)
def test_labels_to_permute_are_whole_numbers_that_fit(labels):
  permute = inspect.unwrap(data.permute_labels)
  with pytest.raises(ValueError, match="whole numbers of 32 bits"):
    permute(jax.random.key(0), np.asarray(labels), 0.0)


@pytest.mark.parametrize("label", [2, 2**32])
def test_every_label_has_a_class_name(label):
  images = np.zeros((2, 4, 4, 1), np.uint8)
  with pytest.raises(data.DatasetError, match=r"there are 2 class names"):
    make_dataset(images, np.array([label, 1]), ("a", "b"))


def test_labels_without_a_fraction_of_their_own_need_one():
  images = np.zeros((4, 4, 4, 1), np.uint8)
  dataset = make_dataset(images, np.arange(4) % 2)
  with pytest.raises(ValueError, match="from 0 to 1 was expected"):
    data.make_labels("permuted", jax.random.key(0), dataset, None)


@pytest.fixture
def darker(tmp_path):
  """Twelve bright training images and thirty dark test images."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split, count, low in (("train", 12, 100), ("test", 30, 0)):
    shape = (count, 8, 8, 3)
    arrays[f"x_{split}"] = rng.integers(low, low + 100, shape).astype(np.uint8)
    arrays[f"x_{split}"][..., 1] //= 2
    arrays[f"y_{split}"] = np.arange(count) % 2
  np.savez(tmp_path / "set.npz", **arrays)
  return f"npz:{tmp_path}/set.npz", arrays


def prepared(dataset, **fields):
  fields = {"model": "mlp1", "width": 4, "batch_size": 4} | fields
  options = {"dataset": dataset, "manifold_points": 2, "num_probes": 4}
  return studies.prepare(studies.make_config(**options | fields))


def test_pixels_are_scaled_by_the_moments_of_the_training_images(darker):
  dataset, arrays = darker
  experiment = prepared(dataset)
  pixels = arrays["x_train"].astype(np.float64).reshape(-1, 3)
  np.testing.assert_allclose(experiment.mean, pixels.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(experiment.std, pixels.std(axis=0), rtol=1e-5)
  # Of those that are used.
  few = prepared(dataset, examples_per_class=3)
  pixels = arrays["x_train"][:6].astype(np.float64).reshape(-1, 3)
  np.testing.assert_allclose(few.mean, pixels.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(few.std, pixels.std(axis=0), rtol=1e-5)
  assert (np.abs(few.mean - experiment.mean) > 1e-3).all()


def test_examples_per_class_limit_the_training_set_alone(darker):
  dataset, arrays = darker
  experiment = prepared(dataset, examples_per_class=3)
  np.testing.assert_array_equal(experiment.train.labels, [0, 1] * 3)
  np.testing.assert_array_equal(experiment.test.labels, [0, 1] * 15)
  for split, count in (("train", 6), ("test", 30)):
    images = np.asarray(getattr(experiment, split).images)
    np.testing.assert_array_equal(images, arrays[f"x_{split}"][:count])
