"""Mean-field capacity of ideal manifolds: points, segments, balls.

The arguments of each function broadcast, and it is differentiable in all of
them. The centre of a manifold has norm one; its axes are orthogonal to it.
Arguments that are NaN or out of range give NaN; capacities too large for their
type are infinite.

Source: Chung, Lee and Sompolinsky, Physical Review X 2018, sections II to V;
points: Gardner, Journal of Physics A 1988.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaincc, log_ndtr
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from geomem.geometry import checks
from geomem.geometry.arrays import as_array

_NUM_NODES = 1024
# exp(-40) is below the rounding of float64.
_TAIL = 40.0
_NUM_TERMS = 128
_SMALLEST_DIMENSION = 1e-2
# Radii beyond differ from infinity by less than rounding.
_LARGEST_RADIUS = 1e15
# The normal density is below the rounding of float64 at twelve deviations.
_NORMAL_END = 12.0


def _floating(*values: ArrayLike) -> list[Array]:
  for value in values:
    checks.reals("An argument", value, scalar=False)
  kinds = list | tuple | jax.Array
  values = [as_array(x) if isinstance(x, kinds) else x for x in values]
  dtype = jnp.promote_types(jnp.result_type(float, *values), jnp.float32)
  return [jnp.asarray(value, dtype) for value in values]


def _at_least(least: int, value: Array) -> Array:
  """Returns the value; below the least, it and its derivative are NaN."""
  return value * jnp.where(value >= least, 1, jnp.nan)


def point_capacity(kappa: ArrayLike = 0.0) -> Float[Array, "..."]:
  """Computes the capacity of points, Gardner's perceptron.

  1/α₀(κ) = ∫_{-κ}^∞ Dt (t + κ)² = (1 + κ²) Φ(κ) + κ φ(κ).

  Args:
    kappa: margin κ.
  """
  (kappa,) = _floating(kappa)
  return 1 / _force_up_to(kappa, kappa)


def simplex_capacity(
  num_points: ArrayLike, kappa: ArrayLike = 0.0
) -> Float[Array, "..."]:
  """Returns the capacity of M points without structure, the chance level.

  In many dimensions such points and their centre form a regular simplex of
  circumradius √(M − 1), whose M vectors (s_i, 1) are orthogonal and of squared
  norm M. So F = Σ_i max(t·u_i + κ/√M, 0)² with M orthonormal u_i, and

  1/α = M [(1 + k²) Φ(k) + k φ(k)],   k = κ / √M,

  which is M/2 at κ = 0.

  Args:
    num_points: M, at least 1.
    kappa: margin κ, in units of the centre's norm.
  """
  num_points, kappa = _floating(num_points, kappa)
  num_points = _at_least(1, num_points)
  k = kappa / jnp.sqrt(num_points)
  return 1 / (num_points * _force_up_to(k, k))


def segment_capacity(
  half_length: ArrayLike, kappa: ArrayLike = 0.0
) -> Float[Array, "..."]:
  """Computes the capacity of segments; at κ = 0, 1/α = ½ + (2/π) arctan R.

  Args:
    half_length: R, in units of the centre's norm.
    kappa: margin κ.
  """
  return ball_capacity(half_length, 1.0, kappa)


def ball_capacity(
  radius: ArrayLike, dimension: ArrayLike, kappa: ArrayLike = 0.0
) -> Float[Array, "..."]:
  """Computes the capacity α_B(κ, R, D) of balls.

  1/α_B = ∫ dr χ_D(r) {∫_{κ-r/R}^{κ+rR} Dt (rR - t + κ)² / (1 + R²)
                       + ∫_{-∞}^{κ-r/R} Dt [(t - κ)² + r²]}.

  With R_M and D_M of any manifold it is the ball approximation of its capacity.
  The inner integrals have closed forms; the outer one is a trapezoid rule in
  the logarithm of r, exact to rounding; to 1e-5 where R > 100 and κ < -R.

  Args:
    radius: R, in units of the centre's norm, at least 0.
    dimension: D, at least 0; below 0.01 it counts as 0.01.
    kappa: margin κ.
  """
  return 1 / _inverse_ball_capacity(*_floating(radius, dimension, kappa))


def ball_radius(
  radius: ArrayLike, dimension: ArrayLike, kappa: ArrayLike = 0.0
) -> Float[Array, "..."]:
  """Computes the radius R_M of balls, the size of their anchor points.

  An anchor point is on the sphere, r_a = R, unless the probe has t < κ - r/R:
  then it is inside, r_a = r / (κ - t). R_M² = ⟨r_a²⟩. D_M is D.

  Args:
    radius: R, in units of the centre's norm, at least 0.
    dimension: D, at least 0; below 0.01 it counts as 0.01.
    kappa: margin κ.
  """
  return _ball_radius(*_floating(radius, dimension, kappa))


def _moments_up_to(c: Array) -> tuple[Array, Array, Array]:
  """Computes ∫_{-∞}^c Dt (c - t)^n for n = 0, 1, 2."""
  tail = c < -2
  near = jnp.where(tail, -2, c)
  cdf, pdf = norm.cdf(near), norm.pdf(near)
  close = cdf, near * cdf + pdf, (1 + near**2) * cdf + near * pdf
  # These differences cancel in the tail. There, I_n = ∫_0^∞ uⁿ/n! e^{-xu-u²/2}
  # obey I_{n-1} = x I_n + (n + 1) I_{n+1}, so that their ratios are a continued
  # fraction of positive numbers; so many terms are exact to rounding.
  x = jnp.where(tail, -c, 2)

  def ratio(i, ratios):
    return 1 / (x + (_NUM_TERMS - i) * ratios[0]), *ratios[:2]

  start = jnp.full_like(x, _NUM_TERMS**-0.5)
  r = jax.lax.fori_loop(0, _NUM_TERMS, ratio, (start,) * 3)
  far = jnp.cumprod(jnp.stack(r), axis=0) * norm.pdf(x)[None]
  far = far[0], far[1], 2 * far[2]
  return tuple(jnp.where(tail, a, b) for a, b in zip(far, close, strict=True))


@jax.jit
def _force_up_to(b: Array, c: Array) -> Array:
  """Computes ∫_{-∞}^c Dt (b - t)², of terms that are positive for b ≥ c."""
  zeroth, first, second = _moments_up_to(c)
  d = b - c
  return d**2 * zeroth + 2 * d * first + second


def _chi_nodes(D: Array, low: Array, high: Array) -> tuple[Array, Array]:
  """Returns nodes x = log(r / √D), and logarithms of their weights.

  The density of r, the norm of D normal numbers, is exp(D (x - e^{2x} / 2)) up
  to a constant: smooth, so that the trapezoid rule converges faster than any
  power. The first node has the weight of all those that would follow below.
  """
  # The nodes are held fixed, so that only D x is differentiated in D.
  fixed, low, high = jax.lax.stop_gradient((D, low, high))
  step = (high - low) / (_NUM_NODES - 1)
  x = low + step * jnp.arange(_NUM_NODES, dtype=D.dtype)
  log_weights = D * x - fixed * jnp.expm1(2 * x) / 2 + jnp.log(step)
  return x, log_weights.at[0].add(-jnp.log(-jnp.expm1(-D * step)))


def _chi_rule(R: Array, D: Array, kappa: Array) -> tuple[Array, Array]:
  """Returns nodes and weights of ⟨f(r)⟩ for r the norm of D normal numbers.

  The nodes are where r^D exp(-r² / 2 - b² / 2) is not negligible, with
  b = min(κ + r R, 0): for a margin far below zero, only long probes touch.
  """
  root = jnp.sqrt(D)
  span = jnp.sqrt(_TAIL / D)
  # f(r) - f(0) is of order r, so that its own weight falls as r^{D + 1}.
  low = -_TAIL / (D + 1) - span
  high = jnp.minimum(span, 0.5 * jnp.log(4 + 4 * _TAIL / D))
  _, log_weights = _chi_nodes(D, low, high)
  log_sum = jax.nn.logsumexp(log_weights)
  # The peak, and how far from it the logarithm is lower by 50.
  depth = jnp.maximum(-kappa, 0)
  c = 1 / jnp.hypot(1, R)
  middle = depth * c * jnp.minimum(R * c, 1)
  peak = (middle + jnp.hypot(middle, 2 * root * c)) / 2
  below = peak - 10 * c / jnp.hypot(1, root * c / peak)
  after = jnp.maximum(peak, depth / R)
  slope = jnp.maximum(after - D / after, 0)
  above = after + 100 / (slope + jnp.hypot(slope, 10))
  is_far = depth > root * R
  below = jnp.log(jnp.maximum(below, 0) / root)
  low = jnp.where(is_far, jnp.maximum(below, low), low)
  above = jnp.log(jnp.minimum(peak + 10, above) / root)
  high = jnp.where(is_far, above, high)
  x, log_weights = _chi_nodes(D, low, high)
  r = jax.lax.stop_gradient(root) * jnp.exp(x)
  return r, jnp.exp(log_weights - log_sum)


@jax.jit
@functools.partial(jnp.vectorize, signature="(),(),()->()")
def _inverse_ball_capacity(R, D, kappa):
  R, D = _at_least(0, R), jnp.maximum(_at_least(0, D), _SMALLEST_DIMENSION)
  R = jnp.minimum(R, jnp.maximum(_LARGEST_RADIUS, -1e10 * kappa))
  r, weights = _chi_rule(R, D, kappa)
  b = kappa + r * R
  # Below −50 standard deviations nothing is left, in any precision.
  a = jnp.maximum(kappa - r / jnp.maximum(R, 1e-9), -50)
  touching = (_force_up_to(b, b) - _force_up_to(b, a)) / (1 + R**2)
  inside = _force_up_to(kappa, a) + r**2 * norm.cdf(a)
  return (weights * (touching + inside)).sum()


@jax.jit
@functools.partial(jnp.vectorize, signature="(),(),()->()")
def _ball_radius(R, D, kappa):
  R, D = _at_least(0, R), jnp.maximum(_at_least(0, D), _SMALLEST_DIMENSION)
  fixed_R, fixed_D, fixed_kappa = jax.lax.stop_gradient((R, D, kappa))
  nodes, weights = np.polynomial.legendre.leggauss(256)
  u = jnp.asarray((nodes + 1) / 2, R.dtype)
  du = 1.5 * u**2 * jnp.asarray(weights, R.dtype)
  # Nodes in y = κ - t = low + v, on both sides of √D / R, where the integrand
  # changes, and denser at small y.
  low = jnp.maximum(fixed_kappa - _NORMAL_END, 0)
  end = jnp.maximum(fixed_kappa, 0) - low + _NORMAL_END
  middle = jnp.clip(jnp.sqrt(fixed_D) / fixed_R - low, 1e-10, end)
  v = jnp.concatenate([middle * u**3, middle + (end - middle) * u**3])
  dv = jnp.concatenate([middle * du, (end - middle) * du])
  y = jnp.maximum(low + v, 1e-15)
  # In the unit R / q nothing overflows: R_M is about the unit.
  log_above = log_ndtr(-kappa)
  typical = jnp.sqrt(fixed_D) / jnp.maximum(fixed_kappa, 1)
  log_q = jnp.maximum(jnp.log(fixed_R) - jnp.log(typical), 0)
  log_q = jnp.minimum(log_q, -0.5 * jax.lax.stop_gradient(log_above))
  # r is integrated first: ∫ χ_D(r) min(R², r² / y²) dr.
  x = jnp.minimum(R * y, _LARGEST_RADIUS) ** 2 / 2
  some = x > 100 * jnp.finfo(R.dtype).tiny
  x = jnp.where(some, x, 1)
  unit = R * jnp.exp(-log_q)
  whole = jnp.where(some, gammaincc(D / 2, x), 1)
  part = D * gammainc(D / 2 + 1, x) * (1 / jnp.where(some, unit * y, 1)) ** 2
  log_pdf = norm.logpdf((kappa - low) - v)
  # What overflows here meets none of the whole.
  scaled = jnp.exp(jnp.minimum(2 * log_q + log_pdf, 80))
  lost = scaled * whole + jnp.exp(log_pdf) * jnp.where(some, part, 0)
  return unit * jnp.sqrt(jnp.exp(2 * log_q + log_above) + (lost * dv).sum())
