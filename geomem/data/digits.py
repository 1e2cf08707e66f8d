"""scikit-learn's handwritten digits: the default, which needs no download."""

import functools
import importlib.util
import pathlib

import numpy as np

from geomem.data.dataset import Dataset, DatasetError, make_dataset


def load_digits(rest: str, split: str) -> Dataset:
  """Loads the 1,797 digits of 8 x 8 pixels.

  Every fifth example of a class is a test example: 1,442 and 355 in all.
  """
  if rest:
    raise DatasetError(f"digits takes nothing after a colon, not {rest!r}.")
  pixels, labels = _read()
  is_test = np.zeros(len(labels), bool)
  for label in range(10):
    is_test[np.flatnonzero(labels == label)[4::5]] = True
  chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
  images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  return make_dataset(images, labels)[chosen]


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
  """Reads the pixels, from 0 to 16, and the labels.

  It reads scikit-learn's file, as importing the library takes two seconds, and
  imports the library only if a version keeps the file elsewhere.
  """
  package = pathlib.Path(importlib.util.find_spec("sklearn").origin).parent
  file = package / "datasets" / "data" / "digits.csv.gz"
  if not file.exists():
    from sklearn import datasets

    return datasets.load_digits(return_X_y=True)
  rows = np.loadtxt(file, delimiter=",")
  return rows[:, :-1], rows[:, -1].astype(int)
