"""Mean-field geometry of solid ellipsoids, exact for every probe.

The vectors that keep margin κ to an ellipsoid with semi-axes R_i form a cone,
v_c - κ ≥ √Σ(R_i v_i)², and the vector of the cone nearest to a probe follows
from the root of one scalar equation.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import as_array
from geomem.geometry.estimators import dimension_of, mean_and_error
from geomem.geometry.linalg import NO_SECOND, no_derivative
from geomem.geometry.points import in_floats

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
  """The geometry of an ellipsoid; `_stderr` are standard errors over probes.

  Attributes:
    capacity: α_M.
    radius: R_M, in units of the centre's norm.
    dimension: D_M.
  """

  capacity: Float[Array, ""]
  capacity_stderr: Float[Array, ""]
  radius: Float[Array, ""]
  radius_stderr: Float[Array, ""]
  dimension: Float[Array, ""]
  dimension_stderr: Float[Array, ""]


def _norm(x: Array) -> Array:
  """Computes the norm of x in any unit, with derivative zero at x = 0."""
  largest = jax.lax.stop_gradient(jnp.abs(x).max(initial=0))
  zero = largest == 0
  largest = jnp.where(zero, 1, largest)
  square = ((x / largest) ** 2).sum()
  return largest * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def _root(excess, dtype) -> Array:
  """Finds the root of a decreasing function of the logarithm of ρ.

  Differentiable in whatever `excess` closes over.
  """

  def solve(excess, _):
    def halve(_, bracket):
      low, high = bracket
      middle = (low + high) / 2
      above = excess(middle) > 0
      return jnp.where(above, middle, low), jnp.where(above, high, middle)

    # Beyond, ρ or its inverse would leave the range of the type.
    end = -0.98 * jnp.log(jnp.finfo(dtype).tiny).astype(dtype)
    low, high = jax.lax.fori_loop(0, _NUM_BISECTIONS, halve, (-end, end))
    x = (low + high) / 2
    # A Newton step.
    x = x - divide(jax.grad(excess)(x), excess(x))
    return no_derivative(x, NO_SECOND)

  def divide(slope, y):
    return y / jnp.where(slope < 0, slope, -1)

  return jax.lax.custom_root(
    excess,
    jnp.zeros((), dtype),
    solve,
    lambda linear, y: divide(linear(jnp.ones_like(y)), y),
  )


def _anchor(axes: Array, t: Array) -> tuple[Array, Array, Array]:
  """Computes force, anchor and `interior` of a probe at κ = 0."""
  used = axes != 0
  size = jnp.abs(axes)
  # At the end of the type's range, 1 - z would leave it.
  size = jnp.where(size > 1e5 * jnp.finfo(size.dtype).tiny, size, jnp.nan)
  R = jnp.where(used, size, 1)
  # Along an axis of length zero, v and t are equal.
  t_c, t = t[-1], jnp.where(used, t[:-1], 0)
  interior = t_c >= _norm(R * t)
  # In the polar cone the nearest v is 0, and the anchor lies inside.
  polar = -t_c >= _norm(t / R)
  regular = ~(interior | polar)
  # v_i = t_i / (1 + ρ R_i²) and v_c = t_c / (1 - ρ), with ρ = z / (1 - z).
  # Both z and 1 - z are kept: either may be far below the rounding of 1.
  x = jnp.where(regular, t, jnp.where(used, 1, 0))
  x_c = jnp.where(regular, t_c, 0)

  def excess(log_rho):
    z, rest = jax.nn.sigmoid(log_rho), jax.nn.sigmoid(-log_rho)
    return -jnp.tanh(log_rho / 2) * _norm(x / (rest / R + z * R)) - x_c

  log_rho = _root(excess, t.dtype)
  z = jnp.where(interior, 0, jax.nn.sigmoid(log_rho))
  rest = jnp.where(interior, 1, jax.nn.sigmoid(-log_rho))
  # R v = (1 - z) y, and v - t = -z R y.
  y = t / (rest / R + z * R)
  length = _norm(y)
  # λ is the increase of v_c over t_c; the anchor is (v - t) / λ.
  moved = (rest * length - t_c) ** 2 + ((z * R * y) ** 2).sum()
  force = jnp.where(polar, t_c**2 + (t**2).sum(), moved)
  touching = -R * (y / jnp.where(length == 0, 1, length))
  inside = t / jnp.where(polar & (t_c < 0), t_c, 1)
  anchor = jnp.where(polar, inside, touching)
  return jnp.where(interior, 0, force), anchor, interior


@jax.jit
def ellipsoid_anchors(
  axes: Shaped[ArrayLike, "..."] | Sequence,
  probes: Shaped[ArrayLike, "T D1"],
  kappa: ArrayLike = 0.0,
) -> EllipsoidAnchors:
  """Computes anchor points of a solid ellipsoid; differentiable.

  Args:
    axes: `[D]` semi-axes R_i, in units of the centre's norm; zero is allowed,
      and signs do not matter. NaN makes everything NaN, and so do lengths at
      the end of the type's range, below 1e-33 in single precision.
    probes: t, with the coordinate along the centre last.
    kappa: margin κ.

  Raises:
    ValueError: the shapes do not fit, or the margin is not one real number.
  """
  (probes,) = in_floats(probes=probes)
  checks.reals("kappa", kappa)
  axes = jnp.asarray(axes, probes.dtype)
  if axes.shape != (probes.shape[-1] - 1,):
    raise ValueError(
      f"The axes have shape {axes.shape}, the probes {probes.shape}; [D] and"
      " [T, D + 1] were expected."
    )
  shifted = probes.at[:, -1].add(-jnp.asarray(kappa, probes.dtype))
  return EllipsoidAnchors(*jax.vmap(functools.partial(_anchor, axes))(shifted))


def ellipsoid_geometry(
  key: Key[Array, ""],
  axes: Shaped[ArrayLike, "..."] | Sequence,
  kappa: ArrayLike = 0.0,
  *,
  num_probes: int = 10_000,
) -> EllipsoidGeometry:
  """Estimates capacity, radius and dimension of solid ellipsoids.

  Args:
    key: for the probes.
    axes: `[D]` semi-axes R_i, in units of the centre's norm. Those of length
      zero do not count as dimensions, signs do not matter, and NaN makes
      everything NaN.
    kappa: margin κ.
    num_probes: T.

  Raises:
    ValueError: the axes do not have shape `[D]`, the margin is not one real
      number, or there are no probes.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, section VI.
  """
  checks.key(key)
  checks.count("num_probes", num_probes)
  checks.reals("kappa", kappa)
  checks.reals("The list of semi-axes", axes, scalar=False)
  axes = jnp.asarray(as_array(axes))
  dtype = jnp.promote_types(jnp.result_type(float, axes), jnp.float32)
  axes = axes.astype(dtype)
  if axes.ndim != 1:
    raise ValueError(
      f"The axes have shape {axes.shape}; [D] was expected, one ellipsoid's."
    )
  probes = jax.random.normal(key, (num_probes, axes.size + 1), dtype)
  anchors = ellipsoid_anchors(axes, probes, kappa)
  inverse, inverse_stderr = mean_and_error(anchors.force)
  # In this unit no square of a tiny ellipsoid's anchors underflows.
  unit = jax.lax.stop_gradient(jnp.abs(axes).max(initial=0))
  unit = jnp.where(unit == 0, 1, unit)
  squares = ((anchors.anchor / unit) ** 2).sum(axis=1)
  square, square_stderr = mean_and_error(squares)
  real = axes != 0
  along = jnp.where(real[None], probes[:, :-1], 0)
  cosine = mean_and_error(jax.vmap(_cosine)(anchors.anchor, along))
  dimension, dimension_stderr = dimension_of(real.sum(), *cosine)
  radius = jnp.sqrt(square)
  return EllipsoidGeometry(
    capacity=1 / inverse,
    capacity_stderr=inverse_stderr / inverse**2,
    radius=unit * radius,
    radius_stderr=unit * square_stderr / (2 * jnp.where(radius > 0, radius, 1)),
    dimension=dimension,
    dimension_stderr=dimension_stderr,
  )


def _cosine(a: Array, b: Array) -> Array:
  norms = _norm(a) * _norm(b)
  return jnp.dot(a, b) / jnp.where(norms == 0, 1, norms)
