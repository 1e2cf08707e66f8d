"""Data and runs of somebody else: nothing in them is executed or believed."""

import json
import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from geomem import data, runs, training
from geomem.data import tfds_images
from tests import streamed_test

_INFO, _FEATURES = "dataset_info.json", "features.json"
_SHARD = "fake_small-train.array_record-00000-of-00001"


class Bomb:
  """Writes a file when it is unpickled."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  directory = tmp_path_factory.mktemp("tfds")
  streamed_test.FakeSmall(
    data_dir=directory, file_format="array_record"
  ).download_and_prepare()
  return directory


@pytest.fixture
def here(original, tmp_path, monkeypatch):
  """A copy of the set in the working directory, with code beside it."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setenv("GEOMEM_CACHE", str(tmp_path / "cache"))
  shutil.copytree(original, tmp_path / "tfds")
  code = "import pathlib\npathlib.Path('executed').touch()\n"
  for name in ("evil.py", "fake_small.py", "tfds/fake_small/fake_small.py"):
    (tmp_path / name).write_text(code)
  yield tmp_path / "tfds" / "fake_small" / "1.0.0"
  assert not (tmp_path / "executed").exists()


def load(here, name="fake_small", split="train"):
  return data.load(name, split, here.parent.parent)


def change(file, *replacements):
  text = file.read_text()
  for old, new in replacements:
    assert old in text
    text = text.replace(old, new)
  file.write_text(text)


OWN = "tensorflow_datasets.core.features."
IMAGE = OWN + "image_feature.Image"


@pytest.mark.parametrize(
  "replacements",
  [
    [(IMAGE, "evil.Image")],
    [(IMAGE, "evil.Image"), ("pythonClassName", "python_class_name")],
    [(IMAGE, "fake_small.Image")],
    [(IMAGE, "tensorflow_datasets.core.features.image_feature.evil")],
    [
      ("tensorflow_datasets.core.features.features_dict.FeaturesDict", "evil.D")
    ],
  ],
)
def test_classes_that_a_set_names_are_not_imported(here, replacements):
  change(here / _FEATURES, *replacements)
  with pytest.raises(data.DatasetError, match="code that comes with data"):
    load(here)


def test_classes_in_the_form_of_old_versions_are_not_imported(here):
  inner = {"type": "evil.Image", "content": {}}
  content = {
    "type": OWN + "features_dict.FeaturesDict",
    "content": {"image": inner},
  }
  (here / _FEATURES).write_text(json.dumps(content))
  with pytest.raises(data.DatasetError, match=r"evil\.Image"):
    load(here)


@pytest.mark.parametrize(
  "name",
  [
    "evil:fake_small",
    "kaggle:fake_small",
    "../tfds/fake_small",
    "/etc/passwd",
    "fake_small/../../evil",
    "fake_small:evil",
    "",
  ],
)
def test_names_with_namespaces_and_paths_are_refused(here, name):
  with pytest.raises(data.DatasetError, match=r"data set"):
    load(here, name)


def test_a_set_of_its_own_package_runs_no_code(here):
  """The set is read from its files; no class of that name is looked for."""
  assert len(load(here).labels) == 60


DAMAGE = {
  "cut": lambda b: b[: len(b) // 2],
  "a byte short": lambda b: b[:-1],
  "empty": lambda b: b"",
  "zeros": lambda b: bytes(len(b)),
  "flipped": lambda b: bytes(
    x ^ 255 if i > len(b) // 10 else x for i, x in enumerate(b)
  ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [_SHARD, _INFO, _FEATURES])
def test_damaged_files_are_named(here, name, damage):
  file = here / name
  file.write_bytes(DAMAGE[damage](file.read_bytes()))
  with pytest.raises(data.DatasetError, match=r"damaged|cannot be read"):
    load(here)


def test_damage_within_an_image_is_named(here):
  """Beside the labels, which have been read and kept."""
  load(here)
  file = here / _SHARD
  content = bytearray(file.read_bytes())
  content[4000:4100] = bytes(100)
  file.write_bytes(content)
  with pytest.raises(ValueError, match="prepare the data set again"):
    load(here)


def test_a_missing_shard_is_named(here):
  (here / _SHARD).unlink()
  with pytest.raises(data.DatasetError, match=f"{_SHARD} is missing"):
    load(here)


@pytest.mark.parametrize("count", ["1000000000000", "61", "59", "-1", "x", "0"])
def test_counts_of_examples_are_not_believed(here, count):
  change(here / _INFO, ('"60"', f'"{count}"'))
  with pytest.raises(data.DatasetError, match="damaged"):
    load(here)


def test_labels_beyond_the_classes_are_refused(here):
  change(here / _FEATURES, ('"numClasses": "3"', '"numClasses": "2"'))
  (here / "label.labels.txt").unlink(missing_ok=True)
  with pytest.raises(data.DatasetError, match="label 2, and 2 classes"):
    load(here)


def test_sets_of_another_format_say_so(here):
  change(here / _INFO, ("array_record", "tfrecord"))
  with pytest.raises(data.DatasetError, match="prepared as tfrecord"):
    load(here)


def test_directories_and_versions_that_are_others(here):
  above = here.parent.parent
  for given in (here, here.parent):
    with pytest.raises(data.DatasetError, match=f"--data_dir={above}"):
      data.load("fake_small", "train", given)
  with pytest.raises(data.DatasetError, match=r"there is version 1\.0\.0"):
    load(here, "fake_small:9.9.9")
  assert len(load(here, "fake_small:1.0.0").labels) == 60
  shutil.copytree(here, above / "fake_small" / "1.10.0")
  change(above / "fake_small/1.10.0" / _INFO, ("1.0.0", "1.10.0"))
  shutil.copytree(here, above / "fake_small" / "1.9.0")
  builder = tfds_images.open_builder("fake_small", above)
  assert str(builder.version) == "1.10.0"


def test_configs_are_told_apart(here):
  above = here.parent.parent
  for config in ("small", "large"):
    shutil.copytree(here, above / "other" / config / "1.0.0")
  with pytest.raises(data.DatasetError, match="other/large, other/small"):
    load(here, "other")
  assert tfds_images.open_builder("other/small", above)
  shutil.rmtree(above / "other" / "large")
  assert tfds_images.open_builder("other", above)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, object])
