"""The record of a data set: images, true labels and stable example ids.

Its fingerprint tells whether the data of a run have changed.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from geomem.data.streamed import Images, streams

_MOST_CHANNELS = 4  # Of usual images: colour and transparency.
# Evenly spaced images represent larger sets.
_ALL_BYTES = 2**30
_MOST_IMAGES = 4096


class Dataset(NamedTuple):
  """One split of a labelled image set.

  Attributes:
    images: `[n, H, W, C]` pixels, in memory or streamed from the disk.
    labels: `[n]` true labels, from 0.
    ids: `[n]` number of each example in the full split: its position, or the
      number that the set assigns to it.
    class_names: a name for each label.
    num_ids: one more than the largest number in the full split.
  """

  images: UInt8[Images, "n H W C"]
  labels: Int[np.ndarray, " n"]
  ids: Int[np.ndarray, " n"]
  class_names: tuple[str, ...]
  num_ids: int

  def __getitem__(self, index) -> "Dataset":  # pytype: disable=signature
    """Returns the examples at the indices."""
    return self._replace(
      images=self.images[index], labels=self.labels[index], ids=self.ids[index]
    )


class DatasetError(ValueError):
  """A data set is unknown, missing or not of the expected form."""


class DamagedError(DatasetError):
  """Files of a data set are damaged."""


def make_dataset(images, labels, class_names=None) -> Dataset:
  """Makes a full split from its arrays; grey images may lack the channel."""
  labels = np.asarray(labels)
  if not streams(images):
    images = np.asarray(images)
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.dtype != np.uint8:
    raise DatasetError(
      f"The images are {images.dtype} of shape {images.shape}; uint8 of shape"
      " [n, H, W, C] or [n, H, W] was expected, with pixels from 0 to 255."
    )
  # Images of many channels are accepted if they cannot be channel-first.
  if images.shape[1] <= _MOST_CHANNELS < images.shape[3]:
    raise DatasetError(
      f"The images have the shape {images.shape}, as if their channels were"
      " first; [n, H, W, C] was expected: store x.transpose(0, 2, 3, 1)."
    )
  if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
    raise DatasetError(
      f"The labels are {labels.dtype} of shape {labels.shape}; one integer for"
      f" each of the {len(images)} images was expected."
    )
  if 0 in images.shape:
    raise DatasetError(
      f"The images have the shape {images.shape}; at least one image, of one"
      " pixel, was expected."
    )
  if labels.min() < 0:
    raise DatasetError(
      f"The smallest label is {labels.min()}; labels from 0 on were expected."
    )
  if class_names is None:
    _check_no_gap(labels)
    class_names = [str(label) for label in range(int(labels.max()) + 1)]
  if labels.max() >= len(class_names):
    raise DatasetError(
      f"The largest label is {labels.max()}, but there are {len(class_names)}"
      " class names; one for each label from 0 on was expected."
    )
  ids, class_names = np.arange(len(labels)), tuple(class_names)
  return Dataset(images, labels.astype(np.int32), ids, class_names, len(labels))


def _check_no_gap(labels: np.ndarray) -> None:
  present = np.unique(labels)
  missing = np.flatnonzero(present != np.arange(len(present)))
  if missing.size:
    raise DatasetError(
      f"No example has the label {missing[0]}, and the largest label is"
      f" {present[-1]}; labels from 0 on without a gap were expected, as"
      " numpy.unique(labels, return_inverse=True)[1] makes them."
    )


def select_classes(dataset: Dataset, num_classes: int) -> Dataset:
  """Keeps the examples of the first `num_classes` classes."""
  total = len(dataset.class_names)
  if not 2 <= num_classes <= total:
    raise DatasetError(
      f"num_classes is {num_classes}; this data set has {total} classes, and"
      " at least two are needed."
    )
  chosen = np.flatnonzero(dataset.labels < num_classes)
  return dataset[chosen]._replace(class_names=dataset.class_names[:num_classes])


def limit_per_class(dataset: Dataset, num_examples: int) -> Dataset:
  """Keeps the first examples of every class, in the order of the data set."""
  kept = [
    np.flatnonzero(dataset.labels == label)[:num_examples]
    for label in range(len(dataset.class_names))
  ]
  return dataset[np.sort(np.concatenate(kept))]


def fingerprint(*datasets: Dataset) -> str:
  """Computes a digest of the labels, class names and images of splits.

  At most 4,096 images represent a set that is streamed or larger than a
  gigabyte; streamed images enter as they are encoded.
  """
  digest = hashlib.blake2b(digest_size=16)
  for dataset in datasets:
    images = dataset.images
    names = (tuple(images.shape), *dataset.class_names)
    digest.update(repr(names).encode())
    digest.update(np.ascontiguousarray(dataset.labels, np.int32))
    if images.nbytes > _ALL_BYTES or streams(images):
      count = min(len(images), _MOST_IMAGES)
      images = images[np.linspace(0, len(images) - 1, count).astype(int)]
    if streams(images):
      for encoded in images.encoded():
        digest.update(encoded)
    else:
      digest.update(np.ascontiguousarray(images))
  return digest.hexdigest()
