"""References for every measurement: a shuffled null, and subsamples.

Both are summaries: means over manifolds, and their spread over samples.
"""

import functools
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from geomem.geometry import checks
from geomem.geometry.arrays import is_wide
from geomem.geometry.mean_field import ManifoldGeometry
from geomem.geometry.measurement import (
  as_margins,
  check_options,
  manifold_geometry,
)
from geomem.geometry.points import (
  Mask,
  Points,
  as_points,
  check_finite,
  float_type,
)
from geomem.geometry.statistics import GramStatistics, gram_statistics


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


@functools.partial(jax.jit, static_argnames=("batch_size", "options"))
def _measure(keys, stats, kappa, *, batch_size, options) -> Resampled:
  """Measures stacked statistics; compiled once for any number of features."""

  def measure(key_and_stats) -> Summary:
    return summarize(
      manifold_geometry(*key_and_stats, kappa=kappa, **dict(options))
    )

  samples = jax.lax.map(measure, (keys, stats), batch_size=batch_size)
  mean = jax.tree.map(lambda x: x.mean(axis=0), samples)
  # Divided by R - 1, which for one sample is 0 / 0 = NaN, as it should be.
  sd = jax.tree.map(lambda x: x.std(axis=0, ddof=1), samples)
  return Resampled(samples, mean, sd)


def _resampled(
  key, points, num_samples, batch_size, options, draw
) -> Resampled:
  """Measures samples with the options of `manifold_geometry`.

  `draw` maps keys to the indices of each sample's points among all of them, and
  to which of these are present.
  """
  sample_key, probe_key = jax.random.split(key)
  kappa = as_margins(options.pop("kappa", 0.0), float_type(points))
  drawn = draw(jax.random.split(sample_key, num_samples))
  flat = points.reshape(-1, points.shape[2])
  if is_wide(points):
    # Each sample is shifted by one of its own points before it is rounded: one
    # of all points may be far from it.
    checks.known("The draw of points in float64 or wide integers", key)
    samples = zip(*map(np.asarray, drawn), strict=True)
    stats = [gram_statistics(flat[i], mask=shown) for i, shown in samples]
    stats = jax.tree.map(lambda *x: jnp.stack(x), *stats)
  else:
    stats = _statistics(jnp.asarray(flat), *drawn)
  return _measure(
    jax.random.split(probe_key, num_samples),
    stats,
    kappa,
    batch_size=batch_size,
    options=tuple(sorted(options.items())),
  )


@jax.jit
def _statistics(flat, indices, masks) -> GramStatistics:
  """Computes statistics of each sample of points on the device."""
  return jax.lax.map(
    lambda drawn: gram_statistics(flat[drawn[0]], mask=drawn[1]),
    (indices, masks),
  )


def _checked(key, points, mask, num_samples, batch_size, options):
  """Returns points and mask after a check of all arguments."""
  checks.key(key)
  checks.count("num_samples", num_samples)
  if batch_size is not None:
    checks.count("batch_size", batch_size)
  if options.pop("relative_error", None) is not None:
    raise ValueError(
      "relative_error was given, which samples cannot have: all are measured"
      " with the same number of probes. Give num_probes."
    )
  points, mask = as_points(points, mask)
  check_finite(points, mask)
  check_options(
    len(points), **{name: x for name, x in options.items() if name != "kappa"}
  )
  return points, mask


def _random_order(key, present: Array) -> Array:
  """Returns a random order of the present entries; the others come last."""
  draw = jax.random.uniform(key, present.shape)
  return jnp.where(present, draw, 2).argsort(axis=-1)


@jax.jit
def _shuffled(keys, mask) -> tuple[Array, Array]:
  """Draws shuffles of the points, which leave the missing ones missing."""
  present = mask.reshape(-1)
  slots = (~present).argsort(stable=True)

  def shuffle(key):
    order = _random_order(key, present)
    return jnp.zeros_like(order).at[slots].set(order).reshape(mask.shape)

  indices = jax.lax.map(shuffle, keys)
  return indices, jnp.broadcast_to(mask[None], indices.shape)


@functools.partial(jax.jit, static_argnames=("num_manifolds", "num_points"))
def _subsampled(keys, mask, *, num_manifolds, num_points):
  """Draws subsets of the manifolds and of their points."""

  def choose(key):
    manifold_key, point_key = jax.random.split(key)
    chosen = jax.random.permutation(manifold_key, len(mask))[:num_manifolds]
    order = _random_order(point_key, mask[chosen])[:, :num_points]
    return chosen[:, None] * mask.shape[1] + order

  indices = jax.lax.map(choose, keys)
  return indices, jnp.ones(indices.shape, bool)


