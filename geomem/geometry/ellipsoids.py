"""Mean-field geometry of solid ellipsoids, exact for every probe.

The vectors that keep margin κ to an ellipsoid with semi-axes R_i form a cone,
v_c - κ ≥ √Σ(R_i v_i)², and the vector of the cone nearest to a probe follows
from the root of one scalar equation.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key

_NUM_BISECTIONS = 50


class EllipsoidAnchors(NamedTuple):
  """Anchor points of an ellipsoid, one for each probe.

  Attributes:
    force: F = ‖v - t‖², whose mean is 1/α.
    anchor: the anchor points, relative to the ellipsoid's centre.
    interior: whether the ellipsoid does not bind, v = t.
  """

  force: Float[Array, " T"]
  anchor: Float[Array, "T D"]
  interior: Bool[Array, " T"]


class EllipsoidGeometry(NamedTuple):
  """Capacity, radius and dimension of an ellipsoid, with standard errors.

  Attributes:
    capacity: α_M.
    capacity_stderr: its standard error over the probes.
    radius: R_M, in units of the centre's norm.
    radius_stderr: its standard error.
    dimension: D_M.
    dimension_stderr: its standard error.
  """

  capacity: Float[Array, ""]
  capacity_stderr: Float[Array, ""]
  radius: Float[Array, ""]
  radius_stderr: Float[Array, ""]
  dimension: Float[Array, ""]
  dimension_stderr: Float[Array, ""]


def _norm(x: Array) -> Array:
  """Computes the norm of x, with derivative zero at x = 0."""
  square = (x**2).sum()
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _root(excess, dtype) -> Array:
  """Finds the root in [0, 1] of a decreasing function.

  The last Newton step carries the derivative of the root with respect to
  whatever `excess` closes over.
  """

  def halve(_, bracket):
    low, high = bracket
    middle = (low + high) / 2
    above = excess(middle) > 0
    return jnp.where(above, middle, low), jnp.where(above, high, middle)

  bracket = (jnp.zeros((), dtype), jnp.ones((), dtype))
  low, high = jax.lax.fori_loop(0, _NUM_BISECTIONS, halve, bracket)
  z = jax.lax.stop_gradient((low + high) / 2)
  slope = jax.lax.stop_gradient(jax.grad(excess)(z))
  return z - excess(z) / jnp.where(slope < 0, slope, -1)


def _anchor(axes: Array, t: Array) -> tuple[Array, Array, Array]:
  """Computes force, anchor and `interior` of a probe at κ = 0."""
  used = axes > 0
  R = jnp.where(used, axes, 0)
  # Along an axis of length zero, v and t are equal.
  t_c, t = t[-1], jnp.where(used, t[:-1], 0)
  interior = t_c >= _norm(R * t)
  # In the polar cone the nearest v is 0, and the anchor lies inside.
  polar = -t_c >= _norm(t / jnp.where(used, axes, 1))
  regular = ~(interior | polar)
  # v_i = t_i / (1 + ρ R_i²) and v_c = t_c / (1 - ρ), with ρ = z / (1 - z).
  x = jnp.where(regular, t, 1)
  x_c = jnp.where(regular, t_c, 0)

  def excess(z):
    return (1 - 2 * z) * _norm(R * x / (1 - z + z * R**2)) - x_c

  z = jnp.where(interior, 0, _root(excess, t.dtype))
  v = t * jnp.where(regular, (1 - z) / (1 - z + z * R**2), 1)
  length = _norm(R * v)
  # λ is the increase of v_c over t_c; the anchor is (v - t) / λ.
  moved = (length - t_c) ** 2 + ((v - t) ** 2).sum()
  force = jnp.where(polar, t_c**2 + (t**2).sum(), moved)
  touching = -(R**2) * v / jnp.where(length > 0, length, 1)
  inside = t / jnp.where(polar & (t_c < 0), t_c, 1)
  anchor = jnp.where(polar, inside, touching)
  return jnp.where(interior, 0, force), anchor, interior


@jax.jit
def ellipsoid_anchors(
  axes: Float[Array, " D"],
  probes: Float[Array, "T D1"],
  kappa: ArrayLike = 0.0,
) -> EllipsoidAnchors:
  """Computes anchor points of a solid ellipsoid; differentiable.

  Args:
    axes: semi-axes R_i, in units of the centre's norm; zero is allowed.
    probes: t, with the coordinate along the centre last.
    kappa: margin κ.
  """
  shifted = probes.at[:, -1].add(-kappa)
  return EllipsoidAnchors(*jax.vmap(functools.partial(_anchor, axes))(shifted))


def ellipsoid_geometry(
  key: Key[Array, ""],
  axes: Float[Array, " D"],
  kappa: ArrayLike = 0.0,
  *,
  num_probes: int = 10_000,
) -> EllipsoidGeometry:
  """Estimates capacity, radius and dimension of solid ellipsoids.

  Args:
    key: for the probes.
    axes: semi-axes R_i, in units of the centre's norm.
    kappa: margin κ.
    num_probes: T.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, section VI.
  """
  shape = (num_probes, axes.shape[0] + 1)
  probes = jax.random.normal(key, shape, axes.dtype)
  anchors = ellipsoid_anchors(axes, probes, kappa)
  inverse, inverse_stderr = _moments(anchors.force)
  square, square_stderr = _moments((anchors.anchor**2).sum(axis=1))
  real = axes > 0
  D = real.sum()
  along = jnp.where(real[None], probes[:, :-1], 0)
  cosine, cosine_stderr = _moments(jax.vmap(_cosine)(anchors.anchor, along))
  radius = jnp.sqrt(square)
  return EllipsoidGeometry(
    capacity=1 / inverse,
    capacity_stderr=inverse_stderr / inverse**2,
    radius=radius,
    radius_stderr=square_stderr / (2 * jnp.where(radius > 0, radius, 1)),
    dimension=D * cosine**2,
    dimension_stderr=2 * D * jnp.abs(cosine) * cosine_stderr,
  )


def _cosine(a: Array, b: Array) -> Array:
  norms = _norm(a) * _norm(b)
  return jnp.dot(a, b) / jnp.where(norms > 0, norms, 1)


def _moments(x: Array) -> tuple[Array, Array]:
  return x.mean(), x.std(ddof=1) / jnp.sqrt(x.size)
