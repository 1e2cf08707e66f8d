"""Manifolds of a known shape: points drawn about centres, in random axes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from geomem.geometry import checks


def _point(key, num_points, dimension):
  del key
  return jnp.zeros((num_points, dimension))


def _segment(key, num_points, dimension):
  del key
  ends = jnp.linspace(-1, 1, num_points)[:, None]
  ends = ends if num_points > 1 else jnp.zeros((1, 1))
  return jnp.concatenate([ends, jnp.zeros((num_points, dimension - 1))], 1)


def _normalize(x: Array) -> Array:
  return x / jnp.sqrt((x**2).sum(axis=1, keepdims=True))


def _sphere(key, num_points, dimension):
  return _normalize(jax.random.normal(key, (num_points, dimension)))


def _ball(key, num_points, dimension):
  direction_key, length_key = jax.random.split(key)
  length = jax.random.uniform(length_key, (num_points, 1)) ** (1 / dimension)
  return length * _sphere(direction_key, num_points, dimension)


def _cloud(key, num_points, dimension):
  x = jax.random.normal(key, (num_points, dimension))
  return x / jnp.sqrt(dimension)


# Shape -> points of size one: `(key, M, D) -> [M, D]`.
SHAPES: dict[str, Callable] = {
  "points": _point,
  "segments": _segment,
  "spheres": _sphere,
  "balls": _ball,
  "clouds": _cloud,
}


def independent_centers(
  key: Key[Array, ""], num_manifolds: int, num_features: int
) -> Float[Array, "P N"]:
  """Draws centres of norm one in independent directions.

  Args:
    key: for the directions.
    num_manifolds: P.
    num_features: N.

  Raises:
    ValueError: there are no manifolds or features.
  """
  checks.key(key)
  checks.counts(num_manifolds=num_manifolds, num_features=num_features)
  return _normalize(jax.random.normal(key, (num_manifolds, num_features)))


def correlated_centers(
  key: Key[Array, ""],
  num_manifolds: int,
  num_features: int,
  *,
  rank: int,
  strength: float,
) -> Float[Array, "P N"]:
  """Draws centres of norm one that share directions.

  c = √(1 - s) g / √N + √s V z / √K, with g and z standard normal and a
  common V of K orthonormal columns, then scaled to norm one.

  Args:
    key: for the directions.
    num_manifolds: P.
    num_features: N.
    rank: K, the number of shared directions.
    strength: s in [0, 1], their share of the variance.

  Raises:
    ValueError: the rank or the strength is out of range.
  """
  checks.key(key)
  checks.counts(
    num_manifolds=num_manifolds, num_features=num_features, rank=rank
  )
  checks.reals("strength", strength)
  if rank > num_features:
    raise ValueError(
      f"rank is {rank}; from 1 to num_features = {num_features} directions"
      " can be shared."
    )
  if not checks.is_traced(strength) and not 0 <= strength <= 1:
    raise ValueError(
      f"strength is {strength}; it is a share of the variance, from 0 to 1."
    )
  noise_key, axes_key, shared_key = jax.random.split(key, 3)
  noise = jax.random.normal(noise_key, (num_manifolds, num_features))
  V, _ = jnp.linalg.qr(jax.random.normal(axes_key, (num_features, rank)))
  z = jax.random.normal(shared_key, (num_manifolds, rank))
  noise = jnp.sqrt((1 - strength) / num_features) * noise
  return _normalize(noise + jnp.sqrt(strength / rank) * z @ V.T)


def synthetic_manifolds(
  key: Key[Array, ""],
  shape: str,
  *,
  num_manifolds: int,
  num_points: int,
  num_features: int,
  dimension: int = 1,
  radius: ArrayLike = 1.0,
  centers: Float[Array, "P N"] | None = None,
) -> Float[Array, "P M N"]:
  """Draws P manifolds of one shape, in random axes about their centres.

  The axes of a manifold are orthonormal, and orthogonal to its centre.

  Args:
    key: for centres, axes and points.
    shape: `points`, all at the centre; `segments`, evenly spaced along the
      first axis whatever the dimension; `spheres` and `balls`, uniform
      on the surface and in the interior; `clouds`, Gaussian.
    num_manifolds: P.
    num_points: M.
    num_features: N, more than the dimension.
    dimension: D.
    radius: R, for clouds the root mean square, or `[D]` semi-axes, which turn
      spheres and balls into ellipsoids; in the unit of the centres.
    centers: by default independent ones of norm one.

  Raises:
    ValueError: the shape is unknown, or the sizes do not fit.
  """
  checks.key(key)
  checks.counts(num_manifolds=num_manifolds, num_points=num_points)
  checks.counts(num_features=num_features, dimension=dimension)
  checks.reals("radius", radius, scalar=False)
  if not isinstance(shape, str) or shape not in SHAPES:
    raise ValueError(f"shape {shape!r} is not known; use one of {[*SHAPES]}.")
  if dimension >= num_features:
    raise ValueError(
      f"dimension is {dimension}; from 1 to num_features - 1 ="
      f" {num_features - 1} fit beside the centre."
    )
  center_key, axes_key, point_key = jax.random.split(key, 3)
  if centers is None:
    centers = independent_centers(center_key, num_manifolds, num_features)
  checks.reals("The array of centres", centers, scalar=False)
  centers = jnp.asarray(centers)
  if centers.shape != (num_manifolds, num_features):
    raise ValueError(
      f"The centres have shape {centers.shape};"
      f" {(num_manifolds, num_features)} was expected."
    )
  axes = jnp.asarray(radius, jnp.float32)
  if axes.shape not in ((), (1,), (dimension,)):
    raise ValueError(
      f"radius has shape {axes.shape}; one number, or one for each of"
      f" {dimension} dimensions, was expected."
    )
  axes = jnp.broadcast_to(axes, (dimension,))

  def manifold(axes_key, point_key, center):
    free = jax.random.normal(axes_key, (num_features, dimension))
    # The first column of the QR is the centre's own direction.
    basis = jnp.concatenate([center[:, None], free], axis=1)
    basis, _ = jnp.linalg.qr(basis)
    x = SHAPES[shape](point_key, num_points, dimension) * axes[None]
    return center[None] + x @ basis[:, 1:].T

  keys = jax.random.split(axes_key, num_manifolds)
  point_keys = jax.random.split(point_key, num_manifolds)
  return jax.vmap(manifold)(keys, point_keys, centers)
