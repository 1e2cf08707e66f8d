"""The spectrum measure: how many dimensions a layer's manifolds take up.

The nonzero eigenvalues of a covariance are those of the Gram matrix of the same
points, over their number. So the spectra of the centres, and of the points of
each manifold about its centre, follow from the Gram statistics. M points have
at most M - 1 dimensions, P centres P - 1.
"""

import jax
import jax.numpy as jnp

from geomem.measures.measure import Measure, Metric

EXPLAINED = 0.9

METRICS = (
  Metric("centers_participation", "participation ratio of the centres"),
  Metric("within_participation", "participation ratio within manifolds"),
  Metric("within_explained", "dimensions of 90 % of a manifold's variance"),
  Metric("centers_share", "share of the variance between manifolds"),
)


def participation_ratio(eigenvalues: jax.Array) -> jax.Array:
  """Computes (Σλ)² / Σλ² over the last axis; NaN where all are zero.

  It is the dimension of a cloud whose variance is equal in all directions.
  """
  return eigenvalues.sum(-1) ** 2 / (eigenvalues**2).sum(-1)


def explained_dimension(
  eigenvalues: jax.Array, share: float = EXPLAINED
) -> jax.Array:
  """Counts the largest eigenvalues that add up to a share of all.

  Between two counts it is interpolated, so that it is continuous.
  """
  largest = jnp.flip(jnp.sort(eigenvalues, axis=-1), -1)
  total = largest.sum(-1, keepdims=True)
  before = jnp.cumsum(largest, -1) - largest
  wanted = share * total - before
  return jnp.clip(wanted / jnp.maximum(largest, 1e-30), 0, 1).sum(-1)


def compute(key, stats, options):
  """Computes eigenvalues; all points of a manifold count alike."""
  del key, options
  counts = stats.mask.sum(-1).astype(stats.within.dtype)
  within = jax.vmap(jnp.linalg.eigvalsh)(stats.within)
  centers = jnp.linalg.eigvalsh(stats.centers)
  # Eigenvalues of products are those of the covariance times the count.
  return {
    "within": jnp.maximum(within, 0),
    "centers": jnp.maximum(centers, 0),
    "between": (counts * jnp.diagonal(stats.centers)).sum(),
    "inside": jnp.trace(stats.within, axis1=-2, axis2=-1).sum(),
  }


def summarize(found) -> dict:
  """Averages what is of each manifold."""
  between, inside = found["between"], found["inside"]
  within = found["within"]
  return {
    "centers_participation": (participation_ratio(found["centers"]), None),
    "within_participation": (participation_ratio(within).mean(-1), None),
    "within_explained": (explained_dimension(within).mean(-1), None),
    "centers_share": (between / (between + inside), None),
  }


SPECTRUM = Measure("spectrum", METRICS, compute, summarize)
