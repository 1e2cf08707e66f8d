"""scikit-learn's handwritten digits: the default, which needs no download."""

import functools

import numpy as np

from geomem.data.dataset import Dataset, make_dataset


def load_digits(split: str) -> Dataset:
  """Loads the 1,797 digits of 8 x 8 pixels.

  Every fifth example of a class is a test example: 1,442 and 355 in all.
  """
  digits = _read()
  rank = np.zeros(len(digits.target), int)
  for label in range(10):
    members = np.flatnonzero(digits.target == label)
    rank[members] = np.arange(len(members))
  is_test = rank % 5 == 4
  chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  return make_dataset(images, digits.target)[chosen]


@functools.cache
def _read():
  from sklearn import datasets  # Imported here: it takes a second.

  return datasets.load_digits()
