"""Fingerprints of data, which tell whether a run's data have changed."""

import hashlib

import numpy as np

from geomem.data.dataset import Dataset
from geomem.data.streamed import streams

# Evenly spaced images represent larger sets.
_ALL_BYTES = 2**30
_MOST_IMAGES = 4096


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
