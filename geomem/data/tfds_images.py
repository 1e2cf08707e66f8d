"""Image sets of TensorFlow Datasets, read without TensorFlow."""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from tqdm import tqdm

from geomem import disk
from geomem.data import cifar, prepared
from geomem.data.dataset import (
  DamagedError,
  Dataset,
  DatasetError,
  make_dataset,
)
from geomem.data.streamed import StreamedImages, threads

STANDARD_SIZE = 224  # Of images that differ in size: ImageNet's usual.
_BLOCK = 512


def open_builder(name: str, data_dir: str | os.PathLike | None):
  """Opens a prepared set; CIFAR is prepared where it is missing.

  Raises:
    DatasetError: the set is unknown, not prepared or damaged, with what to do.
  """
  directory = prepared.find(name, data_dir)
  if directory is not None:
    return prepared.open_directory(directory)
  searched = pathlib.Path(data_dir or prepared.standard_directory())
  searched = searched.expanduser()
  if name in cifar.BUILDERS:
    return cifar.prepare(name, searched)
  if re.split("[/:]", name)[0] not in tfds.list_builders(
    with_community_datasets=False
  ):
    raise DatasetError(
      f"There is no data set {name!r}: it is not digits, npz:PATH, a TFDS name"
      f" or a prepared directory in {searched}."
    )
  raise DatasetError(
    f"{name} is not prepared as array_record in {searched}. Prepare it once"
    f" with TFDS, tfds build {name} --file_format=array_record (for image sets"
    " this needs TensorFlow; ImageNet's archives must be placed by hand, as its"
    " licence asks), or give another directory with --data_dir."
  )


def open_split(
  name: str,
  split: str,
  data_dir: str | os.PathLike | None,
  image_size: int | None = None,
) -> Dataset:
  """Opens one split; its labels are read, its images stay on the disk.

  Where the set gives its examples numbers (`id`, as CIFAR's have them), these
  are their ids: TFDS shuffles what it prepares.

  Args:
    name: of the set; behind `#`, the feature that holds the labels, such as
      `cifar100#coarse_label`; `label` by default.
    split: `train` or `test`.
    data_dir: where TFDS looks.
    image_size: the side of the images; their own by default, and
      `STANDARD_SIZE` where the set does not declare one size for all.
  """
  name, _, key = name.partition("#")
  key = key or "label"
  builder = open_builder(name, data_dir)
  splits = builder.info.splits
  chosen = "validation" if split not in splits and split == "test" else split
  if chosen not in splits:
    raise DatasetError(
      f"{name} has no split {split!r}; it has {', '.join(sorted(splits))}."
    )
  features = builder.info.features
  if key not in features or "image" not in features:
    raise DatasetError(
      f"{name} has features {sorted(features)}; an image set"
      f" with features image and {key} was expected."
    )
  if not isinstance(features["image"], tfds.features.Image) or not isinstance(
    features[key], tfds.features.ClassLabel
  ):
    raise DatasetError(
      f"{name} has an image feature {type(features['image']).__name__} and a"
      f" label feature {type(features[key]).__name__}; Image and ClassLabel"
      " were expected."
    )
  shape = _image_shape(name, features["image"], image_size)
  images, labels, ids = _open(builder, chosen, shape, key)
  if chosen == "test" and labels.max() < 0 and "validation" in splits:
    # ImageNet's test images, where they are there, come without labels.
    images, labels, ids = _open(builder, "validation", shape, key)
  names = features[key].names
  if labels.max() >= len(names):
    raise DatasetError(
      f"{name} has a label {labels.max()}, and {len(names)} classes; prepare"
      " the set again."
    )
  return make_dataset(images, labels, names)._replace(ids=ids)


def _open(
  builder, split: str, shape, key: str
) -> tuple[StreamedImages, np.ndarray, np.ndarray]:
  prepared.check_files(builder, split)
  source = builder.as_data_source(
    split=split, decoders={"image": tfds.decode.SkipDecoding()}
  )
  name = _fingerprint(builder, split)
  features = builder.info.features
  has_ids = "id" in features and isinstance(features["id"], tfds.features.Text)

  def read(column: str, number: Callable[[Any], int]) -> np.ndarray:
    return cached(
      name if column == "label" else f"{name}-{column}",
      lambda: _read_column(source, name, lambda x: number(x[column])),
      (len(source),),
      np.int32,
    )

  labels, ids = read(key, int), np.arange(len(source))
  if has_ids:
    found = read("id", _number)
    if len(np.unique(found)) == len(found) and found.min() >= 0:
      ids = found.astype(ids.dtype)
  return StreamedImages(name, source, shape), labels, ids


