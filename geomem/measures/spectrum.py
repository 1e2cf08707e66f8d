"""The spectrum measure: how many dimensions a layer's manifolds occupy.

The nonzero eigenvalues of a covariance are those of the Gram matrix of the same
points, divided by their number. So the spectra of the centres, and of the
points of each manifold about its centre, follow from the Gram statistics. M
points have at most M - 1 dimensions, P centres P - 1.
"""

import dataclasses

import jax.numpy as jnp

from geomem import geometry
from geomem.measures.measure import Measure, Metric

METRICS = (
  Metric("centers_participation", "participation ratio of the centres"),
  Metric("within_participation", "participation ratio within manifolds"),
  Metric("within_explained", "dimensions of 90% of the variance"),
  Metric("centers_share", "share of the variance between manifolds"),
)


def compute(key, stats, options):
  """Computes the metrics of one subset; all points have equal weight."""
  del key, options
  # None of the metrics depends on the unit, in which variances may not fit.
  stats = dataclasses.replace(stats, exponent=jnp.zeros_like(stats.exponent))
  within = geometry.within_spectrum(stats)
  counts = stats.mask.sum(axis=-1)
  between = (counts * jnp.diagonal(stats.centers)).sum()
  inside = jnp.trace(stats.within, axis1=-2, axis2=-1).sum()
  centers = geometry.center_spectrum(stats)
  explained = geometry.explained_variance_dimension(within)
  return {
    "centers_participation": geometry.participation_ratio(centers),
    "within_participation": geometry.participation_ratio(within).mean(),
    "within_explained": jnp.where(explained < 0, jnp.nan, explained).mean(),
    "centers_share": between / (between + inside),
  }


SPECTRUM = Measure("spectrum", METRICS, compute)