def test_what_lies_in_the_cache_is_not_believed(here, dtype):
  good = load(here)
  files = list((here.parent.parent.parent / "cache").glob("*.npy"))
  assert len(files) == 2  # Images and labels.
  for file in files:
    bad = np.zeros(3, dtype)
    if dtype is object:
      bad[0] = Bomb("executed")
    np.save(file, bad, allow_pickle=True)
  again = load(here)
  np.testing.assert_array_equal(again.images, good.images)
  np.testing.assert_array_equal(again.labels, good.labels)


def test_a_cache_that_cannot_be_written_is_none(here, monkeypatch):
  """A file lies where the directory would be."""
  monkeypatch.setenv("GEOMEM_CACHE", str(here / _FEATURES))
  assert len(load(here).labels)


def test_what_a_killed_process_left_in_the_cache_goes(here):
  cache = here.parent.parent.parent / "cache"
  cache.mkdir()
  left = cache / ".pixels.npy.elsewhere.1.partial"
  left.touch()
  os.utime(left, (0, 0))
  load(here)
  assert {file.suffix for file in cache.iterdir()} == {".npy"}


def test_a_flipped_bit_in_the_cache_is_found(here):
  good = load(here)
  cache = here.parent.parent.parent / "cache"
  files = sorted(cache.glob("*.npy"))
  assert {np.load(file).ndim for file in files} == {1, 4}
  for file in files:
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
  again = load(here)
  np.testing.assert_array_equal(again.images, good.images)
  np.testing.assert_array_equal(again.labels, good.labels)
  times = [file.stat().st_mtime_ns for file in files]
  load(here)  # From the cache, which was mended.
  assert [file.stat().st_mtime_ns for file in files] == times


def test_copies_with_other_images_do_not_share_a_cache(here):
  """Though names, sizes and times are the same."""
  import os

  other = here.parent.parent.parent / "other"
  shutil.copytree(here.parent.parent, other)
  first, second = here / _SHARD, other / "fake_small" / "1.0.0" / _SHARD
  stat = first.stat()
  os.utime(second, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  names = [
    tfds_images.open_split("fake_small", "train", path).images.name
    for path in (here.parent.parent, other)
  ]
  assert names[0] != names[1]


def test_pickles_in_arrays_are_not_loaded(tmp_path):
  marker = tmp_path / "executed"
  bomb = np.array([Bomb(marker)], object)
  np.savez(tmp_path / "a.npz", x_train=bomb, y_train=bomb)
  with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
    archive.writestr("x_train.npy", pickle.dumps(Bomb(marker)))
    archive.writestr("y_train.npy", pickle.dumps(Bomb(marker)))
  (tmp_path / "c.npz").write_bytes(pickle.dumps(Bomb(marker)))
  for name in "abc":
    with pytest.raises(data.DatasetError):
      data.load(f"npz:{tmp_path / name}.npz", "train")
    with pytest.raises(data.DatasetError, match="cannot be read"):
      data.PermutedLabels.load(tmp_path / f"{name}.npz")
  assert not marker.exists()


def test_pickles_in_checkpoints_are_not_loaded(tmp_path):
  """Whatever file of a checkpoint is replaced by one."""
  marker = tmp_path / "executed"
  tree = {"fc": {"kernel": np.arange(12, dtype=np.float32)}}
  with training.Checkpoints(tmp_path / "saved") as saved:
    saved.save(1, tree)
  files = [x for x in (tmp_path / "saved").rglob("*") if x.is_file()]
  assert files
  for i, file in enumerate(files):
    copy = tmp_path / f"copy{i}"
    shutil.copytree(tmp_path / "saved", copy)
    changed = copy / file.relative_to(tmp_path / "saved")
    changed.write_bytes(pickle.dumps(Bomb(marker)))
    try:
      with training.Checkpoints(copy) as saved:
        found = saved.load(1, tree)
        np.testing.assert_array_equal(
          found["fc"]["kernel"], tree["fc"]["kernel"]
        )
    except training.CheckpointError:
      pass
    assert not marker.exists(), file


def test_rows_and_configs_are_read_as_json_alone(tmp_path):
  marker = tmp_path / "executed"
  code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
  (tmp_path / "config.json").write_bytes(pickle.dumps(Bomb(marker)))
  with pytest.raises(runs.RunError, match="damaged"):
    runs.read_config(tmp_path)
  good = json.dumps(dict.fromkeys(runs.COLUMNS) | {"metric": "a"}).encode()
  rows = [pickle.dumps(Bomb(marker)), code.encode(), good, b""]
  (tmp_path / "results.jsonl").write_bytes(b"\n".join(rows))
  assert [row["metric"] for row in runs.read_rows(tmp_path)] == ["a"]
  assert not marker.exists()


def test_the_check_itself_knows_what_tfds_would_do(here):
  """Without it, the class would be imported: these tests could fail."""
  change(here / _FEATURES, (IMAGE, "evil.Image"))
  with pytest.raises(ValueError, match="Unrecognized"):
    tfds.builder_from_directory(here)
  executed = here.parent.parent.parent / "executed"
  assert executed.exists()
  executed.unlink()
