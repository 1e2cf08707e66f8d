"""Sets that stay on the disk: the same numbers as in memory, and no more."""

import io
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from geomem import data, runs, studies, training
from geomem.data import streamed
from geomem.studies import experiment as experiments
from geomem.studies.train import train_seeds
from geomem.studies.trained import checkpoints
from geomem.training import windows as windowing
from tests.fakes import fields_of

NUM_CLASSES = 3


def encode(image, kind):
  file = io.BytesIO()
  Image.fromarray(image).save(file, format=kind)
  file.seek(0)
  return file


class _Fake(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A small set that is written here, in TFDS's own format."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "image": tfds.features.Image(shape=self.image_shape),
      "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
    }
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    make = self._generate_examples
    # Without labels, as ImageNet's.
    test = {"test": make(5, labelled=False)} if self.kind == "JPEG" else {}
    return {"train": make(60), "validation": make(24)} | test

  def _generate_examples(self, count, labelled=True):
    rng = np.random.default_rng(count)
    for i in range(count):
      image = encode(self.draw(rng, i % NUM_CLASSES), self.kind)
      yield i, {"image": image, "label": i % NUM_CLASSES if labelled else -1}


class FakeSmall(_Fake, skip_registration=True):
  """Noise about a level that depends on the class, 12 x 12."""

  name = "fake_small"
  image_shape, kind = (12, 12, 3), "PNG"

  def draw(self, rng, label):
    return rng.integers(40 * label, 40 * label + 160, (12, 12, 3), np.uint8)


