"""The kinds of training labels, by name.

To add a kind, write a function and add its line to `LABELS`.
"""

import functools
from collections.abc import Callable

from jaxtyping import Array, Key

from geomem.data.dataset import Dataset
from geomem.data.label_files import human_labels, labels_from_file
from geomem.data.labels import PermutedLabels, permute_labels

# Of a key for all random choices, the training split, the fraction of examples
# that get a random label, and the part of the kind's name after the colon.
LabelMaker = Callable[[Key[Array, ""], Dataset, float, str], PermutedLabels]


def _permuted(
  key, dataset, fraction, argument, *, redraw: bool = False
) -> PermutedLabels:
  if argument:
    raise ValueError(
      f"labels {'redrawn' if redraw else 'permuted'} takes nothing after a"
      f" colon, not {argument!r}; give the fraction as permuted_fraction."
    )
  num_classes = len(dataset.class_names)
  return permute_labels(
    key, dataset.labels, fraction, redraw=redraw, num_classes=num_classes
  )


LABELS: dict[str, LabelMaker] = {
  "permuted": _permuted,
  "redrawn": functools.partial(_permuted, redraw=True),
  "file": labels_from_file,
  "cifar_n": human_labels,
}
# Their labels determine the fraction of wrong ones.
_OWN_FRACTION = ("file", "cifar_n")


def has_own_fraction(name: str) -> bool:
  """Returns whether labels have a fraction of wrong ones of their own."""
  return name.partition(":")[0] in _OWN_FRACTION


def make_labels(
  name: str, key: Key[Array, ""], dataset: Dataset, fraction: float | None
) -> PermutedLabels:
  """Makes the training labels of a data set.

  Args:
    name: a kind of `LABELS`, with a colon and its argument if it takes one.
    key: determines all random choices.
    dataset: the training split.
    fraction: fraction of the examples that get a random label; None for labels
      that have their own.

  Raises:
    ValueError: the kind is unknown, or the fraction or the file is invalid, or
      there is no fraction for labels that have none of their own.
  """
  kind, _, argument = name.partition(":")
  if kind not in LABELS:
    raise ValueError(
      f"labels {name!r} is not known; choose one of {', '.join(LABELS)}."
    )
  if fraction is None and not has_own_fraction(name):
    raise ValueError(
      f"The fraction of labels {name!r} is None; from 0 to 1 was expected."
    )
  return LABELS[kind](key, dataset, fraction or 0.0, argument)
