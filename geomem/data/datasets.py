"""Datasets by name: images, true labels and stable example ids."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from geomem.data.streamed import Images, StreamedImages

MEMORY_LIMIT = 4.0  # GB of pixels that are held in memory.


class Dataset(NamedTuple):
  """One split of a labelled image set.

  Attributes:
    images: `[n, H, W, C]` pixels, in memory or streamed from the disk.
    labels: `[n]` true labels, from 0.
    ids: `[n]` the position of each example in the full split.
    class_names: a name for each label.
  """

  images: UInt8[Images, "n H W C"]
  labels: Int[np.ndarray, " n"]
  ids: Int[np.ndarray, " n"]
  class_names: tuple[str, ...]

  def __getitem__(self, index) -> "Dataset":  # pytype: disable=signature
    """The examples at the indices."""
    return self._replace(
      images=self.images[index], labels=self.labels[index], ids=self.ids[index]
    )


class DatasetError(ValueError):
  """A data set is unknown, missing or not of the form asked for."""


class DamagedError(DatasetError):
  """Files of a data set are damaged."""


def load(
  name: str,
  split: str,
  data_dir: str | pathlib.Path | None = None,
  *,
  image_size: int | None = None,
  memory_limit: float | None = None,
) -> Dataset:
  """One split of a data set, in memory if it fits: `hold(open_split(...))`.

  Args:
    name: `digits` (scikit-learn's handwritten digits, which need no download),
      `npz:PATH` (see `load_npz`), or the name of a TFDS image set.
    split: `train` or `test`; where a TFDS set has no test split, `test` is its
      validation split.
    data_dir: where TFDS looks; its own default without it.
    image_size: the side that images of a TFDS set are brought to; their own by
      default, and 224 where they differ in size.
    memory_limit: GB of pixels that are held in memory; `MEMORY_LIMIT` by
      default.

  Raises:
    DatasetError: it says what is missing, and what to do.
  """
  return hold(open_split(name, split, data_dir, image_size), memory_limit)


def open_split(
  name: str,
  split: str,
  data_dir: str | pathlib.Path | None = None,
  image_size: int | None = None,
) -> Dataset:
  """The split, with the images of TFDS sets still on the disk; see `load`."""
  if split not in ("train", "test"):
    raise DatasetError(f"split {split!r} is not known; use train or test.")
  if image_size is not None and image_size < 1:
    raise DatasetError(f"image_size is {image_size}; it must be positive.")
  if name == "digits" or name.startswith("npz:"):
    if image_size is not None:
      raise DatasetError(
        f"{name} is not resized; leave --image_size out, or resize your arrays."
      )
    if name == "digits":
      return load_digits(split)
    return load_npz(name.removeprefix("npz:"), split)
  # TFDS takes a second to import, and only these sets need it.
  from geomem.data import tfds_images

  return tfds_images.open_split(name, split, data_dir, image_size)


def hold(dataset: Dataset, memory_limit: float | None = None) -> Dataset:
  """The set with its images in memory, unless they are more than the limit.

  Here, and nowhere else, it is decided whether a set streams.
  """
  limit = MEMORY_LIMIT if memory_limit is None else memory_limit
  images = dataset.images
  if not isinstance(images, StreamedImages) or images.nbytes > limit * 1e9:
    return dataset
  from geomem.data import tfds_images

  return dataset._replace(images=tfds_images.read_all(images))


def make_dataset(images, labels, class_names=None) -> Dataset:
  """A whole split from its arrays; grey images may lack the channel."""
  labels = np.asarray(labels)
  if not isinstance(images, StreamedImages):
    images = np.asarray(images)
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.dtype != np.uint8:
    raise DatasetError(
      f"The images are {images.dtype} of shape {images.shape}; uint8 of shape"
      " [n, H, W, C] or [n, H, W] was expected, with pixels from 0 to 255."
    )
  if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
    raise DatasetError(
      f"The labels are {labels.dtype} of shape {labels.shape}; one integer for"
      f" each of the {len(images)} images was expected."
    )
  if 0 in images.shape or labels.min() < 0:
    raise DatasetError("There must be examples, with labels from 0 on.")
  if class_names is None:
    _check_no_gap(labels)
    class_names = [str(label) for label in range(int(labels.max()) + 1)]
  return Dataset(
    images, labels.astype(np.int32), np.arange(len(labels)), tuple(class_names)
  )


def _check_no_gap(labels: np.ndarray) -> None:
  present = np.unique(labels)
  missing = np.flatnonzero(present != np.arange(len(present)))
  if missing.size:
    raise DatasetError(
      f"No example has the label {missing[0]}, and the largest label is"
      f" {present[-1]}; labels from 0 on without a gap were expected, as"
      " numpy.unique(labels, return_inverse=True)[1] makes them."
    )


def load_digits(split: str) -> Dataset:
  """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.

  Every fifth example of a class is a test example: 1,442 and 355 in all.
  """
  from sklearn import datasets  # Imported here: it takes a second.

  digits = datasets.load_digits()
  rank = np.zeros(len(digits.target), int)
  for label in range(10):
    members = np.flatnonzero(digits.target == label)
    rank[members] = np.arange(len(members))
  is_test = rank % 5 == 4
  chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  return make_dataset(images, digits.target)[chosen]


def load_npz(path: str, split: str) -> Dataset:
  """A user's own arrays: `x_train`, `y_train`, `x_test`, `y_test`.

  Images are uint8 `[n, H, W, C]` or `[n, H, W]`, labels integers from 0.
  Nothing in the file is executed: pickled objects are refused.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise DatasetError(f"There is no file {file}; npz:PATH names an npz file.")
  names = (f"x_{split}", f"y_{split}")
  try:
    with np.load(file, allow_pickle=False) as arrays:
      missing = [name for name in names if name not in arrays]
      if missing:
        raise DatasetError(
          f"{file} has no array {missing[0]!r}, only {sorted(arrays)}; it must"
          " hold x_train, y_train, x_test and y_test."
        )
      images, labels = (arrays[name] for name in names)
      trained = arrays.get("y_train", labels)
  except DatasetError:
    raise
  except Exception as error:
    raise DatasetError(
      f"{file} cannot be read as npz ({type(error).__name__}). Write it with"
      " numpy.savez, of numbers only: pickled objects are refused."
    ) from error
  dataset = make_dataset(images, labels)
  if dataset.labels.max() != np.max(trained):
    raise DatasetError(
      f"{file} has {split} labels up to {dataset.labels.max()}, training labels"
      f" up to {np.max(trained)}; the same classes were expected in both."
    )
  return dataset


def select_classes(dataset: Dataset, num_classes: int) -> Dataset:
  """The examples of the first classes."""
  known = len(dataset.class_names)
  if not 2 <= num_classes <= known:
    raise DatasetError(
      f"num_classes is {num_classes}; this data set has {known} classes, and"
      " two at least are needed."
    )
  chosen = np.flatnonzero(dataset.labels < num_classes)
  return dataset[chosen]._replace(class_names=dataset.class_names[:num_classes])


def limit_per_class(dataset: Dataset, num_examples: int) -> Dataset:
  """The first examples of every class, in the order of the data set."""
  kept = [
    np.flatnonzero(dataset.labels == label)[:num_examples]
    for label in range(len(dataset.class_names))
  ]
  return dataset[np.sort(np.concatenate(kept))]
