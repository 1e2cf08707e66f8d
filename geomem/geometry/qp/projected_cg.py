"""Conjugate gradients with projections: one matrix product per iteration.

Minimises ½ λᵀGλ − λᵀb over λ ≥ 0; with signs s per lane, G stands for
s_i G_ij s_j. On the face of positive λ, it takes conjugate gradient steps;
where a bound is met, or where points outside the face have more to gain, a
step along the projected gradient, with an exact line search, finds the next
face. All lanes of a manifold share G, so that an iteration is one matrix
product and a few passes over λ. On the last face it converges to rounding, in
far fewer steps than the face has points if these are well spread.

Source: the rule of proportioning is that of Dostál, "Box constrained quadratic
programming with proportioning and projections", SIAM J. Optimization 1997.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.linalg import matmul

_NUM_POWERS = 20


class Lanes(NamedTuple):
  """Lanes in progress; axes of length 1 broadcast against λ.

  Attributes:
    lam: λ, feasible.
    gradient: b − Gλ, updated by recurrence.
    direction: the last step's direction d.
    image: G d.
    curvature: dᵀGd where conjugate gradients may continue from d, 0 where they
      restart, negative where a bound was met and the face must change.
    free: φᵀφ̃, with φ the gradient on the face and φ̃ its part that the bounds
      leave to one projected step.
    chopped: squared norm of the gradient of the points that want to enter.
    num_iters: steps taken.
    signs: s, or None.
  """

  lam: Float[Array, "*t M"]
  gradient: Float[Array, "*t M"]
  direction: Float[Array, "*t M"]
  image: Float[Array, "*t M"]
  curvature: Float[Array, "*t 1"]
  free: Float[Array, "*t 1"]
  chopped: Float[Array, "*t 1"]
  num_iters: Int[Array, "*t"]
  signs: Float[Array, "*t M"] | None


def _dot(a: Array, b: Array) -> Array:
  return (a * b).sum(axis=-1, keepdims=True)


def _split_gradient(lam, gradient, step) -> tuple[Array, Array]:
  """Computes the squared sizes `free` and `chopped` of `Lanes`."""
  free = jnp.where(lam > 0, gradient, 0)
  chopped = jnp.where(lam > 0, 0, jnp.maximum(gradient, 0))
  return _dot(jnp.maximum(free, -lam / step), free), _dot(chopped, chopped)


def step_length(G: Float[Array, "M M"]) -> Float[Array, ""]:
  """Returns a step just below 2 / ‖G‖_∞, which never overshoots."""
  norm = jnp.abs(G).sum(axis=-1).max()
  return 1.9 / jnp.where(norm > 0, norm, 1)


def spectral_step(G: Float[Array, "M M"]) -> Float[Array, ""]:
  """Returns a step just below 2 / ‖G‖₂, by power iterations.

  These find 94 to 99% of the norm of independent points; the exact line search
  makes up for an estimate that is too low. Where hundreds of points are nearly
  independent, the step is many times `step_length`, and the face is found in
  half the iterations; few points gain nothing.
  """
  # A vector without a pattern, which no matrix has as an eigenvector.
  start = jnp.cos(jnp.arange(len(G), dtype=G.dtype))

  def multiply(carry):
    x, count = carry
    length = jnp.sqrt((x * x).sum())
    image = matmul(G, x / jnp.where(length > 0, length, 1))
    return image, count + jnp.int32(1)

  # Not `fori_loop`, whose count JAX before 0.8 gives two widths in `in_double`.
  image, _ = jax.lax.while_loop(
    lambda carry: carry[1] < _NUM_POWERS, multiply, (start, jnp.int32(0))
  )
  norm = jnp.sqrt((image * image).sum())
  return 1.8 / jnp.where(norm > 0, norm, 1)


def product(
  G: Float[Array, "M M"],
  x: Float[Array, "*t M"],
  signs: Float[Array, "*t M"] | None,
) -> Float[Array, "*t M"]:
  """Multiplies x by each lane's matrix: G, with the lane's signs if given."""
  return matmul(x, G) if signs is None else signs * matmul(signs * x, G)


def start(G, b, lam, step, signs=None) -> Lanes:
  """Returns lanes at a feasible λ, with the gradient computed afresh."""
  gradient = b - product(G, lam, signs)
  norms = _split_gradient(lam, gradient, step)
  zero = jnp.zeros_like(lam)
  num_iters = jnp.zeros(lam.shape[:-1], jnp.int32)
  return Lanes(
    lam, gradient, zero, zero, zero[..., :1] - 1, *norms, num_iters, signs
  )


def error(lanes: Lanes) -> Float[Array, "*t"]:
  """Measures the projected gradient in units of its rounding error."""
  eps = jnp.finfo(lanes.lam.dtype).eps
  norm = jnp.sqrt(lanes.free + lanes.chopped)[..., 0]
  return norm / (4 * eps * (1 + lanes.lam.sum(axis=-1)))


def pending(lanes: Lanes, wanted: float = 0.0) -> Bool[Array, "*t"]:
  """Tells which lanes are not at the optimum; NaN lanes are given up.

  `wanted` is a tolerance of the objective's error, taken as the norm of the
  projected gradient times 1 + Σλ; without it only rounding ends a lane.
  """
  norm = jnp.sqrt(lanes.free + lanes.chopped)[..., 0]
  far = norm * (1 + lanes.lam.sum(axis=-1)) > wanted
  return far & (error(lanes) > 1)


def iterate(G: Float[Array, "M M"], step, lanes: Lanes) -> Lanes:
  """Takes one step in every lane."""
  lam, gradient, direction, image, curvature, *norms, num_iters, signs = lanes
  # Proportioning: stay on the face while no bound was met and the free gradient
  # outweighs the chopped one; otherwise take a projected gradient step.
  face = lam > 0
  free = jnp.where(face, gradient, 0)
  conjugate = (norms[1] <= norms[0]) & (curvature >= 0)
  continues = curvature > 0
  # This ratio makes the new direction conjugate to the last: d_newᵀ G d = 0.
  ratio = -_dot(free, image) / jnp.where(continues, curvature, 1)
  along_face = free + jnp.where(continues & face, ratio * direction, 0)
  projected = jnp.maximum(lam + step * gradient, 0) - lam
  direction = jnp.where(conjugate, along_face, projected)
  image = product(G, direction, signs)
  curvature = _dot(direction, image)
  curved = curvature > 0
  # Exact line search, cut where the first λ reaches zero.
  length = _dot(gradient, direction) / jnp.where(curved, curvature, 1)
  length = jnp.where(curved, length, 0)
  shrinks = direction < 0
  max_length = jnp.where(shrinks, -lam / direction, jnp.inf)
  max_length = max_length.min(axis=-1, keepdims=True)
  blocked = length >= max_length
  length = jnp.minimum(length, max_length)
  moved = jnp.maximum(lam + length * direction, 0)
  # A blocking λ becomes exactly zero, without rounding error.
  tiny = 8 * jnp.finfo(lam.dtype).eps * lam
  lam = jnp.where(blocked & shrinks & (moved <= tiny), 0, moved)
  gradient = gradient - length * image
  curvature = jnp.where(conjugate, jnp.where(blocked, -1, curvature), 0)
  norms = _split_gradient(lam, gradient, step)
  return Lanes(
    lam, gradient, direction, image, curvature, *norms, num_iters + 1, signs
  )
