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


def compute(key, products, options):
  """Computes both; NaN for a dead layer.

  Points that coincide with another to rounding have no ratio and are left out;
  where they are more than one in twenty, the dimension is NaN.

  Of k neighbours the class that most of them have wins, the one of the lower
  number if two have as many.
  """
  del key, options
  P, M = products.mask.shape
  there = products.mask.reshape(-1)
  squares = jnp.diagonal(products.gram)
  distances = squares[:, None] + squares[None] - 2 * products.gram
  # Differences of large numbers: below their rounding there is no distance.
  scale = squares[:, None] + squares[None]
  rounding = 8 * jnp.finfo(distances.dtype).eps * scale
  distances = jnp.where(distances > rounding, distances, 0)
  allowed = there[:, None] & there[None] & ~jnp.eye(P * M, dtype=bool)
  distances = jnp.where(allowed, distances, jnp.inf)
  k = min(MOST_NEIGHBORS, P * M - 1)
  negative, places = jax.lax.top_k(-distances, max(k, 2))
  # Neighbours that are not there have no vote.
  votes = jax.nn.one_hot(places[:, :k] // M, P) * jnp.isfinite(
    negative[:, :k, None]
  )
  chosen = votes.sum(axis=1).argmax(axis=1)
  own = jnp.arange(P * M) // M
  accuracy = ((chosen == own) & there).sum() / there.sum()
  nearest, second = -negative[:, 0], -negative[:, 1]
  apart = there & (nearest > 0)
  ratio = jnp.where(apart, jnp.log(second / nearest) / 2, 0)
  enough = apart.sum() >= _FEWEST_APART * there.sum()
  dead = ~(jnp.where(there, squares, 0).max() > 0)
  return {
    "knn_accuracy": jnp.where(dead, jnp.nan, accuracy),
    "twonn_dimension": jnp.where(enough, apart.sum() / ratio.sum(), jnp.nan),
  }


def summarize(found) -> dict:
  """Has nothing to average: no error is known."""
  return {name: (value, None) for name, value in found.items()}


NEIGHBORS = Measure(
  "neighbors", METRICS, compute, summarize, statistic="points"
)
