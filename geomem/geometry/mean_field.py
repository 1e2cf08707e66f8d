"""Mean-field geometry of P manifolds, from their Gram statistics."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from geomem.geometry.anchors import Anchors, _anchors
from geomem.geometry.centers import (
  SharedDirections,
  center_correlation,
  shared_directions,
)
from geomem.geometry.estimators import control_variates, mean_over_probes
from geomem.geometry.frames import make_frames, relative_grams
from geomem.geometry.linalg import matmul, one_by_one
from geomem.geometry.manifold import ManifoldGeometry

# Relative rounding error of distances beyond which capacities are off by more
# than their usual error bars: measured.
_MOST_ROUNDING = 1e-3


def _cosines(a: Array, b: Array) -> Array:
  """Computes cosines of the rows of a and b; 0 for rows of zeros."""
  squares = (a**2).sum(axis=1) * (b**2).sum(axis=1)
  positive = squares > 0
  norm = jnp.sqrt(jnp.where(positive, squares, 1))
  return jnp.where(positive, (a * b).sum(axis=1) / norm, 0)


def _estimates(frame, probes, rank, anchors, kappa, reduce_variance) -> dict:
  """Estimates the geometry of one manifold from its probes.

  1/α_M = ⟨F⟩, R_M² = ⟨‖s̃ − ⟨s̃⟩‖²⟩ and D_M = D ⟨t̂ · ŝ⟩².
  """
  controls = None
  if reduce_variance:
    controls = control_variates(frame, probes, rank, kappa)
  centered = anchors.anchor - anchors.anchor.mean(axis=0, keepdims=True)
  size = (centered**2).sum(axis=1)
  cosine = _cosines(anchors.anchor, probes[:, :-1])
  mean, stderr = mean_over_probes(
    jnp.stack([anchors.force, size, cosine], axis=1), controls
  )
  # About their sample mean, T anchors spread by (T − 1) / T of their variance.
  count = len(probes)
  square = mean[1] * (count / (count - 1) if count > 1 else jnp.nan)
  positive = ~(square <= 0)
  radius = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  # The square of a sample mean is biased upwards by the variance of the mean.
  error = jnp.nan_to_num(stderr[2])
  return {
    "capacity": 1 / mean[0],
    "capacity_stderr": stderr[0] / mean[0] ** 2,
    "radius": radius,
    "radius_stderr": stderr[1] / (2 * jnp.where(positive, radius, 1)),
    "dimension": rank * jnp.maximum(mean[2] ** 2 - error**2, 0),
    "dimension_stderr": 2 * rank * jnp.abs(mean[2]) * stderr[2],
    "interior": anchors.interior.mean(),
    "converged": anchors.converged.all(),
    "residual": anchors.residual.max(),
  }


def _draw_probes(key, frames, num_probes) -> Float[Array, "P T D1"]:
  """Draws normal probes on each frame's span, with one key per manifold."""
  num_manifolds, _, width = frames.points.shape
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.arange(num_manifolds)
  )
  normal = jax.vmap(
    lambda k: jax.random.normal(k, (num_probes, width + 1), frames.points.dtype)
  )(keys)
  inside = matmul(normal[..., :-1], frames.projection)
  return jnp.concatenate([inside, normal[..., -1:]], axis=-1)


class _Framed(NamedTuple):
  """Manifolds in their frames, with their probes and properties."""

  S: Float[Array, "P M D1"]
  probes: Float[Array, "P T D1"]
  rank: Float[Array, " P"]
  center_correlation: Float[Array, ""]
  center_left: Float[Array, " P"]
  rounding: Float[Array, " P"]


# Compiled separately: the search depends on P alone, the solver on P, M and T.
# Other points, probes or options recompile only the rest.
@functools.partial(jax.jit, static_argnames="rule")
def _search(key, centers, rule) -> SharedDirections:
  # LAPACK may not terminate on NaN.
  finite = jnp.isfinite(centers).all()
  return shared_directions(key, jnp.where(finite, centers, 0), rule)


@functools.partial(jax.jit, static_argnames=("num_probes", "padded"))
def _framed(key, stats, coefficients, num_probes, padded) -> _Framed:
  relative = relative_grams(stats, coefficients)
  frames = make_frames(relative.grams, relative.lost, padded)
  ones = jnp.ones((*frames.points.shape[:2], 1), frames.points.dtype)
  finite = jnp.isfinite(stats.centers).all()
  return _Framed(
    jnp.concatenate([frames.points, ones], axis=-1),
    _draw_probes(key, frames, num_probes),
    frames.rank,
    jnp.where(finite, center_correlation(stats.centers), jnp.nan),
    relative.center_left,
    relative.rounding,
  )


@jax.jit
def _solve(S, probes, kappa, mask) -> Anchors:
  for_margin = jax.vmap(_anchors, (None, None, 0, None))
  return (_anchors if kappa.ndim == 0 else for_margin)(S, probes, kappa, mask)


@functools.partial(jax.jit, static_argnames="reduce_variance")
def _measured(
  framed, shared, anchors, kappa, reduce_variance
) -> ManifoldGeometry:
  known = jnp.isfinite(framed.rounding)
  exact = (framed.rounding < _MOST_ROUNDING) & shared.complete

  def measure(anchors, kappa):
    estimates = one_by_one(
      lambda *xs: _estimates(*xs, kappa, reduce_variance),
      framed.S,
      framed.probes,
      framed.rank,
      anchors,
    )
    converged = estimates.pop("converged")
    estimates = {
      name: jnp.where(known, x, jnp.nan) for name, x in estimates.items()
    }
    return ManifoldGeometry(
      **estimates,
      converged=converged & exact & jnp.isfinite(estimates["capacity"]),
      center_correlation=framed.center_correlation,
      rank=shared.rank,
      center_left=framed.center_left,
      rounding=framed.rounding,
    )

  return (measure if kappa.ndim == 0 else jax.vmap(measure))(anchors, kappa)


def geometry_of(
  key, stats, kappa, *, num_probes, centers, padded, reduce_variance
) -> ManifoldGeometry:
  """Computes `manifold_geometry`, which checks and explains the arguments."""
  # A fixed key: the removed directions do not depend on the probes, so that the
  # error bar over the probes is the whole error.
  shared = _search(jax.random.key(0), stats.centers, rule=centers)
  # The removed directions are a choice, not a function to differentiate.
  coefficients = jax.lax.stop_gradient(shared.coefficients)
  framed = _framed(key, stats, coefficients, num_probes, padded)
  anchors = _solve(framed.S, framed.probes, kappa, stats.mask)
  return _measured(framed, shared, anchors, kappa, reduce_variance)
