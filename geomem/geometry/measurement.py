"""Capacity, radius and dimension of class manifolds."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from geomem.geometry.anchors import _anchors
from geomem.geometry.centers import center_correlation, shared_directions
from geomem.geometry.estimators import control_variates, mean_over_probes
from geomem.geometry.frames import (
  center_is_lost,
  make_frames,
  relative_grams,
)
from geomem.geometry.linalg import matmul
from geomem.geometry.manifold import ManifoldGeometry
from geomem.geometry.points import Mask, Points
from geomem.geometry.statistics import GramStatistics, gram_statistics

_MOST_PROBES = 2**16
# Relative errors of distances beyond which capacities are off by more than
# their usual error bars: measured.
_MOST_ROUNDING = 1e-3


def _cosines(a: Array, b: Array) -> Array:
  """Computes cosines of the rows of a and b; 0 without a length."""
  squares = (a**2).sum(axis=1) * (b**2).sum(axis=1)
  positive = squares > 0
  norm = jnp.sqrt(jnp.where(positive, squares, 1))
  return jnp.where(positive, (a * b).sum(axis=1) / norm, 0)


def _estimates(frame, probes, rank, found, kappa, reduce_variance) -> dict:
  """Estimates the numbers of one manifold from its probes.

  1/α_M = ⟨F⟩, R_M² = ⟨‖s̃ − ⟨s̃⟩‖²⟩ and D_M = D ⟨t̂ · ŝ⟩².
  """
  controls = None
  if reduce_variance:
    controls = control_variates(frame, probes, rank, kappa)
  centered = found.anchor - found.anchor.mean(axis=0, keepdims=True)
  size = (centered**2).sum(axis=1)
  cosine = _cosines(found.anchor, probes[:, :-1])
  mean, stderr = mean_over_probes(
    jnp.stack([found.force, size, cosine], axis=1), controls
  )
  # About their own mean, T anchors spread by (T − 1) / T of their variance.
  count = len(probes)
  square = mean[1] * (count / (count - 1) if count > 1 else jnp.nan)
  positive = ~(square <= 0)
  radius = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  # The square of a mean is too large by the variance of the mean.
  error = jnp.nan_to_num(stderr[2])
  return {
    "capacity": 1 / mean[0],
    "capacity_stderr": stderr[0] / mean[0] ** 2,
    "radius": radius,
    "radius_stderr": stderr[1] / (2 * jnp.where(positive, radius, 1)),
    "dimension": rank * jnp.maximum(mean[2] ** 2 - error**2, 0),
    "dimension_stderr": 2 * rank * jnp.abs(mean[2]) * stderr[2],
    "interior": found.interior.mean(),
    "converged": found.converged.all(),
    "residual": found.residual.max(),
  }


def _draw_probes(key, frames, num_probes) -> Float[Array, "P T D1"]:
  """Draws normal probes on each frame's span, a key each manifold."""
  num_manifolds, _, width = frames.points.shape
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.arange(num_manifolds)
  )
  normal = jax.vmap(
    lambda k: jax.random.normal(k, (num_probes, width + 1), frames.points.dtype)
  )(keys)
  inside = matmul(normal[..., :-1], frames.projection)
  return jnp.concatenate([inside, normal[..., -1:]], axis=-1)


@functools.partial(
  jax.jit,
  static_argnames=("num_probes", "centers", "padded", "reduce_variance"),
)
def _geometry(
  key, stats, kappa, *, num_probes, centers, padded, reduce_variance
):
  # One key for all: which directions go does not depend on the probes, so that
  # their error bar is the whole error.
  shared = shared_directions(jax.random.key(0), stats.centers, centers)
  # Which directions go is a choice, not a function to differentiate.
  coefficients = jax.lax.stop_gradient(shared.coefficients)
  relative = relative_grams(stats, coefficients)
  frames = make_frames(relative.grams, relative.lost, padded)
  ones = jnp.ones((*frames.points.shape[:2], 1), frames.points.dtype)
  S = jnp.concatenate([frames.points, ones], axis=-1)
  probes = _draw_probes(key, frames, num_probes)
  known = jnp.isfinite(relative.rounding)
  exact = (relative.rounding < _MOST_ROUNDING) & shared.complete

  def measure(kappa):
    found = _anchors(S, probes, kappa, stats.mask)
    estimates = jax.vmap(lambda *xs: _estimates(*xs, kappa, reduce_variance))(
      S, probes, frames.rank, found
    )
    converged = estimates.pop("converged")
    estimates = {
      name: jnp.where(known, x, jnp.nan) for name, x in estimates.items()
    }
    return ManifoldGeometry(
      **estimates,
      converged=converged & exact,
      center_correlation=center_correlation(stats.centers),
      rank=shared.rank,
      center_left=relative.center_left,
      rounding=relative.rounding,
    )

  return measure(kappa) if kappa.ndim == 0 else jax.vmap(measure)(kappa)


