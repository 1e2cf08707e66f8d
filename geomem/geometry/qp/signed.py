"""Programmes that share one matrix up to signs of its rows and columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from geomem.geometry.double import in_double
from geomem.geometry.linalg import matmul
from geomem.geometry.points import in_floats
from geomem.geometry.qp.active_set import finish, violation
from geomem.geometry.qp.growing_set import solve_on_growing_set, solved, value
from geomem.geometry.qp.lockstep import iterate_in_blocks, scales
from geomem.geometry.qp.nonnegative import QPSolution
from geomem.geometry.qp.projected_cg import product, spectral_step

# Error at which conjugate gradients stop, in units of the tolerance.
_WANTED = 1e-3


def _solve(
  G: Float[Array, "M M"],
  b: Float[Array, "T M"],
  signs: Float[Array, "T M"],
  apart: Float[Array, ""],
  maxiter: int,
  tol: float,
) -> QPSolution:
  """Solves as `solve_signed_qp` does, with arguments in double precision.

  Also takes how far points of different labels are apart; see `solved`.
  """
  g = scales(G)
  unit, target = G / (g[:, None] * g[None]), b / g[None]
  lam = solve_on_growing_set(unit, target, signs, tol, apart)

  def judge(lam):
    gradient = target - product(unit, lam, signs)
    return gradient, solved(lam, gradient, target, tol, apart)

  # Solved lanes get a negative b and λ = 0, so they converge immediately.
  wait = ~judge(lam)[1][:, None]
  max_steps = jnp.int32(maxiter)
  lanes = iterate_in_blocks(
    unit,
    jnp.where(wait, target, -1),
    jnp.where(wait, lam, 0),
    spectral_step(unit),
    max_steps,
    signs,
    _WANTED * tol,
  )
  lam = jnp.where(wait, lanes.lam, lam)
  lam = finish(unit, target, lam, ~judge(lam)[1], max_steps, signs)
  gradient, converged = judge(lam)
  # What the rounding of G itself does to F.
  error = jnp.finfo(b.dtype).eps * lam.sum(axis=-1) ** 2
  converged &= error <= tol * value(lam, gradient, target) + tol**2
  residual = violation(lam, gradient)
  return QPSolution(lam / g[None], residual, converged, lanes.num_iters)


def distance_apart(
  G: Float[Array, "M M"], differ: Bool[Array, "M M"]
) -> Float[Array, ""]:
  """Computes the least distance of the lines to two points, at most 1.

  Points are scaled to length one, and count with either sign, as labels do.
  `differ` tells which pairs may have different labels.
  """
  lengths = jnp.diagonal(G)
  scale = jnp.where(lengths > 0, jax.lax.rsqrt(jnp.abs(lengths)), 0)
  cosines = jnp.where(differ, jnp.abs(G) * scale[:, None] * scale[None], 0)
  return jnp.sqrt(jnp.clip(2 * (1 - cosines.max()), 0, 1))


solve_signed = jax.custom_vjp(_solve, nondiff_argnums=(4, 5))


def _forward(G, b, signs, apart, maxiter, tol):
  solution = _solve(G, b, signs, apart, maxiter, tol)
  return solution, (G, signs, solution.lam)


def _backward(maxiter, tol, saved, cotangents):
  """Differentiates (s G s) λ = b on the support, one problem at a time."""
  del maxiter, tol
  G, signs, lam = saved
  eye = jnp.eye(len(G), dtype=G.dtype)
  ridge = 30 * jnp.finfo(G.dtype).eps * scales(G) ** 2

  def solve(lane):
    s, x, cotangent = lane
    support = x > 0
    matrix = s[:, None] * G * s[None] + ridge[:, None] * eye
    system = jnp.where(support[:, None] & support[None], matrix, eye)
    return jnp.linalg.solve(system, jnp.where(support, cotangent, 0))

  y = jax.lax.map(solve, (signs, lam, cotangents.lam))
  of_G = -matmul((signs * y).T, signs * lam)
  return of_G, y, jnp.zeros_like(signs), jnp.zeros((), G.dtype)


solve_signed.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames=("maxiter", "tol"))
def solve_signed_qp(
  G: Shaped[Array | np.ndarray, "M M"],
  b: Shaped[Array | np.ndarray, "T M"],
  signs: Shaped[Array | np.ndarray, "T M"],
  *,
  tol: float | None = None,
  maxiter: int = 2000,
) -> QPSolution:
  """Minimises ½ (s∘λ)ᵀ G (s∘λ) − λᵀb over λ ≥ 0, for T problems.

  Each problem has its own matrix, s_i G_ij s_j, but only G is stored: a product
  with G is one iteration of all problems. Differentiable in G and b by the
  implicit function theorem, once and in reverse mode. Uses double precision
  where single is not enough; see `solve_on_growing_set`.

  Args:
    G: a positive semidefinite matrix. A row and column of zeros, with b
      negative there, stands for a missing point. Where G is nearly singular,
      its own rounding decides the result, and float64 is called for.
    b: one vector per problem.
    signs: s of each problem, ±1.
    tol: the relative error of twice the objective that counts as converged;
      `default_error` of the type of b by default.
    maxiter: bound on the iterations of conjugate gradients, and on the steps
      of the active-set method after them.

  Returns:
    The solutions; see `QPSolution`. They converged where the error, estimated
    from the violated conditions, is within `tol`, and signs are ±1.

  Raises:
    ValueError: b and signs differ in their shapes, G does not fit them, or
      values are not real.
  """
  G, b, signs = in_floats(G=G, b=b, signs=signs)
  if b.ndim != 2 or signs.shape != b.shape or G.shape != 2 * b.shape[1:]:
    raise ValueError(
      f"G, b and signs of shapes {G.shape}, {b.shape} and {signs.shape} were"
      " given; [M, M], [T, M] and [T, M] were expected."
    )
  tol = default_error(b.dtype) if tol is None else tol

  def solve(floats, _):
    differ = matmul(floats[2].T, floats[2]) < len(signs)
    apart = jax.lax.stop_gradient(distance_apart(floats[0], differ))
    result = solve_signed(*floats, apart, maxiter, tol)
    return (result.lam, result.residual), (result.converged, result.num_iters)

  (lam, residual), status = in_double(solve, b.dtype)((G, b, signs), ())
  converged, num_iters = status
  converged &= (jnp.abs(signs) == 1).all(axis=1)
  return QPSolution(lam, residual, converged, num_iters)


def default_error(dtype) -> float:
  """Returns the relative error of F that counts as solved."""
  # With multipliers of 10⁵, rounding in double precision leaves 1e-7.
  return 3e-4 if jnp.finfo(dtype).bits <= 32 else 1e-6
