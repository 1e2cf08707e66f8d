"""Whether a hyperplane separates points, decided with a certificate."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

# What rounding can do to products of vectors of norm one, with room to spare.
_ROUNDING = 1e-13


def is_separable(
  points: Float[np.ndarray, "n N"],
  labels: Bool[np.ndarray, " n"],
  *,
  bias: bool = False,
) -> bool:
  """Whether some w has w·x_i > 0 for the labelled points, and < 0 for others.

  With a_i = ±x_i / ‖x_i‖, either some w has w·a_i > 0 for all i, or some
  λ ≥ 0 with Σλ = 1 has Σ λ_i a_i = 0 (Gordan). Non-negative least squares
  decides it: the residual of Σ λ_i (a_i, 1) = (0, 1) is (-w, ·), and w
  separates unless it is zero. Either way the answer is checked on what was
  found; where neither w nor λ is clear of rounding, a linear programme decides.

  Args:
    points: x, one a row.
    labels: the side of each.
    bias: whether the hyperplane may miss the origin.
  """
  A = np.asarray(points, np.float64)
  if bias:
    # One more feature, of the size of the points: no scale is favoured.
    size = np.sqrt((A**2).sum(axis=1).mean()) or 1.0
    A = np.concatenate([A, np.full((len(A), 1), size)], axis=1)
  lengths = np.sqrt((A**2).sum(axis=1, keepdims=True))
  if not lengths.all():
    return False  # Nothing is on a side of the origin there.
  A = np.where(labels[:, None], A, -A) / lengths
  clear = _by_least_squares(A)
  return _by_linear_programme(A) if clear is None else clear


def _by_least_squares(A: np.ndarray) -> bool | None:
  """The answer, or None where rounding hides it."""
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
  if size < _ROUNDING * num_features * lam.sum():
    return False
  return None


def _by_linear_programme(A: np.ndarray) -> bool:
  """Whether some w has A w ≥ 1, by HiGHS."""
  num_points, num_features = A.shape
  # It drops small entries; features have no unit here.
  largest = np.abs(A).max(axis=0, keepdims=True)
  A = A / np.where(largest > 0, largest, 1)
  found = optimize.linprog(
    np.zeros(num_features),
    A_ub=-A,
    b_ub=-np.ones(num_points),
    bounds=(None, None),
    method="highs",
  )
  return found.status == 0
