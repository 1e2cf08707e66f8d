"""Simulated capacity: how few features still separate random dichotomies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from geomem.geometry import checks
from geomem.geometry.points import Mask, Points, as_points, check_finite
from geomem.geometry.products import PointProducts
from geomem.geometry.separability import (
  about_median,
  in_own_unit,
  is_separable,
)
from geomem.geometry.statistics import GramStatistics

# Offsets of the draws from the middle of the transition, in its widths: each
# side locates the transition, and both together tell its width.
_OFFSETS = (0.7, -0.7)
# Fewer draws leave the prior's range and the first guess to decide: their
# capacity is off by up to a factor of three, whatever the points.
FEWEST_DRAWS = 5
# A singular value below so many ε of the points' norm may be due to their own
# rounding, which adds half of one at the most; what computed them adds more.
_ROUNDING = 4
# Values of n_c and of s on the grid, and the part of the posterior that a finer
# grid may leave out on either side.
_GRID = (1000, 10)
_LEFT_OUT = 1e-6


class SimulatedCapacity(NamedTuple):
  """The load at which half of the random dichotomies are separable.

  Attributes:
    capacity: α = P / n_c.
    stderr: its standard error over dichotomies and projections.
    critical_dimension: n_c, the features at which half are separable; below 1,
      as of two manifolds with a bias, no n tells it, and the prior decides.
    critical_stderr: its standard error.
    width: of the transition, in features.
    features: n of each draw.
    separable: the outcome of each draw.
  """

  capacity: float
  stderr: float
  critical_dimension: float
  critical_stderr: float
  width: float
  features: Int[np.ndarray, " R"]
  separable: Bool[np.ndarray, " R"]


class _Transition:
  """The posterior of p(n) = Φ((n - n_c) / (s n_c)) given the draws, on a grid.

  The prior is flat in log n_c and log s. The posterior follows the likelihood
  of the draws, and exists even where that has no maximum, as when all draws
  have the same outcome.
  """

  def __init__(self, num_features: int):
    self.largest = num_features
    # n_c may exceed the number of features.
    self.critical = np.geomspace(0.4, 4 * num_features, _GRID[0])[:, None]
    self.slope = np.geomspace(0.01, 0.7, _GRID[1])[None]
    self.log_posterior = np.zeros(_GRID)

  def add(self, num_features: int, separable: bool) -> None:
    from scipy import special  # Imported here: it takes a third of a second.

    z = (num_features - self.critical) / (self.slope * self.critical)
    self.log_posterior += special.log_ndtr(z if separable else -z)

  def refine(self, features: list[int], separable: list[bool]) -> None:
    """Puts the grid of n_c, coarser than a narrow posterior, where that is."""
    step = (self.critical[1] / self.critical[0]).item() ** 2
    low = self.quantile(_LEFT_OUT) / step
    high = self.quantile(1 - _LEFT_OUT) * step
    self.critical = np.geomspace(low, high, _GRID[0])[:, None]
    self.log_posterior = np.zeros(_GRID)
    for n, answer in zip(features, separable, strict=True):
      self.add(n, answer)

  def _weights(self) -> np.ndarray:
    weights = np.exp(self.log_posterior - self.log_posterior.max())
    return weights / weights.sum()

  def moments(self, function) -> tuple[float, float]:
    """Returns posterior mean and deviation of a function of n_c and s."""
    weights = self._weights()
    values = function(self.critical, self.slope)
    mean = (weights * values).sum()
    return float(mean), float(np.sqrt((weights * (values - mean) ** 2).sum()))

  def quantile(self, probability: float) -> float:
    """Returns a quantile of n_c."""
    cumulative = np.cumsum(self._weights().sum(axis=1))
    index = min(np.searchsorted(cumulative, probability), cumulative.size - 1)
    return float(self.critical[index, 0])

  def next_features(self, draw: int) -> int:
    """Chooses the most informative n, on alternating sides of n_c."""
    middle = self.quantile(0.5)
    width, _ = self.moments(lambda n, s: s * n)
    offset = _OFFSETS[draw % 2]
    n = round(middle + offset * min(width, middle))
    # Where both sides round to one n, its draws would not tell the width.
    above = int(middle) + 1
    n = max(n, above) if offset > 0 else min(n, above - 1)
    return int(np.clip(n, 1, self.largest))


def simulated_capacity(
  key: Key[Array, ""],
  points: Points,
  *,
  mask: Mask = None,
  num_draws: int = 100,
  bias: bool = False,
) -> SimulatedCapacity:
  """Measures capacity by separating random dichotomies of the points.

  Each draw labels half of the manifolds at random, projects all points to n
  random Gaussian directions, and decides exactly whether a hyperplane through
  the origin separates the two sides. With n_c the n at which half of the draws
  are separable, α = P / n_c. Each n is the most informative one given
  the draws so far (Watson and Pelli, Perception and Psychophysics 1983). n_c is
  the posterior mean for a probit p(n) and a flat prior: the maximum-likelihood
  fit with its binomial error, up to terms of order 1/R.

  The origin is not moved: subtract the mean of all points first to compare
  with `manifold_geometry`, which does so.

  Args:
    key: for dichotomies and projections; draw r depends on it and on r alone.
    points: `[P, M, N]`, or a list of `[M_i, N]`, of any real dtype.
    mask: which of the points are present; all by default.
    num_draws: dichotomies, at least five. Up to some ten, `stderr` is mostly
      the prior's width, and larger than the spread of the capacity over keys.
    bias: whether hyperplanes may miss the origin.

  Returns:
    The capacity; NaN where, by the posterior, even all features separate fewer
    than half of the dichotomies.

  Raises:
    ValueError: there are fewer than two manifolds or five draws, points are not
      finite, or their products are given instead; or points or key are traced,
      as it works on the host and not under jit.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, section V; Cohen
  et al., Nature Communications 2020, methods.
  """
  checks.known("simulated_capacity", key, points, mask)
  checks.key(key)
  checks.count("num_draws", num_draws, least=FEWEST_DRAWS)
  checks.flag("bias", bias)
  X, owner = _checked(points, mask, bias)
  num_manifolds, num_features = int(owner.max()) + 1, X.shape[1]
  with jax.ensure_compile_time_eval():
    seed = np.asarray(jax.random.key_data(key)).tolist()
  transition = _Transition(num_features)
  features, separable = [], []
  for draw in range(num_draws):
    n = transition.next_features(draw)
    answer = _is_draw_separable([*seed, draw], X, owner, n, bias)
    transition.add(n, answer)
    features.append(n)
    separable.append(answer)
  transition.refine(features, separable)
  critical, critical_stderr = transition.moments(lambda n, s: n)
  if transition.quantile(0.5) > num_features:
    critical = critical_stderr = np.nan
  capacity = num_manifolds / critical
  return SimulatedCapacity(
    capacity=capacity,
    stderr=capacity * critical_stderr / critical,
    critical_dimension=critical,
    critical_stderr=critical_stderr,
    width=transition.moments(lambda n, s: s * n)[0],
    features=np.array(features),
    separable=np.array(separable),
  )


def _checked(points, mask, bias=False) -> tuple[np.ndarray, np.ndarray]:
  """Returns the points in float64, in coordinates of their span."""
  if isinstance(points, GramStatistics | PointProducts):
    raise ValueError(
      f"The points are {type(points).__name__}; simulation projects the points"
      " themselves, [P, M, N]: give what the products were made of."
    )
  points, mask = as_points(points, mask)
  if len(points) < 2:
    raise ValueError(
      f"The points have shape {points.shape}; [P, M, N] with two manifolds at"
      " least was expected."
    )
  check_finite(points, mask)
  dtype = points.dtype
  mask = np.asarray(mask)
  given = np.asarray(points)[mask]
  whole = in_own_unit(given.astype(np.float64))
  flat = about_median(given) if bias else whole
  # Gaussian directions look alike in any orthonormal basis. The basis of the
  # span has as many axes as the rank, which dead features and projections hide.
  left, values, _ = np.linalg.svd(flat, full_matrices=False)
  # Of half-precision values, as many directions are real as of the same values
  # in single precision: they are exact here.
  is_float = jnp.issubdtype(dtype, jnp.floating)
  wide = jnp.promote_types(dtype, jnp.float32) if is_float else np.float64
  # An offset that a bias makes up for has cost floats digits, not integers.
  size = np.sqrt(((whole if is_float else flat) ** 2).sum())
  # What the decomposition adds, in double precision, grows with the shape.
  rounding = max(
    _ROUNDING * float(jnp.finfo(wide).eps) * size,
    max(flat.shape) * float(np.finfo(np.float64).eps) * values[0],
  )
  real = values > rounding
  # Signs of singular vectors are arbitrary; these survive rotations of points.
  first = np.abs(left).argmax(axis=0)
  left = left * np.sign(left[first, np.arange(left.shape[1])])
  flat = left[:, real] * values[real] if real.any() else flat[:, :1]
  return flat, np.nonzero(mask)[0]


def _is_draw_separable(seed, X, owner, n: int, bias: bool) -> bool:
  """Tells whether one dichotomy is separable in n random directions."""
  rng = np.random.default_rng(seed)
  num_manifolds = int(owner.max()) + 1
  positive = rng.permutation(num_manifolds) < num_manifolds // 2
  directions = rng.normal(size=(X.shape[1], n))
  return is_separable(X @ directions, positive[owner], bias=bias)
