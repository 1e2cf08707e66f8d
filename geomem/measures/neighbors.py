"""Nearest neighbours of a layer's points: accuracy and local dimension.

A point's neighbours are among all other points of its subset. TwoNN estimates
the dimension of a set from the ratios of its points' second to first distance:
d = n / Σ ln(r₂ / r₁).

Sources: Facco, d'Errico, Rodriguez and Laio, Scientific Reports 2017; Baldock,
Maennel and Neyshabur, NeurIPS 2021, for nearest neighbours in layers (k = 30).
"""

import jax
import jax.numpy as jnp

from geomem.measures.measure import Measure, Metric

MOST_NEIGHBORS = 30
_FEWEST_APART = 0.95

METRICS = (
  Metric("knn_accuracy", "accuracy of nearest neighbours"),
  Metric("twonn_dimension", "dimension by two neighbours"),
)


def neighbor_distances(products):
  """Returns squared distances and indices of each point's neighbours."""
  present = products.mask.reshape(-1)
  squares = jnp.diagonal(products.gram)
  distances = squares[:, None] + squares[None] - 2 * products.gram
  # Distances are differences of large numbers; below rounding they are zero.
  scale = squares[:, None] + squares[None]
  rounding = 8 * jnp.finfo(distances.dtype).eps * scale
  distances = jnp.where(distances > rounding, distances, 0)
  n = len(squares)
  allowed = present[:, None] & present[None] & ~jnp.eye(n, dtype=bool)
  distances = jnp.where(allowed, distances, jnp.inf)
  # At least two, for their ratio; missing neighbours are infinitely far away.
  negative, indices = jax.lax.top_k(
    -distances, max(2, min(MOST_NEIGHBORS, n - 1))
  )
  return -negative, indices


def voted_manifold(distances, places, P: int, M: int):
  """Returns the manifold that most of a point's neighbours belong to.

  Ties go to the lowest index.
  """
  # Missing neighbours have no vote.
  votes = jax.nn.one_hot(places // M, P) * jnp.isfinite(distances)[..., None]
  return votes.sum(axis=1).argmax(axis=1)


def compute(key, products, options):
  """Computes both metrics; NaN for a dead layer.

  Points that coincide with another to rounding, or have a single neighbour,
  have no ratio and are left out; if they are more than one in twenty, the
  dimension is NaN.
  """
  del key, options
  P, M = products.mask.shape
  present = products.mask.reshape(-1)
  distances, indices = neighbor_distances(products)
  chosen = voted_manifold(distances, indices, P, M)
  labels = jnp.arange(P * M) // M
  accuracy = ((chosen == labels) & present).sum() / present.sum()
  nearest, second = distances[:, 0], distances[:, 1]
  apart = present & (nearest > 0) & jnp.isfinite(second)
  ratio = jnp.where(apart, jnp.log(second / nearest) / 2, 0)
  enough = apart.sum() >= _FEWEST_APART * present.sum()
  dead = ~products.has_spread
  return {
    "knn_accuracy": jnp.where(dead, jnp.nan, accuracy),
    "twonn_dimension": jnp.where(
      enough & ~dead, apart.sum() / ratio.sum(), jnp.nan
    ),
  }


def summarize(values) -> dict:
  """Returns the metrics by name, without standard errors."""
  return {name: (value, None) for name, value in values.items()}


NEIGHBORS = Measure(
  "neighbors", METRICS, compute, summarize, statistic="points"
)
