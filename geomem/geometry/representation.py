"""Dimension of a whole representation, from the spectrum of its points.

Unlike D_M these know of no manifolds, unless the spectrum is of one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from geomem.geometry.statistics import GramStatistics

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _eigenvalues(gram: Array) -> Array:
  """Largest first; rounding below zero is cut."""
  return jnp.maximum(jnp.linalg.eigvalsh(gram), 0)[..., ::-1]


def spectrum(
  points: Shaped[Array | np.ndarray, "*n N"],
) -> Float[Array, " values"]:
  """Eigenvalues of the covariance of all points, largest first.

  From the smaller of the covariance and the Gram matrix, which share them.

  Args:
    points: `[n, N]`, or `[P, M, N]`, which counts as P M points.

  Returns:
    min(n, N) eigenvalues, divided by n.
  """
  points = jnp.asarray(points)
  points = points.reshape(-1, points.shape[-1])
  points = points - points.mean(axis=0, keepdims=True)
  if len(points) < points.shape[1]:
    gram = _dot(points, points.T)
  else:
    gram = _dot(points.T, points)
  return _eigenvalues(gram) / len(points)


def within_spectrum(stats: GramStatistics) -> Float[Array, "*b P M"]:
  """Eigenvalues of the covariance of each manifold about its centre."""
  counts = stats.mask.sum(axis=-1)[..., None]
  return _eigenvalues(stats.within) / counts


def center_spectrum(stats: GramStatistics) -> Float[Array, "*b P"]:
  """Eigenvalues of the covariance of the centres."""
  # About their own mean, which is not that of all points if M varies.
  gram = stats.centers - stats.centers.mean(axis=-1, keepdims=True)
  gram = gram - gram.mean(axis=-2, keepdims=True)
  return _eigenvalues(gram) / gram.shape[-1]


def participation_ratio(
  eigenvalues: Float[Array, "*b values"],
) -> Float[Array, "*b"]:
  """(Σ λ)² / Σ λ²: D for D equal eigenvalues, 1 for one, 0 for none.

  n points of a wide spectrum have at most n - 1; compare at equal n.

  Args:
    eigenvalues: of a covariance, in any unit and order.
  """
  squares = (eigenvalues**2).sum(axis=-1)
  total = eigenvalues.sum(axis=-1)
  return total**2 / jnp.where(squares > 0, squares, 1)


def explained_variance_dimension(
  eigenvalues: Float[Array, "*b values"], fraction: float = 0.9
) -> Int[Array, "*b"]:
  """How many of the largest eigenvalues hold this fraction of the variance.

  Args:
    eigenvalues: of a covariance, in any unit and order.
    fraction: in (0, 1].

  Raises:
    ValueError: the fraction is out of range.
  """
  if not 0 < fraction <= 1:
    raise ValueError(
      f"fraction is {fraction}; a share of the variance in (0, 1] was expected."
    )
  largest_first = jnp.sort(eigenvalues, axis=-1)[..., ::-1]
  held = jnp.cumsum(largest_first, axis=-1)
  total = held[..., -1:]
  # Rounding of the sum must not ask for one more than it takes.
  slack = eigenvalues.shape[-1] * jnp.finfo(eigenvalues.dtype).eps
  short = held < fraction * total * (1 - slack)
  return jnp.where(total[..., 0] > 0, short.sum(axis=-1) + 1, 0)
