"""Rules for the number of shared directions of the centres to remove.

Each rule takes three curves over K = 0, 1, ...: the mean correlation, which is
infinite where K was not tried, the cost, and the leading eigenvalue of the
matrix of cosines.
"""

import jax.numpy as jnp


def max_rank(num_manifolds: int) -> int:
  """Returns the largest K to try, which leaves at least two dimensions."""
  return max(0, num_manifolds - 3)


def _argmin(correlations, costs, leading):
  del costs, leading
  return correlations.argmin()


def _elbow(correlations, costs, leading):
  """Finds the K farthest below the line between the curve's ends."""
  del costs, leading
  end = jnp.isfinite(correlations).sum() - 1  # K = 0, ..., end were tried.
  share = jnp.arange(len(correlations)) / jnp.maximum(end, 1)
  line = correlations[0] + share * (correlations[end] - correlations[0])
  return (line - correlations).argmax()


def _null(correlations, costs, leading):
  """Finds the first K at which the centres look independent.

  Cosines of independent centres scatter by 1/√n about zero, and the largest
  eigenvalue of their matrix is (1 + √(P/n))², which it rarely exceeds by more
  than P^(-2/3) of it (Marchenko and Pastur; Johnstone 2001). The scatter is
  estimated at the K of least correlation.
  """
  # The cost includes the cosine of each centre with itself.
  size = len(correlations) + 2
  spread = (2 * costs[correlations.argmin()] - size) / (size * (size - 1))
  root = jnp.sqrt(size * jnp.maximum(spread, 0))
  edge = (1 + root) ** 2
  width = (1 + root) * root ** (1 / 3) * size ** (-2 / 3) * root
  tried = jnp.isfinite(correlations)
  independent = tried & (leading <= edge + 2 * width)
  # If no K looks independent, the one of least correlation is taken.
  return jnp.where(
    independent.any(), independent.argmax(), correlations.argmin()
  )


RULES = {
  "low_rank": _argmin,
  "argmin": _argmin,
  "elbow": _elbow,
  "null": _null,
}


def check_centers(rule: int | str | None, num_manifolds: int) -> None:
  """Checks a rule for the centres before they are computed.

  Args:
    rule: as in `shared_directions`.
    num_manifolds: P.

  Raises:
    ValueError: the rule is not known, or K is more than P - 3.
  """
  largest = max_rank(num_manifolds)
  number = isinstance(rule, int) and not isinstance(rule, bool)
  if number and not 0 <= rule <= largest:
    raise ValueError(
      f"centers={rule} directions cannot be removed from {num_manifolds}"
      f" manifolds; at most {largest} can."
    )
  if not (rule is None or number or rule in RULES):
    raise ValueError(
      f"centers={rule!r} is not known; use {', '.join(map(repr, RULES))}, an"
      " integer or None."
    )
