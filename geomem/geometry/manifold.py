"""Capacity, radius and dimension of class manifolds."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from geomem.geometry.anchors import _anchors
from geomem.geometry.centers import (
  center_correlation,
  shared_directions,
)
from geomem.geometry.statistics import GramStatistics, gram_statistics

_HIGHEST = jax.lax.Precision.HIGHEST


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=[
    "capacity",
    "capacity_stderr",
    "radius",
    "radius_stderr",
    "dimension",
    "dimension_stderr",
    "center_correlation",
    "rank",
    "interior",
    "converged",
    "residual",
  ],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class ManifoldGeometry:
  """The geometry of P manifolds, with standard errors over the probes.

  Attributes:
    capacity: α_M of each manifold.
    capacity_stderr: its standard error.
    radius: R_M, in units of the centre's norm.
    radius_stderr: its standard error.
    dimension: D_M.
    dimension_stderr: its standard error.
    center_correlation: ρ, before directions are removed.
    rank: K, how many shared directions were removed.
    interior: fraction of probes that no point binds.
    converged: whether each problem was solved to rounding.
    residual: the worst violation of optimality of a manifold's problems.
  """

  capacity: Float[Array, "*b P"]
  capacity_stderr: Float[Array, "*b P"]
  radius: Float[Array, "*b P"]
  radius_stderr: Float[Array, "*b P"]
  dimension: Float[Array, "*b P"]
  dimension_stderr: Float[Array, "*b P"]
  center_correlation: Float[Array, "*b"]
  rank: Int[Array, "*b"]
  interior: Float[Array, "*b P"]
  converged: Bool[Array, "*b P"]
  residual: Float[Array, "*b P"]

  @property
  def mean_capacity(self) -> Float[Array, "*b"]:
    """Capacity of the whole: the harmonic mean over manifolds."""
    return 1 / (1 / self.capacity).mean(axis=-1)

  @property
  def mean_capacity_stderr(self) -> Float[Array, "*b"]:
    """Standard error of the harmonic mean over the probes."""
    inverse_stderr = self.capacity_stderr / self.capacity**2
    return self.mean_capacity**2 * _stderr_of_mean(inverse_stderr)

  @property
  def mean_radius(self) -> Float[Array, "*b"]:
    """The plain mean of the radii."""
    return self.radius.mean(axis=-1)

  @property
  def mean_radius_stderr(self) -> Float[Array, "*b"]:
    """Standard error of the mean radius over the probes."""
    return _stderr_of_mean(self.radius_stderr)

  @property
  def mean_dimension(self) -> Float[Array, "*b"]:
    """The plain mean of the dimensions."""
    return self.dimension.mean(axis=-1)

  @property
  def mean_dimension_stderr(self) -> Float[Array, "*b"]:
    """Standard error of the mean dimension over the probes."""
    return _stderr_of_mean(self.dimension_stderr)


def _stderr_of_mean(stderr: Array) -> Array:
  return jnp.sqrt((stderr**2).sum(axis=-1)) / stderr.shape[-1]


def relative_grams(
  stats: GramStatistics, coefficients: Float[Array, "P K"]
) -> Float[Array, "P M M"]:
  """Gram matrices of the points about their centres, in units of its norm.

  (w_μ − (x_μ A)(x_μ A)ᵀ) / (C_μμ − ‖(C A)_μ‖²), after the directions with
  coefficients A have been removed from all points.
  """
  dot = functools.partial(jnp.matmul, precision=_HIGHEST)
  # A counts centred centres; centring it does the same for the products.
  A = coefficients - coefficients.mean(axis=0, keepdims=True)
  along = dot(stats.cross, A[None])
  removed = dot(along, along.swapaxes(1, 2))
  norms = jnp.diagonal(stats.centers)
  left = norms - (dot(stats.centers, A) ** 2).sum(axis=1)
  # A centre of no norm has no unit: the frame says so by being huge.
  tiny = jnp.finfo(left.dtype).eps * norms.max() + jnp.finfo(left.dtype).tiny
  return (stats.within - removed) / jnp.maximum(left, tiny)[:, None, None]


def frames_from_grams(
  grams: Float[Array, "P M M"],
) -> tuple[Float[Array, "P M D1"], Bool[Array, "P D"]]:
  """Frames S with S Sᵀ = Gram + 1, and which of their D = M axes are real.

  Axes of no variance are zero, so that the dimension is the true rank.
  """
  values, vectors = jnp.linalg.eigh(grams)
  size = grams.shape[-1]
  eps = jnp.finfo(grams.dtype).eps
  real = values > 10 * size * eps * values[:, -1:]
  points = vectors * jnp.sqrt(jnp.where(real, values, 0))[:, None, :]
  ones = jnp.ones((*points.shape[:2], 1), points.dtype)
  return jnp.concatenate([points, ones], axis=-1), real


def _moments(x: Array) -> tuple[Array, Array]:
  """Mean over the last axis, the probes, and its standard error."""
  count = x.shape[-1]
  mean = x.mean(axis=-1)
  deviations = ((x - mean[..., None]) ** 2).sum(axis=-1)
  return mean, jnp.sqrt(deviations / max(count - 1, 1) / count)


def _radius(anchor: Array) -> tuple[Array, Array]:
  """R_M² = ⟨‖s̃ − ⟨s̃⟩‖²⟩, over anchors `[P, T, D]`."""
  centered = anchor - anchor.mean(axis=1, keepdims=True)
  square, stderr = _moments((centered**2).sum(axis=-1))
  positive = square > 0
  radius = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
  return radius, stderr / (2 * jnp.where(positive, radius, 1))


def _dimension(anchor, probes, real) -> tuple[Array, Array]:
  """D_M = D ⟨t̂ · ŝ⟩², over anchors and probes `[P, T, D]`."""
  rank = real.sum(axis=-1)
  along = (anchor * probes).sum(axis=-1)
  squares = (anchor**2).sum(axis=-1) * (probes**2).sum(axis=-1)
  positive = squares > 0
  norm = jnp.sqrt(jnp.where(positive, squares, 1))
  cosine, stderr = _moments(jnp.where(positive, along / norm, 0))
  return rank * cosine**2, 2 * rank * jnp.abs(cosine) * stderr


@functools.partial(jax.jit, static_argnames=("num_probes", "centers"))
def _geometry(key, stats, kappa, *, num_probes, centers):
  direction_key, probe_key = jax.random.split(key)
  shared = shared_directions(direction_key, stats.centers, centers)
  # Which directions go is a choice, not a function to differentiate.
  coefficients = jax.lax.stop_gradient(shared.coefficients)
  grams = relative_grams(stats, coefficients)
  frames, real = frames_from_grams(grams)
  num_manifolds, _, width = frames.shape
  keys = jax.vmap(lambda i: jax.random.fold_in(probe_key, i))(
    jnp.arange(num_manifolds)
  )
  probes = jax.vmap(
    lambda k: jax.random.normal(k, (num_probes, width), frames.dtype)
  )(keys)
  used = jnp.concatenate([real, jnp.ones((num_manifolds, 1), bool)], axis=-1)
  probes = jnp.where(used[:, None], probes, 0)
  found = _anchors(frames, probes, kappa, stats.mask)
  inverse, inverse_stderr = _moments(found.force)
  radius, radius_stderr = _radius(found.anchor)
  dimension, dimension_stderr = _dimension(found.anchor, probes[..., :-1], real)
  return ManifoldGeometry(
    capacity=1 / inverse,
    capacity_stderr=inverse_stderr / inverse**2,
    radius=radius,
    radius_stderr=radius_stderr,
    dimension=dimension,
    dimension_stderr=dimension_stderr,
    center_correlation=center_correlation(stats.centers),
    rank=shared.rank,
    interior=found.interior.mean(axis=-1),
    converged=found.converged.all(axis=-1),
    residual=found.residual.max(axis=-1),
  )


def manifold_geometry(
  key: Key[Array, ""],
  points: GramStatistics | Shaped[Array | np.ndarray, "..."] | Sequence,
  *,
  kappa: float = 0.0,
  num_probes: int = 300,
  centers: int | str | None = "low_rank",
) -> ManifoldGeometry:
  """Capacity, radius and dimension of P manifolds.

  1/α_M(κ) = ⟨F(t)⟩ over standard normal probes t, with F(t) the squared
  distance from t to the vectors that keep margin κ to all points; R_M and D_M
  are the size and the dimension of the anchor points.

  Args:
    key: for the probes and the starts of the centre step.
    points: `[P, M, N]`, a list of `[M_i, N]`, or their Gram statistics.
    kappa: margin, in units of the centre's norm.
    num_probes: T, probes a manifold.
    centers: which shared directions of the centres to remove first:
      `low_rank` chooses their number K, an integer is K, None removes nothing.

  Raises:
    ValueError: the points are of the wrong shape, or not finite.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, equations 16, 17,
  28 and 29; Stephenson et al., ICLR 2021.
  """
  if not isinstance(points, GramStatistics):
    points = gram_statistics(points)
  return _geometry(key, points, kappa, num_probes=num_probes, centers=centers)
