"""Nearest neighbours of a layer's points: accuracy and local dimension.

A point's neighbours are among all other points of its subset. Its k = 30
nearest ones vote for a manifold, or M − 1, the number of its own manifold's, if
that is less for any manifold. TwoNN estimates the dimension of a set from the
ratios of its points' second to first distance: d = n / Σ ln(r₂ / r₁).

Sources: Facco, d'Errico, Rodriguez and Laio, Scientific Reports 2017; Baldock,
Maennel and Neyshabur, NeurIPS 2021, for nearest neighbours in layers (k = 30).
"""

import jax
import jax.numpy as jnp

from geomem.geometry.linalg import squared_distances
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
  distances = squared_distances(products.gram)
  # Distances are differences of large numbers; below rounding they are zero.
  scale = squares[:, None] + squares[None]
  rounding = 8 * jnp.finfo(distances.dtype).eps * scale
  distances = jnp.where(distances > rounding, distances, 0)
  n = len(squares)
  allowed = present[:, None] & present[None] & ~jnp.eye(n, dtype=bool)
  distances = jnp.where(allowed, distances, jnp.inf)
  # At least two, for their ratio; missing neighbours are infinitely far away.
  most = max(2, min(MOST_NEIGHBORS, products.mask.shape[1] - 1))
  negative, indices = jax.lax.top_k(-distances, min(most, n))
  return -negative, indices


def voted_manifold(distances, places, mask):
  """Returns the manifold that most of a point's neighbours belong to.

  No more neighbours vote than every point has in its own manifold: with more,
  points of other manifolds would outvote those of a collapsed one. Ties go to
  the lowest index. It is -1 without votes, as where a manifold has one point.
  """
  P, M = mask.shape
  voters = jnp.arange(places.shape[1]) < mask.sum(axis=1).min() - 1
  # Missing neighbours have no vote.
  voters = voters[None] & jnp.isfinite(distances)
  votes = (jax.nn.one_hot(places // M, P) * voters[..., None]).sum(axis=1)
  return jnp.where(votes.max(axis=1) > 0, votes.argmax(axis=1), -1)


def compute(key, products, options):
  """Computes both metrics; NaN for a dead layer.

  The accuracy is NaN where a manifold has a single point. Points that coincide
  with another to rounding, or have a single neighbour, have no ratio and are
  left out; if they are more than one in twenty, the dimension is NaN.
  """
  del key, options
  P, M = products.mask.shape
  present = products.mask.reshape(-1)
  distances, indices = neighbor_distances(products)
  chosen = voted_manifold(distances, indices, products.mask)
  labels = jnp.arange(P * M) // M
  unknown = (present & (chosen < 0)).any()
  accuracy = ((chosen == labels) & present).sum() / present.sum()
  nearest, second = distances[:, 0], distances[:, :2].max(axis=1)
  apart = present & (nearest > 0) & jnp.isfinite(second)
  ratio = jnp.where(apart, jnp.log(second / nearest) / 2, 0)
  enough = apart.sum() >= _FEWEST_APART * present.sum()
  dead = ~products.has_spread
  return {
    "knn_accuracy": jnp.where(dead | unknown, jnp.nan, accuracy),
    "twonn_dimension": jnp.where(
      enough & ~dead, apart.sum() / ratio.sum(), jnp.nan
    ),
  }


NEIGHBORS = Measure("neighbors", METRICS, compute, statistic="points")
