"""Mean-field capacity of ideal manifolds: points, segments, balls.

The arguments of each function broadcast, and it is differentiable in all of
them. The centre of a manifold has norm one; its axes are orthogonal to it.

Source: Chung, Lee and Sompolinsky, Physical Review X 2018, sections II to V;
points: Gardner, Journal of Physics A 1988.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float

_NUM_NODES = 1024
# exp(-40) is below the rounding of float64.
_TAIL = 40.0
_SMALLEST_DIMENSION = 1e-2


def _floating(*values: ArrayLike) -> list[Array]:
  dtype = jnp.result_type(float, *values)
  return [jnp.asarray(value, dtype) for value in values]


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
    num_points: M.
    kappa: margin κ, in units of the centre's norm.
  """
  num_points, kappa = _floating(num_points, kappa)
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
  the logarithm of r, exact to rounding.

  Args:
    radius: R, in units of the centre's norm, at least 0.
    dimension: D, any real number; below 0.01 it counts as 0.01.
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
    radius: R, in units of the centre's norm.
    dimension: D, any real number; below 0.01 it counts as 0.01.
    kappa: margin κ.
  """
  return _ball_radius(*_floating(radius, dimension, kappa))


@jax.jit
def _force_up_to(b: Array, c: Array) -> Array:
  """Computes ∫_{-∞}^c Dt (b - t)²."""
  return (1 + b**2) * norm.cdf(c) + (2 * b - c) * norm.pdf(c)


def _chi_rule(D: Array) -> tuple[Array, Array]:
  """Returns nodes and weights of ⟨f(r)⟩ for r the norm of D normal numbers.

  In x = log(r / √D) the density is exp(D (x - e^{2x} / 2)) up to a constant:
  smooth, and negligible beyond the ends chosen here, so that the trapezoid rule
  converges faster than any power.
  """
  fixed = jax.lax.stop_gradient(D)
  span = jnp.sqrt(_TAIL / fixed)
  low = -_TAIL / fixed - span
  high = jnp.minimum(span, 0.5 * jnp.log(4 + 4 * _TAIL / fixed))
  x = low + (high - low) * jnp.linspace(0, 1, _NUM_NODES, dtype=D.dtype)
  # The nodes are held fixed, so that only D x is differentiated in D.
  weights = jax.nn.softmax(D * x - fixed * jnp.expm1(2 * x) / 2)
  return jnp.sqrt(fixed) * jnp.exp(x), weights


@jax.jit
@functools.partial(jnp.vectorize, signature="(),(),()->()")
def _inverse_ball_capacity(R, D, kappa):
  r, weights = _chi_rule(jnp.maximum(D, _SMALLEST_DIMENSION))
  b = kappa + r * R
  # Below −50 standard deviations nothing is left, in any precision.
  a = jnp.maximum(kappa - r / jnp.maximum(R, 1e-9), -50)
  touching = (_force_up_to(b, b) - _force_up_to(b, a)) / (1 + R**2)
  inside = _force_up_to(kappa, a) + r**2 * norm.cdf(a)
  return (weights * (touching + inside)).sum()


@jax.jit
@functools.partial(jnp.vectorize, signature="(),(),()->()")
def _ball_radius(R, D, kappa):
  D = jnp.maximum(D, _SMALLEST_DIMENSION)
  nodes, weights = np.polynomial.legendre.leggauss(256)
  # Nodes in y = κ - t, denser at small y: the integrand changes at √D / R.
  u = jnp.asarray((nodes + 1) / 2, R.dtype)
  end = jnp.maximum(kappa, 0) + 9
  y = end * u**2
  dy = end * 2 * u * jnp.asarray(weights / 2, R.dtype)
  # r is integrated first: ∫_0^{Ry} χ_D(r) (R² - r² / y²) dr.
  x = (R * y) ** 2 / 2
  lost = R**2 * gammainc(D / 2, x) - D / y**2 * gammainc(D / 2 + 1, x)
  square = R**2 - (norm.pdf(kappa - y) * lost * dy).sum()
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
