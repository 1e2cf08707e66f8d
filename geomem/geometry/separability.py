"""Whether a hyperplane separates points, decided with a certificate."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import (
  DLPackArray,
  as_array,
  as_reals,
  host_difference,
  unmasked,
)

# Bound on the rounding error of products of unit vectors, with room to spare.
_ROUNDING = 1e-13


def is_separable(
  points: Shaped[Array | np.ndarray, "n N"] | Sequence | DLPackArray,
  labels: Shaped[Array | np.ndarray, "..."] | Sequence | DLPackArray,
  *,
  bias: bool = False,
) -> bool:
  """Tells whether some w has w·x > 0 on one side, w·x < 0 on the other.

  With a_i = ±x_i / ‖x_i‖, either some w has w·a_i > 0 for all i, or some
  λ ≥ 0 with Σλ = 1 has Σ λ_i a_i = 0 (Gordan). Non-negative least squares
  decides it: the residual of Σ λ_i (a_i, 1) = (0, 1) is (-w, ·), and w
  separates unless it is zero. The answer is verified on w or λ itself; where
  neither is clear of rounding, a linear programme decides.

  Args:
    points: x, one a row, of any real dtype. Rows that a NumPy masked array
      hides do not count; no points at all are separable.
    labels: the side of each: booleans, 0 and 1, or -1 and 1.
    bias: whether the hyperplane may miss the origin.

  Raises:
    ValueError: the points are not finite or not real, a point is hidden in
      part, a label of a visible point is hidden, or the labels have other
      values or another length; or they are traced, as it works on the host and
      not under jit.
  """
  checks.known("is_separable", points, labels)
  checks.flag("bias", bias)
  given, points = points, as_array(points)
  if points.ndim != 2:
    raise ValueError(
      f"The points have shape {points.shape}; [n, N] was expected."
    )
  points, shown = unmasked(points)
  labels = _sides(labels, shown)
  A = np.asarray(as_reals(points, given))[shown]
  if not np.isfinite(A.astype(np.float64)).all():
    raise ValueError("The points are not finite; look for NaN or overflow.")
  if not len(A):
    return True
  A = in_own_unit(about_median(A) if bias else A.astype(np.float64))
  if bias:
    # The extra feature has the size of the points: no scale is favoured.
    size = np.sqrt((A**2).sum(axis=1).mean()) or 1.0
    A = np.concatenate([A, np.full((len(A), 1), size)], axis=1)
  largest = np.abs(A).max(axis=1, keepdims=True, initial=0)
  if not largest.all():
    return False  # A point at the origin is on neither side.
  A = A / largest
  A = A / np.sqrt((A**2).sum(axis=1, keepdims=True))
  A = np.where(labels[:, None], A, -A)
  answer = _by_least_squares(A)
  return _by_linear_programme(A) if answer is None else answer


def about_median(X: np.ndarray) -> np.ndarray:
  """Returns points relative to their median, in float64.

  Beside an offset their differences would be lost, and with a bias it changes
  no answer. The lower median of each feature is one of its values, to which all
  that are near it have exact differences, whatever is far.
  """
  if X.dtype.kind not in "iu":
    X = in_own_unit(X.astype(np.float64))  # So that no difference overflows.
  middle = (len(X) - 1) // 2
  return host_difference(X, np.partition(X, middle, axis=0)[middle])


def in_own_unit(X: np.ndarray) -> np.ndarray:
  """Scales points, which changes no answer, so that no square overflows."""
  return np.ldexp(X, -int(np.frexp(np.abs(X).max(initial=0))[1]))


def _sides(labels, shown: np.ndarray) -> np.ndarray:
  """Returns the side of each point that is shown."""
  labels = as_array(labels)
  if labels.shape != shown.shape:
    raise ValueError(
      f"The labels have shape {labels.shape}; {shown.shape} was expected, one"
      " for each point."
    )
  if np.ma.getmaskarray(labels)[shown].any():
    raise ValueError(
      "A masked array hides labels of points that are shown; hide those points"
      " as well, or leave both out."
    )
  labels = np.asarray(labels)[shown]
  if labels.dtype != np.bool_:
    values = set(labels.tolist())
    real = labels.dtype.kind != "c"
    if not real or not (values <= {0, 1} or values <= {-1, 1}):
      raise ValueError(
        f"The labels have the values {sorted(values, key=str)[:4]}; booleans,"
        " 0 and 1, or -1 and 1 were expected."
      )
  return labels > 0


def _by_least_squares(A: np.ndarray) -> bool | None:
  """Returns the answer, or None where rounding hides it."""
  from scipy import optimize  # Imported here: it takes half a second.

  num_points, num_features = A.shape
  S = np.concatenate([A.T, np.ones((1, num_points))])
  target = np.zeros(num_features + 1)
  target[-1] = 1
  try:
    lam, _ = optimize.nnls(S, target)
  except RuntimeError:  # It reached its limit of iterations.
    return None
  w = -(target - S @ lam)[:-1]
  size = np.sqrt((w**2).sum())
  if (A @ w).min() > _ROUNDING * size:
    return True
  return False if size < _ROUNDING * num_features * lam.sum() else None


def _by_linear_programme(A: np.ndarray) -> bool:
  """Tells whether some w has A w ≥ 1, by HiGHS."""
  from scipy import optimize

  num_points, num_features = A.shape
  # HiGHS drops small entries; rescaling a feature does not change the answer.
  largest = np.abs(A).max(axis=0, keepdims=True)
  A = A / np.where(largest > 0, largest, 1)
  for method in ("highs", "highs-ipm"):
    result = optimize.linprog(
      np.zeros(num_features),
      A_ub=-A,
      b_ub=-np.ones(num_points),
      bounds=(None, None),
      method=method,
    )
    if result.status in (0, 2):  # Solved, or infeasible.
      return result.status == 0 and bool((A @ result.x).min() > 0)
  raise ValueError(
    "Whether the points are separable cannot be decided: the linear programme"
    f" ends with {result.message!r}"
  )
