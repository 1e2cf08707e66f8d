"""Image sets of TensorFlow Datasets, read without TensorFlow."""

import concurrent.futures
import hashlib
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from geomem.data import cifar
from geomem.data.datasets import Dataset, DatasetError, make_dataset

_BLOCK = 500


def cache_directory() -> pathlib.Path:
  """Where decoded sets are kept: `$GEOMEM_CACHE`, or the user's cache."""
  default = os.environ.get("XDG_CACHE_HOME", "~/.cache")
  path = os.environ.get("GEOMEM_CACHE", os.path.join(default, "geomem"))
  return pathlib.Path(path).expanduser()


def open_builder(name: str, data_dir: str | os.PathLike | None):
  """The builder of a prepared set; CIFAR is prepared where it is missing.

  Raises:
    DatasetError: the set is unknown or not prepared, with what to do.
  """
  searched = str(data_dir) if data_dir else tfds.core.constants.DATA_DIR
  searched = os.path.expanduser(searched)
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
  except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
    raise DatasetError(
      f"There is no data set {name!r}: it is not digits, npz:PATH, a TFDS name"
      f" or a prepared directory in {searched}."
    ) from error
  except ImportError as error:
    raise DatasetError(
      f"{name} is not prepared in {searched}, and to prepare it TFDS needs"
      f" {error.name}. Prepare it once where that is installed, as"
      " array_record, and give the directory with --data_dir."
    ) from error
  if _is_prepared(builder):
    return builder
  if name.split("/")[0].split(":")[0] in cifar.BUILDERS:
    return cifar.prepare(name, searched)
  raise DatasetError(
    f"{name} is not prepared as array_record in {searched}. Prepare it once"
    f" with TFDS, tfds build {name} --file_format=array_record (for image sets"
    " this needs TensorFlow; ImageNet's archives must be placed by hand, as its"
    " licence asks), or give another directory with --data_dir."
  )


def _is_prepared(builder) -> bool:
  try:
    return bool(builder.info.splits)
  except (OSError, ValueError):
    return False


def load(name: str, split: str, data_dir: str | os.PathLike | None) -> Dataset:
  """Reads a whole split, from the cache of decoded pixels if it is there."""
  builder = open_builder(name, data_dir)
  splits = builder.info.splits
  chosen = "validation" if split not in splits and split == "test" else split
  if chosen not in splits:
    raise DatasetError(
      f"{name} has no split {split!r}; it has {', '.join(sorted(splits))}."
    )
  features = builder.info.features
  if "label" not in features or "image" not in features:
    raise DatasetError(
      f"{name} has features {sorted(features)}; an image set"
      " with features image and label was expected."
    )
  images, labels = _read_cached(builder, chosen)
  return make_dataset(images, labels, features["label"].names)


def _read_cached(builder, split: str):
  cached = cache_directory() / f"{_fingerprint(builder, split)}.npz"
  try:
    with np.load(cached, allow_pickle=False) as arrays:
      return arrays["images"], arrays["labels"]
  except (OSError, ValueError, KeyError, EOFError):
    pass  # Not there, or damaged: read again.
  except Exception as error:
    if type(error).__name__ != "BadZipFile":
      raise
  images, labels = _decode(builder, split)
  temporary = cached.with_name(f".{cached.stem}.{os.getpid()}.npz")
  try:
    cached.parent.mkdir(parents=True, exist_ok=True)
    np.savez(temporary, images=images, labels=labels)
    os.replace(temporary, cached)
  except OSError:  # A cache is a convenience: a full disk does not matter.
    temporary.unlink(missing_ok=True)
  return images, labels


def _fingerprint(builder, split: str) -> str:
  files = sorted(pathlib.Path(builder.data_path).iterdir())
  stamp = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
  digest = hashlib.sha256(repr((builder.info.full_name, stamp)).encode())
  name = builder.info.full_name.replace("/", "-")
  return f"{name}-{split}-{digest.hexdigest()[:12]}"


def _decode(builder, split: str):
  source = builder.as_data_source(split=split)
  starts = range(0, len(source), _BLOCK)

  def read(start):
    rows = source.__getitems__(
      list(range(start, min(start + _BLOCK, len(source))))
    )
    return [row["image"] for row in rows], [row["label"] for row in rows]

  images, labels = [], []
  # Decoding a PNG lets go of Python's lock.
  with (
    concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    tqdm(total=len(source), desc=f"reading {builder.name} {split}") as bar,
  ):
    for block, block_labels in pool.map(read, starts):
      images += block
      labels += block_labels
      bar.update(len(block))
  shapes = {image.shape for image in images}
  if len(shapes) > 1:
    raise DatasetError(
      f"The images of {builder.name} differ in size ({len(shapes)} sizes); use"
      " a resized set, such as imagenet_resized/64x64."
    )
  return np.stack(images), np.asarray(labels)
