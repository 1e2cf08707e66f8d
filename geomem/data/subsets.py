"""The paper's four kinds of examples, and manifolds sampled from them."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from geomem.data.labels import PermutedLabels, permutations


class Subset(NamedTuple):
  """Examples, and the labels for their analysis.

  Attributes:
    name: one of `SUBSETS`.
    source: the split that the indices refer to, `train` or `test`.
    indices: `[m]` indices of the examples.
    labels: `[m]` their labels for the analysis.
  """

  name: str
  source: str
  indices: Int[np.ndarray, " m"]
  labels: Int[np.ndarray, " m"]


def make_subsets(
  permuted: PermutedLabels, test_labels: Int[np.ndarray, " k"]
) -> dict[str, Subset]:
  """Makes the unpermuted, permuted, restored and test subsets.

  Permuted and restored examples are the same images, the former with the labels
  they were trained on, the latter with their true labels. A subset without
  examples (nothing permuted, or everything) is left out.
  """
  clean = np.flatnonzero(~permuted.permuted)
  noisy = np.flatnonzero(permuted.permuted)
  subsets = [
    Subset("unpermuted", "train", clean, permuted.true_labels[clean]),
    Subset("permuted", "train", noisy, permuted.labels[noisy]),
    Subset("restored", "train", noisy, permuted.true_labels[noisy]),
    Subset("test", "test", np.arange(len(test_labels)), test_labels),
  ]
  return {subset.name: subset for subset in subsets if len(subset.indices)}


def sample_manifolds(
  key: Key[Array, ""], subset: Subset, num_classes: int, num_points: int
) -> Int[np.ndarray, "P M"]:
  """Draws the same number of examples of every class.

  Args:
    key: determines the examples; a class's draw depends on no other class.
    subset: the subset to draw from.
    num_classes: P; the classes are 0 to P - 1.
    num_points: M, examples of each class.

  Returns:
    Indices into the subset's split.

  Raises:
    ValueError: a class has fewer examples; names the class.
  """
  members = [subset.indices[subset.labels == c] for c in range(num_classes)]
  for label, examples in enumerate(members):
    if len(examples) < num_points:
      advice = "lower --manifold_points"
      if min(map(len, members)) < 2:  # Of one point there is no manifold.
        advice = (
          f"leave {subset.name} examples out with --subsets, or have other"
          " labels permuted"
        )
      raise ValueError(
        f"Class {label} has {len(examples)} {subset.name} examples, fewer than"
        f" the {num_points} points asked for; {advice}."
      )
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(num_classes))
  orders = permutations(keys, [len(examples) for examples in members])
  return np.stack(
    [
      examples[order[:num_points]]
      for examples, order in zip(members, orders, strict=True)
    ]
  )