def manifold_geometry(
  key: Key[Array, ""],
  points: GramStatistics | Points,
  *,
  mask: Mask = None,
  kappa: float | Sequence[float] | Float[Array, "..."] = 0.0,
  num_probes: int = 300,
  relative_error: float | None = None,
  centers: int | str | None = "low_rank",
  padded: bool = False,
  reduce_variance: bool = True,
) -> ManifoldGeometry:
  """Estimates capacity, radius and dimension of P manifolds.

  1/α_M(κ) = ⟨F(t)⟩ over standard normal probes t, with F(t) the squared
  distance from t to the vectors that keep margin κ to all points; R_M and D_M
  are the size and the dimension of the anchor points.

  Args:
    key: for the probes.
    points: `[P, M, N]`, a list of `[M_i, N]`, or their Gram statistics.
    mask: which of the `[P, M]` points are there; all by default.
    kappa: margin, in units of the centre's norm; several share the probes, and
      give every number a leading axis.
    num_probes: T, probes a manifold.
    relative_error: wanted standard error of the mean capacity over itself. The
      probes are then as many as it takes, `num_probes` at first and at most
      65,536; not under jit.
    centers: which shared directions of the centres to remove first:
      `low_rank` chooses their number K, an integer is K, None removes nothing;
      see `shared_directions`.
    padded: D_M as the field's other code has it where N > M, counting an axis
      without variance too: D = M, not the rank.
    reduce_variance: whether functions of the probes with known means reduce
      the error of the mean, from 48 probes on; unbiased either way.

  Raises:
    ValueError: the points are of the wrong shape, or not finite; there is one
      manifold only, or one whose centre is at the mean of all points (outside
      jit); no probes; a margin that is not finite; a wanted error that is not
      positive, or takes too many probes.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, equations 16, 17,
  28 and 29; Stephenson et al., ICLR 2021.
  """
  if not isinstance(points, GramStatistics):
    points = gram_statistics(points, mask=mask)
  elif mask is not None:
    raise ValueError(
      "A mask was given with Gram statistics, which have their own; give it to"
      " gram_statistics."
    )
  if num_probes < 1:
    raise ValueError(f"num_probes is {num_probes}; 1 at least was expected.")
  _check_centers_apart(points)
  if not isinstance(kappa, jax.core.Tracer):
    kappa = np.asarray(kappa)
    if not np.isfinite(kappa).all():
      raise ValueError(f"kappa is {kappa}; finite margins were expected.")
  kappa = jnp.asarray(kappa, points.within.dtype)
  measure = functools.partial(
    _geometry,
    key,
    points,
    kappa,
    centers=centers,
    padded=padded,
    reduce_variance=reduce_variance,
  )
  if relative_error is None:
    return measure(num_probes=num_probes)
  return _measure_to(relative_error, measure, num_probes)


def _check_centers_apart(stats: GramStatistics) -> None:
  """Refuses manifolds without a centre of their own, unless all is dead."""
  if stats.centers.shape[-1] == 1:
    raise ValueError(
      "There is one manifold, whose centre is the mean of all points: its"
      " radius has no unit. Give two manifolds or more; others of the same"
      " space, such as all other points as one, will do."
    )
  if isinstance(stats.within, jax.core.Tracer):
    return
  # In NumPy, which does not become part of a program that is being traced.
  within, centers, mask = map(
    np.asarray, (stats.within, stats.centers, stats.mask)
  )
  size = within.trace(axis1=-2, axis2=-1)
  lost = np.flatnonzero(center_is_lost(within, centers, mask) & (size > 0))
  if lost.size:
    raise ValueError(
      f"The centres of manifolds {lost.tolist()} are at the mean of all points"
      " to rounding: their radius has no unit. Look for manifolds that are the"
      " same, or leave these out."
    )


def _measure_to(relative_error, measure, num_probes) -> ManifoldGeometry:
  """Doubles the probes until the error is as wanted."""
  if not relative_error > 0:
    raise ValueError(
      f"relative_error={relative_error} was given; a positive number was"
      " expected, such as 0.01."
    )
  while True:
    found = measure(num_probes=num_probes)
    ratio = found.mean_capacity_stderr / found.mean_capacity
    if float(ratio.max()) <= relative_error:
      return found
    missing = (float(ratio.max()) / relative_error) ** 2
    # Powers of two, so that few programs are compiled.
    num_probes *= 2 ** max(1, math.ceil(math.log2(missing)))
    if not num_probes <= _MOST_PROBES:
      raise ValueError(
        f"A relative error of {relative_error} takes {num_probes} probes, more"
        f" than {_MOST_PROBES}; ask for a larger one."
      )