class FakePhotos(_Fake, skip_registration=True):
  """Smooth images of sides that differ, as JPEG."""

  name = "fake_photos"
  image_shape, kind = (None, None, 3), "JPEG"

  def draw(self, rng, label):
    height, width = rng.integers(40, 300, 2)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [255 * x, 255 * y, 127 + 0 * x]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  directory = tmp_path_factory.mktemp("tfds")
  for kind in (FakeSmall, FakePhotos):
    builder = kind(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
  return str(directory)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("GEOMEM_CACHE", str(tmp_path_factory.mktemp("cache")))


def both(data_dir, split="train"):
  """The small set, streamed and in memory."""
  kept = data.load("fake_small", split, data_dir)
  return data.load("fake_small", split, data_dir, memory_limit=0.0), kept


def test_streamed_images_are_those_in_memory(data_dir):
  stream, kept = both(data_dir)
  builder = tfds.builder("fake_small", data_dir=data_dir)
  source = builder.as_data_source(split="train")
  assert isinstance(stream.images, data.StreamedImages)
  assert isinstance(kept.images, np.ndarray)
  np.testing.assert_array_equal(
    kept.images, np.stack([example["image"] for example in source])
  )
  np.testing.assert_array_equal(
    kept.labels, [example["label"] for example in source]
  )
  np.testing.assert_array_equal(stream.images, kept.images)
  np.testing.assert_array_equal(stream.labels, kept.labels)


@pytest.mark.parametrize(
  "index",
  [
    slice(5, 40, 3),
    np.array([7, 7, 0]),
    np.arange(12).reshape(3, 4),
    np.arange(60) % 2 == 0,
    [3, 1],
    -1,
  ],
  ids=["slice", "repeated", "manifolds", "mask", "list", "one"],
)
def test_indexing_is_numpys(data_dir, index):
  stream, kept = both(data_dir)
  chosen, expected = stream.images[index], kept.images[index]
  assert chosen.shape == expected.shape
  assert (chosen.size, chosen.ndim) == (expected.size, expected.ndim)
  assert chosen.nbytes == expected.nbytes
  np.testing.assert_array_equal(np.asarray(chosen), expected)
  np.testing.assert_array_equal(jnp.asarray(chosen), expected)


def test_choosing_reads_no_image(data_dir):
  with mock.patch.object(streamed, "decode", side_effect=AssertionError):
    train = data.open_split("fake_small", "train", data_dir)
    few = data.limit_per_class(data.select_classes(train, 2), 5)
    assert few.images.shape == (10, 12, 12, 3)
    # Nor the labels a second time.
    with mock.patch.object(data.StreamedImages, "__len__", return_value=60):
      again = data.open_split("fake_small", "train", data_dir)
  np.testing.assert_array_equal(again.labels, train.labels)
  first = [np.flatnonzero(train.labels == label)[:5] for label in (0, 1)]
  np.testing.assert_array_equal(few.ids, np.sort(np.concatenate(first)))


def test_only_what_is_chosen_must_fit(data_dir):
  opened = data.open_split("fake_small", "train", data_dir)
  few = data.limit_per_class(opened, 2)
  limit = few.images.nbytes / 1e9
  assert isinstance(data.hold(few, limit).images, np.ndarray)
  assert data.hold(opened, limit) is opened
  np.testing.assert_array_equal(
    data.hold(few, limit).images, np.asarray(opened.images)[few.ids]
  )


def test_images_that_differ_in_size_are_scaled_and_cut(data_dir):
  stream = data.load("fake_photos", "test", data_dir, image_size=32)
  assert stream.images.shape == (24, 32, 32, 3)
  source = tfds.builder("fake_photos", data_dir=data_dir).as_data_source(
    split="validation"
  )
  for found, example in zip(stream.images, source, strict=True):
    original = Image.fromarray(example["image"])
    scale = 32 / min(original.size)
    size = [round(scale * side) for side in original.size]
    scaled = original.resize(size, Image.Resampling.BILINEAR)
    left, top = (side // 2 - 16 for side in size)
    expected = scaled.crop((left, top, left + 32, top + 32))
    # Half a pixel of the cut, in levels of these smooth images, and JPEG.
    difference = np.abs(found.astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= 8
    assert difference.mean() < 2
  standard = data.open_split("fake_photos", "test", data_dir)
  assert standard.images.shape == (24, 224, 224, 3)


def test_the_color_of_an_image_becomes_that_of_its_set():
  grey = encode(np.full((8, 8), 77, np.uint8), "PNG").read()
  assert (streamed.decode(grey, (8, 8, 3)) == 77).all()
  color = encode(np.full((8, 8, 3), 77, np.uint8), "PNG").read()
  assert streamed.decode(color, (4, 4, 1)).shape == (4, 4, 1)


def test_a_damaged_image_is_named():
  source = mock.Mock(
    __getitems__=lambda keys: [{"image": b"nothing"} for _ in keys]
  )
  images = streamed.StreamedImages("a set", source, (4, 4, 3), np.arange(9))
  with pytest.raises(ValueError, match="Image 5 of a set cannot be decoded"):
    np.asarray(images[5:6])


def test_moments_are_of_a_sample_that_is_always_the_same(data_dir):
  stream, kept = both(data_dir)
  exact = data.pixel_moments(kept.images)
  for found, expected in zip(
    data.pixel_moments(stream.images), exact, strict=True
  ):
    np.testing.assert_array_equal(found, expected)
  with mock.patch("geomem.data.batches.MOMENTS_SAMPLE", 30):
    first, second = (data.pixel_moments(stream.images) for _ in range(2))
  np.testing.assert_array_equal(first, second)
  assert not np.array_equal(first, exact)
  np.testing.assert_allclose(first, exact, rtol=0.1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_windows_hold_what_the_steps_take(data_dir, steps):
  stream, kept = both(data_dir)
  rng = np.random.default_rng(0)
  batches = jnp.asarray(rng.integers(0, 60, (10, 2, 4)))  # Steps, seeds, batch.
  labels = jnp.asarray(rng.integers(0, 3, (2, 60)))
  keys = jax.random.split(jax.random.key(0), (10, 2))
  moments = jnp.zeros(3), jnp.ones(3)
  bytes_per_step = 8 * 12 * 12 * 3
  with mock.patch.object(windowing, "_WINDOW_BYTES", steps * bytes_per_step):
    found = list(
      windowing.windows(
        training.TrainingData(stream.images, labels, *moments),
        batches,
        keys,
        10,
      )
    )
  assert len(found) == 10 // steps
  seen, step = set(), 0
  for window, within, window_keys in found:
    seen.add(jax.tree.map(jnp.shape, (window, within)))
    for indices, key in zip(within, window_keys, strict=True):
      assert bool((key == keys[step]).all())
      for seed in range(2):
        mine = batches[step, seed]
        images = window.images[indices[seed]]
        np.testing.assert_array_equal(images, kept.images[mine])
        np.testing.assert_array_equal(
          window.labels[seed, indices[seed]], labels[seed, mine]
        )
      step += 1
  assert step == 10
  assert len(seen) == 1  # One program serves all windows.


def test_the_rest_of_an_epoch_has_the_windows_of_the_whole(data_dir):
  """Of 12 steps, windows of 3; of the 6 that are left alone they would be 6."""
  stream, _ = both(data_dir)
  moments = jnp.zeros(3), jnp.ones(3)
  data = training.TrainingData(stream.images, jnp.zeros((1, 60), int), *moments)
  batches = jnp.arange(24).reshape(12, 1, 2)
  keys = jax.random.split(jax.random.key(0), (12, 1))

  def lengths(start, whole):
    rest = batches[start:], keys[start:]
    windows = windowing.windows(data, *rest, whole)
    return [len(window_keys) for _, _, window_keys in windows]

  with mock.patch.object(windowing, "_WINDOW_BYTES", 3 * 2 * 12 * 12 * 3):
    assert lengths(0, 12) == [3] * 4
    assert lengths(3, 12) == [3] * 3
  with mock.patch.object(windowing, "_WINDOW_BYTES", 7 * 2 * 12 * 12 * 3):
    assert lengths(0, 12) == [6, 6]
    assert lengths(6, 12) == lengths(6, 6) == [6]
  with mock.patch.object(windowing, "_WINDOW_BYTES", 5 * 2 * 12 * 12 * 3):
    # Alone, the seven steps of a prime number would be windows of one.
    assert lengths(0, 12) == [4] * 3
    assert lengths(8, 12) == [4]


def test_a_set_in_memory_is_one_window():
  moments = jnp.zeros(1), jnp.ones(1)
  three = (
    training.TrainingData(jnp.zeros((4, 2, 2, 1)), jnp.zeros(4, int), *moments),
    jnp.zeros((2, 1, 2), int),
    jax.random.split(jax.random.key(0), (2, 1)),
  )
  ((images, batches, keys),) = windowing.windows(*three, 2)
  assert (images, batches, keys) == three


def test_a_run_cut_off_within_an_epoch_goes_on_there(data_dir, tmp_path):
  config = studies.make_config(
    dataset="fake_small",
    data_dir=data_dir,
    memory_limit=0.0,
    model="mlp1",
    width=8,
    epochs=2,
    batch_size=8,
    crop=1,
    manifold_points=3,
  )
  experiment = studies.prepare(config)
  seed = studies.prepare_seed(experiment, 0)
  states, steps = {}, []

  def train(name, most=None):
    original = windowing.read_ahead

    def read_ahead(images, rows, place):
      for i, window in enumerate(original(images, rows, place)):
        if len(steps) == most:
          raise KeyboardInterrupt
        steps.append(rows[i])
        yield window

    with (
      runs.Run(tmp_path / name, fields_of(config)) as run,
      mock.patch.object(windowing, "read_ahead", read_ahead),
      mock.patch.object(windowing, "_WINDOW_BYTES", 1),
      mock.patch("geomem.training.loop.STEPS_BETWEEN_STATES", 4),
    ):
      for _ in train_seeds(run, experiment, [seed]):
        pass
    with checkpoints(tmp_path / name, 0) as saved:
      states[name] = saved.load(2, experiment.network.abstract_state)

  train("whole")  # Seven steps an epoch.
  whole = steps.copy()
  steps.clear()
  with pytest.raises(KeyboardInterrupt):
    train("cut", most=12)
  train("cut")
  # Of the second epoch five steps were done, and of these four were saved.
  assert len(whole) == 14
  np.testing.assert_array_equal(steps, [*whole[:12], *whole[11:]])
  jax.tree.map(np.testing.assert_array_equal, states["cut"], states["whole"])
  # The loss of an epoch is that of all of its steps, wherever it was cut.
  rows = [runs.read_rows(tmp_path / name) for name in ("cut", "whole")]
  assert rows[0] == rows[1]
  assert rows[0].where("training_loss").distinct("epoch") == [1, 2]


def run_rows(tmp_path, config):
  """Training images, and the rows of a whole run: scores and geometry."""
  study = studies.Memorization(config)
  rows = studies.run(study, tmp_path)
  images = experiments.training_data(study.experiment, study.seeds[0]).images
  return images, rows


@pytest.mark.slow
def test_a_streamed_run_gives_the_same_rows(data_dir, tmp_path):
  options = {
    "dataset": "fake_small",
    "data_dir": data_dir,
    "model": "mlp1",
    "width": 8,
    "epochs": 2,
    "batch_size": 8,
    "crop": 1,
    "flip": True,
    "num_seeds": 2,
    "manifold_points": 3,
    "measures": "collapse",
    "layers": "last",
  }
  found = {}
  for limit in (None, 0.0):
    config = studies.make_config(**options, memory_limit=limit)
    images, found[limit] = run_rows(tmp_path / str(limit), config)
  assert isinstance(images, data.StreamedImages)
  assert {row["metric"] for row in found[None]} >= {"accuracy", "cdnv"}
  assert found[0.0] == found[None]


def test_what_cannot_be_asked_for():
  with pytest.raises(data.DatasetError, match="digits is not resized"):
    data.load("digits", "train", image_size=16)
  with pytest.raises(data.DatasetError, match="image_size is 0"):
    data.load("fake_small", "train", image_size=0)
