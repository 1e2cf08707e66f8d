"""Where training labels come from, by name.

To add a kind, write a function and add its line to `LABELS`.
"""

from typing import Protocol

from jaxtyping import Array, Key

from geomem.data.dataset import Dataset
from geomem.data.label_files import human_labels, labels_from_file
from geomem.data.labels import PermutedLabels, permute_labels


class LabelMaker(Protocol):
  """Makes the training labels of a data set."""

  def __call__(
    self, key: Key[Array, ""], dataset: Dataset, fraction: float, argument: str
  ) -> PermutedLabels:
    """Makes them.

    Args:
      key: decides what is left to chance.
      dataset: the training split.
      fraction: the part of the examples to give a label at random.
      argument: what stands behind the colon of the kind's name.
    """


def _permuted(key, dataset, fraction, argument) -> PermutedLabels:
  del argument
  return permute_labels(key, dataset.labels, fraction)


def _redrawn(key, dataset, fraction, argument) -> PermutedLabels:
  del argument
  return permute_labels(key, dataset.labels, fraction, redraw=True)


LABELS: dict[str, LabelMaker] = {
  "permuted": _permuted,
  "redrawn": _redrawn,
  "file": labels_from_file,
  "cifar_n": human_labels,
}


def make_labels(
  name: str, key: Key[Array, ""], dataset: Dataset, fraction: float
) -> PermutedLabels:
  """Makes the training labels of a data set.

  Args:
    name: a kind of `LABELS`, and its argument behind a colon, if it takes one.
    key: decides what is left to chance.
    dataset: the training split.
    fraction: the part of the examples to give a label at random.

  Raises:
    ValueError: the kind is not known, or the fraction or file not possible.
  """
  kind, _, argument = name.partition(":")
  if kind not in LABELS:
    raise ValueError(
      f"labels {name!r} is not known; choose one of {', '.join(LABELS)}."
    )
  return LABELS[kind](key, dataset, fraction, argument)
