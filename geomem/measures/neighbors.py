"""What a point's nearest neighbours say: its class, and the local dimension.

Each point is asked among all others of its subset. TwoNN takes the dimension of
a set from the ratios of its points' second distance to the first:
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
  """Returns squared distances and places of each point's nearest others."""
  there = products.mask.reshape(-1)
  squares = jnp.diagonal(products.gram)
  distances = squares[:, None] + squares[None] - 2 * products.gram
  # Differences of large numbers: below their rounding there is no distance.
  scale = squares[:, None] + squares[None]
  rounding = 8 * jnp.finfo(distances.dtype).eps * scale
  distances = jnp.where(distances > rounding, distances, 0)
  n = len(squares)
  allowed = there[:, None] & there[None] & ~jnp.eye(n, dtype=bool)
  distances = jnp.where(allowed, distances, jnp.inf)
  # Two at least, for their ratio; one that is not there is infinitely far.
  negative, places = jax.lax.top_k(
    -distances, max(2, min(MOST_NEIGHBORS, n - 1))
  )
  return -negative, places


def voted_manifold(distances, places, P: int, M: int):
  """Returns the manifold that most of the nearest points are of.

  The one of the lower number if two have as many.
  """
  # Neighbours that are not there have no vote.
  votes = jax.nn.one_hot(places // M, P) * jnp.isfinite(distances)[..., None]
  return votes.sum(axis=1).argmax(axis=1)


def compute(key, products, options):
  """Computes both; NaN for a dead layer.

  Points that coincide with another to rounding have no ratio and are left out;
  where they are more than one in twenty, the dimension is NaN.
  """
  del key, options
  P, M = products.mask.shape
  there = products.mask.reshape(-1)
  distances, places = neighbor_distances(products)
  chosen = voted_manifold(distances, places, P, M)
  own = jnp.arange(P * M) // M
  accuracy = ((chosen == own) & there).sum() / there.sum()
  nearest, second = distances[:, 0], distances[:, 1]
  apart = there & (nearest > 0)
  ratio = jnp.where(apart, jnp.log(second / nearest) / 2, 0)
  enough = apart.sum() >= _FEWEST_APART * there.sum()
  dead = ~products.has_spread
  return {
    "knn_accuracy": jnp.where(dead, jnp.nan, accuracy),
    "twonn_dimension": jnp.where(
      enough & ~dead, apart.sum() / ratio.sum(), jnp.nan
    ),
  }


def summarize(found) -> dict:
  """Has nothing to average: no error is known."""
  return {name: (value, None) for name, value in found.items()}


NEIGHBORS = Measure(
  "neighbors", METRICS, compute, summarize, statistic="points"
)
