"""A user's own arrays, from an npz file."""

import pathlib

import numpy as np

from geomem.data.dataset import Dataset, DatasetError, make_dataset


def load_npz(path: str, split: str) -> Dataset:
  """Loads a split of the arrays `x_train`, `y_train`, `x_test`, `y_test`.

  Images are uint8 `[n, H, W, C]` or `[n, H, W]`, labels integers from 0.
  Nothing in the file is executed: pickled objects are refused.
  """
  file = pathlib.Path(path).expanduser()
  if not path:
    raise DatasetError("dataset npz: names no file; npz:PATH was expected.")
  if not file.is_file():
    raise DatasetError(
      f"There is no file {file}; npz:PATH names an npz file. If it has moved,"
      " give its directory with --data_dir."
    )
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
  try:
    dataset = make_dataset(images, labels)
  except DatasetError as error:
    raise DatasetError(f"{file}, x_{split} and y_{split}: {error}") from error
  if trained.dtype.kind not in "iu" or not trained.size:
    raise DatasetError(
      f"The training labels in {file} are {trained.dtype} of shape"
      f" {trained.shape}; at least one integer was expected."
    )
  if dataset.labels.max() != trained.max():
    raise DatasetError(
      f"{file} has {split} labels up to {dataset.labels.max()}, training labels"
      f" up to {trained.max()}; the same classes were expected in both."
    )
  return dataset
