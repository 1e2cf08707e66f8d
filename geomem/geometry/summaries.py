"""Geometry in brief: means over manifolds, and their spread over samples."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from geomem.geometry.manifold import ManifoldGeometry


class Summary(NamedTuple):
  """Means over the manifolds of one sample, or a statistic over samples.

  Several margins add a last axis.

  Attributes:
    capacity: harmonic mean of α_M.
    radius: mean of R_M.
    dimension: mean of D_M.
    center_correlation: ρ.
    rank: K.
    converged: share of the manifolds whose numbers are reliable; where it is
      below 1, doubt the others.
  """

  capacity: Float[Array, "..."]
  radius: Float[Array, "..."]
  dimension: Float[Array, "..."]
  center_correlation: Float[Array, "..."]
  rank: Float[Array, "..."]
  converged: Float[Array, "..."]


class Resampled(NamedTuple):
  """The geometry of many samples.

  Attributes:
    samples: each of the samples, `[R]`, or `[R, margins]`.
    mean: over the samples.
    sd: standard deviation over the samples, from probes and examples together;
      NaN for one sample.
  """

  samples: Summary
  mean: Summary
  sd: Summary


def summarize(result: ManifoldGeometry) -> Summary:
  """Returns the means of one sample over its manifolds."""
  dtype = result.capacity.dtype
  return Summary(
    result.mean_capacity,
    result.mean_radius,
    result.mean_dimension,
    result.center_correlation,
    result.rank.astype(dtype),
    result.converged.astype(dtype).mean(axis=-1),
  )


def over_samples(samples: Summary) -> Resampled:
  """Adds the mean and the standard deviation over the leading axis."""
  mean = jax.tree.map(lambda x: x.mean(axis=0), samples)
  # Divided by R - 1, which for one sample is 0 / 0 = NaN, as it should be.
  sd = jax.tree.map(lambda x: x.std(axis=0, ddof=1), samples)
  return Resampled(samples, mean, sd)
