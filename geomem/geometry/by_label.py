"""Manifolds from a labelled set of examples."""

import numbers

import jax
import numpy as np
from jaxtyping import Array, Key, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import DLPackArray, as_array


def manifolds(
  points: Shaped[Array | np.ndarray, "n ..."] | list | tuple | DLPackArray,
  labels: Shaped[Array | np.ndarray, " n"] | list | tuple | DLPackArray,
  *,
  per_class: int | None = None,
  key: Key[Array, ""],
) -> Shaped[Array | np.ndarray, "P M N"]:
  """Makes manifolds of activations and labels by sampling every class.

  Capacity depends on the number of points, so all classes get the same number.
  Under jit the points may be traced, but not the labels and the key.

  Args:
    points: one example in each row, with features of any shape, which are
      flattened: activations `[n, C, H, W]` become `[P, M, C H W]`.
    labels: the class of each example: whole numbers, strings or booleans.
    per_class: M, drawn without replacement; by default the size of the smallest
      class.
    key: for the draw, which depends on the labels alone: one key chooses the
      same examples in all layers of a network.

  Returns:
    The manifolds in the order of `np.unique(labels)`; a JAX array if the points
    are one, else a NumPy array.

  Raises:
    ValueError: the labels are not one-dimensional, differ in number from the
      points, are partly masked, traced, or empty; or a class has fewer
      examples.
  """
  checks.key(key)
  given, points, labels = points, as_array(points), as_array(labels)
  checks.known("The draw of manifolds by labels and key", labels, key)
  labels = _on_host(labels)
  if labels.ndim != 1 or points.ndim < 2 or len(labels) != len(points):
    several = isinstance(given, list | tuple)
    hint = " Give one layer at a time, not a list of them." if several else ""
    raise ValueError(
      f"The points have shape {tuple(points.shape)} and the labels"
      f" {labels.shape}; [n, ...] and [n] were expected: an example in each"
      f" row, and one label for each.{hint}"
    )
  if labels.dtype.kind not in "biuSU" or 0 in points.shape:
    raise ValueError(
      f"There are {len(labels)} labels of type {labels.dtype} for points of"
      f" shape {tuple(points.shape)}; one whole number or string for each"
      " example was expected, and one example at least."
    )
  classes, counts = np.unique(labels, return_counts=True)
  if per_class is None:
    per_class = int(counts.min())
  checks.count("per_class", per_class)
  if per_class > counts.min():
    rarest = counts.argmin()
    raise ValueError(
      f"per_class is {per_class}; 1 to {counts[rarest]} was expected, the"
      f" number of examples of label {classes[rarest]!s}. Leave out rare"
      " classes, or give a list of arrays of unequal length instead."
    )
  # Sorted by label, in random order within each.
  with jax.ensure_compile_time_eval():  # Under jit, too, it is a constant.
    order = np.asarray(jax.random.permutation(key, len(labels)))
  order = order[np.argsort(labels[order], kind="stable")]
  starts = np.cumsum(counts) - counts
  chosen = order[starts[:, None] + np.arange(per_class)]
  return points.reshape(len(points), -1)[chosen]


def _on_host(labels) -> np.ndarray:
  """Returns labels in the type of their values, unless these are mixed."""
  if np.ma.is_masked(labels):
    raise ValueError(
      "Some labels are hidden by a mask; leave these examples out."
    )
  labels = np.asarray(labels)
  if labels.dtype.kind in "OT":  # Columns of pandas, or NumPy's StringDType.
    for kind in (str, bool, numbers.Integral):
      if all(isinstance(x, kind) for x in labels.flat):
        return np.array(labels.tolist())
  return labels
