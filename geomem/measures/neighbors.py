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
from jaxtyping import Array, Float, Int

from geomem.geometry import PointProducts
from geomem.geometry.double import in_double
from geomem.geometry.linalg import squared_distances
from geomem.measures.measure import Measure, Metric

MOST_NEIGHBORS = 30
# Shorter squared distances, in units of rounding, are lost.
_LEAST_KNOWN = 64
_FEWEST_KNOWN = 0.95

METRICS = (
  Metric(
    "knn_accuracy", "accuracy of nearest neighbours", chance="chance_accuracy"
  ),
  Metric("twonn_dimension", "dimension by two neighbours"),
)


def vote_of_neighbors(
  products: PointProducts,
) -> tuple[Int[Array, " n"], Float[Array, "n k"]]:
  """Returns the manifold that most of a point's neighbours belong to.

  Ties go to the lowest index. No more neighbours vote than every point has in
  its own manifold: with more, points of other manifolds would outvote those of
  a collapsed one. The vote is -1 where there is none, as where a manifold has
  one point or all points coincide; or where it is not known, because more
  points than may vote are lost in rounding, and which of them vote matters.

  Returns:
    The votes, and the squared distances to the nearest neighbours, in order: 0
    if they are lost, infinite where a neighbour is missing.
  """
  mask, dtype = products.mask, products.gram.dtype
  P, M = mask.shape
  n = P * M

  def find(parts, others):
    products = PointProducts(*parts, *others)
    present = products.mask.reshape(-1)
    allowed = present[:, None] & present[None] & ~jnp.eye(n, dtype=bool)
    gram = products.whole[:-1, :-1]
    squares = jnp.diagonal(gram)
    # Distances are differences of large numbers, each given in two parts.
    eps = max(jnp.finfo(gram.dtype).eps, jnp.finfo(dtype).eps ** 2)
    least = _LEAST_KNOWN * eps * (squares[:, None] + squares[None])
    distances = squared_distances(gram)
    distances = jnp.where(distances > least, distances, 0)
    distances = jnp.where(allowed, distances, jnp.inf)
    # At least two, for their ratio; missing neighbours are infinitely far away.
    most = min(max(2, min(MOST_NEIGHBORS, M - 1)), n)
    negative, places = jax.lax.top_k(-distances, most)
    return -negative, (places, distances == 0)

  distances, (places, lost) = in_double(find, dtype)(
    products.parts, (mask, products.exponent)
  )
  count = jnp.minimum(mask.sum(axis=1).min() - 1, MOST_NEIGHBORS)
  voters = (jnp.arange(places.shape[1]) < count)[None] & jnp.isfinite(distances)
  votes = (jax.nn.one_hot(places // M, P) * voters[..., None]).sum(axis=1)
  lost = lost.reshape(n, P, M).sum(axis=2)
  total = lost.sum(axis=1)
  # All lost points vote, or most of any choice of them are of one manifold.
  known = (total <= count) | (2 * (total - lost.max(axis=1)) < count)
  known &= (votes.max(axis=1) > 0) & products.has_spread
  return jnp.where(known, votes.argmax(axis=1), -1), distances


def compute(key, products, options):
  """Computes both metrics; NaN for a dead layer.

  Points whose vote is not known are left out of the accuracy, as points that
  coincide with another to rounding, or have a single neighbour, are left out of
  the dimension. Where they are more than one in twenty, the metric is NaN.
  """
  del key, options
  P, M = products.mask.shape
  present = products.mask.reshape(-1)
  votes, distances = vote_of_neighbors(products)
  known = present & (votes >= 0)
  right = known & (votes == jnp.arange(P * M) // M)
  nearest, second = distances[:, 0], distances[:, :2].max(axis=1)
  apart = present & (nearest > 0) & jnp.isfinite(second)
  ratio = jnp.where(apart, jnp.log(second / nearest) / 2, 0)

  def count(used):
    enough = used.sum() >= _FEWEST_KNOWN * present.sum()
    return jnp.where(enough & products.has_spread, used.sum(), jnp.nan)

  return {
    "knn_accuracy": right.sum() / count(known),
    "twonn_dimension": count(apart) / ratio.sum(),
  }


NEIGHBORS = Measure("neighbors", METRICS, compute, statistic="points")