def shuffled_null(
  key: Key[Array, ""],
  points: Points,
  *,
  mask: Mask = None,
  num_samples: int = 10,
  batch_size: int | None = None,
  **options,
) -> Resampled:
  """Measures the same points with their labels shuffled.

  The result is the geometry of P groups of M points without class structure.
  The manifolds keep their sizes.

  Args:
    key: for the shuffles and the probes.
    points: `[P, M, N]`, or a list of `[M_i, N]`, of any real dtype.
      Those in float64 or integers on the host are drawn there, not under jit.
    mask: which of the points are present; all by default.
    num_samples: R, how many shuffles.
    batch_size: samples at a time under vmap; one by default.
    **options: of `manifold_geometry`, without relative_error.

  Raises:
    ValueError: the points are of the wrong shape or not finite, or an option
      does not fit.
  """
  points, mask = _checked(key, points, mask, num_samples, batch_size, options)
  draw = functools.partial(_shuffled, mask=jnp.asarray(mask))
  return _resampled(key, points, num_samples, batch_size, options, draw)


def subsample(
  key: Key[Array, ""],
  points: Points,
  *,
  mask: Mask = None,
  num_manifolds: int | None = None,
  num_points: int | None = None,
  num_samples: int = 10,
  batch_size: int | None = None,
  **options,
) -> Resampled:
  """Measures random subsets of the manifolds and of their points.

  Subsets are drawn without replacement. α_M and D_M depend on M: compare at
  equal M only. Samples of nearly all points share most of them, so that their
  spread understates that of new points. Under jit the mask may not be traced.

  Args:
    key: for the subsets and the probes.
    points: `[P, M, N]`, or a list of `[M_i, N]`, of any real dtype.
      Those in float64 or integers on the host are drawn there, not under jit.
    mask: which of the points are present; all by default.
    num_manifolds: P', manifolds in a sample; all by default.
    num_points: M', points of each; the size of the smallest by default.
    num_samples: R.
    batch_size: samples at a time under vmap; one by default.
    **options: of `manifold_geometry`, without relative_error.

  Raises:
    ValueError: the points are of the wrong shape, not finite, or fewer than
      asked for, or an option does not fit.
  """
  points, mask = _checked(key, points, mask, num_samples, batch_size, options)
  checks.known("The draw of subsets of masked points", mask)
  fewest = int(np.asarray(mask).sum(axis=1).min())
  num_manifolds = len(points) if num_manifolds is None else num_manifolds
  num_points = fewest if num_points is None else num_points
  checks.counts(num_manifolds=num_manifolds, num_points=num_points)
  if not (2 <= num_manifolds <= len(points) and num_points <= fewest):
    raise ValueError(
      f"{num_points} points of each of {num_manifolds} manifolds cannot be"
      f" drawn: there are {len(points)} manifolds, the smallest of {fewest}"
      " points; at least two manifolds are needed, as one alone has no centre"
      " of its own."
    )
  draw = functools.partial(
    _subsampled,
    mask=jnp.asarray(mask),
    num_manifolds=num_manifolds,
    num_points=num_points,
  )
  return _resampled(key, points, num_samples, batch_size, options, draw)


def detectable_difference(
  sd: Any, *, num_samples: int = 1, level: float = 0.05, power: float = 0.8
) -> Any:
  """Returns the smallest detectable difference between two conditions.

  With σ the standard deviation of one measurement, and n independent ones in
  each condition, a two-sided test of the given level detects a difference of

    δ = (z_{1 − level/2} + z_power) σ √(2/n)

  with at least the given power. That test knows σ: a t-test, which estimates it
  from the measurements, needs a larger n. `subsample` measures how σ depends on
  P, M and T: take
  `subsample(key, points, num_manifolds=P, num_points=M, num_probes=T).sd` of
  many more points than a sample has. Where both conditions share probes and
  examples, as two layers do, the difference has less spread than assumed here.

  Args:
    sd: standard deviations of single measurements: an array, or a tree of
      them, such as `Resampled.sd`.
    num_samples: n, independent measurements of each condition.
    level: probability of detecting a difference where there is none.
    power: probability of detecting a difference δ; more than the level, as
      half the level is reached where there is no difference.

  Returns:
    The differences, in the form of `sd`.

  Raises:
    ValueError: the number of samples is not positive, the level or the power is
      not a probability, the power does not exceed the level, or a deviation is
      negative or no real number.
  """
  checks.count("num_samples", num_samples)
  checks.known("detectable_difference", level, power)
  for name, value in (("level", level), ("power", power)):
    checks.reals(name, value)
    if not 0 < value < 1:
      raise ValueError(
        f"{name} is {value}; a probability in (0, 1) was expected."
      )
  if power <= level:
    raise ValueError(
      f"power is {power} and level {level}; a power above the level was"
      " expected, as a test at that level claims a difference that often where"
      " there is none."
    )
  normal = statistics.NormalDist()
  z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)

  def difference(sd):
    checks.reals("sd", sd, scalar=False)
    if not checks.is_traced(sd) and (np.asarray(sd) < 0).any():
      raise ValueError(
        f"sd has the value {np.asarray(sd).min()}; standard deviations, which"
        " are not negative, were expected."
      )
    return z * sd * (2 / num_samples) ** 0.5

  return jax.tree.map(difference, sd)
