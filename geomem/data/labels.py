"""Permuted training labels, kept together with the true labels."""

import functools
import io
import math
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from geomem import disk
from geomem.data.dataset import DatasetError


def permutations(
  keys: Key[Array, " k"], sizes: list[int]
) -> list[Int[np.ndarray, " n"]]:
  """Returns `jax.random.permutation(key, size)` for each key and size.

  That function compiles a program for every size, a third of a second each. The
  first bits of JAX's default keys do not depend on how many are drawn, so one
  program draws the bits for all sizes, and NumPy sorts.
  """
  # As in JAX, enough rounds for the bits to distinguish n³ values.
  rounds = [
    math.ceil(3 * math.log(max(n, 1)) / math.log(2**32 - 1)) for n in sizes
  ]
  length = 2 ** max(max(sizes) - 1, 0).bit_length()
  bits = np.asarray(_sort_keys(keys, max(1, *rounds), length))
  orders = []
  for size, count, drawn in zip(sizes, rounds, bits, strict=True):
    order = np.arange(size)
    for round_bits in drawn[:count]:
      order = order[np.argsort(round_bits[:size], kind="stable")]
    orders.append(order)
  return orders


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sort_keys(keys, num_rounds: int, length: int):
  def draw(key):
    drawn = []
    for _ in range(num_rounds):
      key, bits_key = jax.random.split(key)
      drawn.append(jax.random.bits(bits_key, (length,), jnp.uint32))
    return jnp.stack(drawn)

  return jax.vmap(draw)(keys)


class PermutedLabels(NamedTuple):
  """Training labels of which a known part is permuted.

  Attributes:
    labels: `[n]` labels to train on.
    true_labels: `[n]` labels before the permutation.
    permuted: `[n]` whether an example was among the permuted ones; some of
      these keep their label by chance.
  """

  labels: Int[np.ndarray, " n"]
  true_labels: Int[np.ndarray, " n"]
  permuted: Bool[np.ndarray, " n"]

  @property
  def num_unchanged(self) -> int:
    """The number of permuted examples that kept their label by chance."""
    return int((self.permuted & (self.labels == self.true_labels)).sum())

  def save(self, path: pathlib.Path | str) -> None:
    """Writes an npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **self._asdict())
    disk.write_whole(pathlib.Path(path), buffer.getvalue())

  @classmethod
  def load(cls, path: pathlib.Path | str) -> "PermutedLabels":
    """Reads what `save` wrote.

    Raises:
      DatasetError: the file is damaged or does not hold permuted labels.
    """
    try:
      with np.load(path, allow_pickle=False) as arrays:
        return cls(**{name: arrays[name] for name in cls._fields})
    except Exception as error:  # Foreign files fail in many ways.
      raise DatasetError(
        f"{path} cannot be read as permuted labels ({type(error).__name__});"
        " restore it from a copy, or delete it to have it made again."
      ) from error


def permute_labels(
  key: Key[Array, ""],
  labels: Int[np.ndarray, " n"],
  fraction: float,
  *,
  redraw: bool = False,
  num_classes: int | None = None,
) -> PermutedLabels:
  """Permutes the labels of a random fraction of the examples.

  Args:
    key: determines the permuted examples and their labels.
    labels: `[n]` true labels.
    fraction: fraction of the examples to permute, from 0 to 1.
    redraw: whether labels are drawn anew, uniformly over the classes; by
      default they are shuffled among the permuted examples, which keeps the
      class counts.
    num_classes: number of classes to draw from, of which the largest ones may
      have no example; by default the largest label + 1.

  Raises:
    ValueError: the fraction is not between 0 and 1, or labels are not whole
      numbers of 32 bits.
  """
  if not 0 <= fraction <= 1:
    raise ValueError(
      f"permuted_fraction is {fraction}; it must lie between 0 and 1."
    )
  given = np.asarray(labels)
  labels = given.astype(np.int32) if given.dtype.kind in "iu" else None
  if labels is None or (labels != given).any():
    raise ValueError(
      f"The labels are {given.dtype}, such as {given.ravel()[-1:]}; whole"
      " numbers of 32 bits were expected."
    )
  keys = jax.random.split(key)
  count = round(fraction * len(labels))
  order, shuffled = permutations(keys, [len(labels), count])
  chosen = np.sort(order[:count])
  if redraw:
    if num_classes is None:
      num_classes = int(labels.max()) + 1
    drawn = jax.random.randint(keys[1], (count,), 0, num_classes)
  else:
    drawn = labels[chosen][shuffled]
  training_labels = labels.copy()
  training_labels[chosen] = np.asarray(drawn)
  permuted = np.zeros(len(labels), bool)
  permuted[chosen] = True
  return PermutedLabels(training_labels, labels, permuted)
