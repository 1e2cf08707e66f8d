"""Image sets of TensorFlow Datasets, read without TensorFlow."""

import contextlib
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

STANDARD_SIZE = 224  # For sets whose images differ in size, as for ImageNet.
_BLOCK = 512
_SUM_BYTES = 4


def open_builder(name: str, data_dir: str | os.PathLike | None):
  """Opens a prepared set; prepares CIFAR if it is missing.

  Raises:
    DatasetError: the set is unknown, not prepared or damaged; says what to do.
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
  """Opens one split; reads its labels, but leaves its images on the disk.

  If the set numbers its examples (`id`, as in CIFAR), these numbers become the
  ids, since TFDS shuffles the sets that it prepares.

  Args:
    name: name of the set, optionally followed by `#` and the feature that holds
      the labels, such as `cifar100#coarse_label`; `label` by default.
    split: `train` or `test`.
    data_dir: directory of the TFDS sets.
    image_size: side of the images; by default their own, or `STANDARD_SIZE` if
      the set does not declare one size for all.
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
    # ImageNet's test images, if present, have no labels.
    images, labels, ids = _open(builder, "validation", shape, key)
  names = features[key].names
  if labels.max() >= len(names):
    raise DatasetError(
      f"{name} has a label {labels.max()}, and {len(names)} classes; prepare"
      " the set again."
    )
  made = make_dataset(images, labels, names)
  return made._replace(ids=ids, num_ids=int(ids.max()) + 1)


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
    numbers = read("id", _number)
    if len(np.unique(numbers)) == len(numbers) and numbers.min() >= 0:
      ids = numbers.astype(ids.dtype)
  return StreamedImages(name, source, shape), labels, ids


def _number(name: bytes) -> int:
  """Returns the trailing number of an id such as `train_00012`, or -1."""
  match = re.search(rb"(?<!\d)\d{1,9}$", name)
  return int(match[0]) if match else -1


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
  # Paths are included, since a copy may have the original's times.
  stamp = [
    (str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files
  ]
  digest = hashlib.sha256(repr((builder.info.full_name, stamp)).encode())
  name = builder.info.full_name.replace("/", "-")
  return f"{name}-{split}-{digest.hexdigest()[:12]}"


def _read_column(source, name: str, of: Callable[[Any], int]) -> np.ndarray:
  """Reads one number of every example without decoding the images."""
  numbers = np.empty(len(source), np.int32)

  def read(start: int) -> int:
    block = list(range(start, min(start + _BLOCK, len(source))))
    try:
      examples = source.__getitems__(block)
      numbers[block] = [of(example) for example in examples]
    except Exception as error:  # From the reader, the parser or `of`.
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
  """Reads all pixels, from the cache if it holds them."""
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


def _sum_of(array: np.ndarray) -> bytes:
  return disk.checksum(array).to_bytes(_SUM_BYTES)


def cached(
  name: str,
  make: Callable[[], np.ndarray],
  shape: tuple[int, ...],
  dtype: np.typing.DTypeLike,
) -> np.ndarray:
  """Loads an array from the cache, or makes and caches it.

  The name of the file identifies its content; its last bytes are a checksum. An
  array that has changed, or is of another shape or type, is made again.
  """
  file = disk.cache_directory() / f"{name}.npy"
  try:
    # Memory-mapped first, since a damaged header may state any shape.
    kept = np.load(file, mmap_mode="r", allow_pickle=False)
    if (kept.shape, kept.dtype) == (tuple(shape), np.dtype(dtype)):
      array = np.array(kept)
      with open(file, "rb") as content:
        content.seek(-_SUM_BYTES, os.SEEK_END)
        if content.read() == _sum_of(array):
          return array
  except (OSError, ValueError, EOFError):
    pass  # The file is missing or damaged: the array is made again.
  array = make()
  # The cache is optional: the disk may be full or read-only.
  with contextlib.suppress(OSError, disk.DiskError):
    file.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(file) as content:
      np.save(content, array)
      content.write(_sum_of(array))
    disk.remove_partial(file.parent)
  return array