def _number(name: bytes) -> int:
  """Returns the number that an id such as `train_00012` ends with, or -1."""
  found = re.search(rb"(?<!\d)\d{1,9}$", name)
  return int(found[0]) if found else -1


def _image_shape(name: str, feature, size: int | None) -> tuple[int, int, int]:
  height, width, channels = feature.shape
  if feature.np_dtype != np.uint8 or channels not in (1, 3, 4):
    raise DatasetError(
      f"The images of {name} are {feature.np_dtype} with {channels} channels;"
      " uint8 with 1, 3 or 4 was expected."
    )
  if size is None and None not in (height, width):
    return height, width, channels
  size = STANDARD_SIZE if size is None else size
  return size, size, channels


def _fingerprint(builder, split: str) -> str:
  files = sorted(pathlib.Path(builder.data_path).iterdir())
  # Where they lie counts, too: a copy's times may be those of the original.
  stamp = [
    (str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files
  ]
  digest = hashlib.sha256(repr((builder.info.full_name, stamp)).encode())
  name = builder.info.full_name.replace("/", "-")
  return f"{name}-{split}-{digest.hexdigest()[:12]}"


def _read_column(source, name: str, of: Callable[[Any], int]) -> np.ndarray:
  """Reads a number of every example; the images are not decoded."""
  numbers = np.empty(len(source), np.int32)

  def read(start: int) -> int:
    block = list(range(start, min(start + _BLOCK, len(source))))
    try:
      examples = source.__getitems__(block)
      numbers[block] = [of(example) for example in examples]
    except Exception as error:  # The reader's, the parser's and our own.
      raise DamagedError(
        f"Examples {block[0]} to {block[-1]} of {name} cannot be read"
        f" ({error}); prepare the data set again."
      ) from error
    return len(block)

  with tqdm(total=len(source), desc=f"labels of {name}", disable=None) as bar:
    for count in threads().map(read, range(0, len(source), _BLOCK)):
      bar.update(count)
  return numbers


def read_all(images: StreamedImages) -> UInt8[np.ndarray, "n H W C"]:
  """Reads all pixels, from the cache if they are there."""
  chosen = repr((images.shape, images.indices.tobytes())).encode()
  digest = hashlib.sha256(chosen).hexdigest()[:12]

  def decode_all() -> np.ndarray:
    blocks = range(0, len(images), _BLOCK)
    pixels = np.empty(images.shape, images.dtype)
    for start in tqdm(blocks, f"reading {images.name}", disable=None):
      pixels[start : start + _BLOCK] = images[start : start + _BLOCK]
    return pixels

  return cached(
    f"{images.name}-{digest}", decode_all, images.shape, images.dtype
  )


def cached(
  name: str,
  make: Callable[[], np.ndarray],
  shape: tuple[int, ...],
  dtype: np.typing.DTypeLike,
) -> np.ndarray:
  """Loads an array from the cache, or makes and caches it.

  Args:
    name: of the file; it stands for the content.
    make: makes the array.
    shape: what it has to have.
    dtype: likewise.
  """
  file = disk.cache_directory() / f"{name}.npy"
  try:
    # As a map first: what the header says may be anything.
    kept = np.load(file, mmap_mode="r", allow_pickle=False)
    if (kept.shape, kept.dtype) == (tuple(shape), np.dtype(dtype)):
      return np.array(kept)
  except (OSError, ValueError, EOFError):
    pass  # Not there, or damaged: made again.
  array = make()
  temporary = file.with_name(f".{file.stem}.{os.getpid()}.npy")
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(temporary, array)
    os.replace(temporary, file)
  except OSError:  # A cache is a convenience: a full disk does not matter.
    temporary.unlink(missing_ok=True)
  return array
