"""Programmes that share one matrix, but for signs of rows and columns."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from geomem.geometry.linalg import matmul
from geomem.geometry.qp.lockstep import scales, solve_signed
from geomem.geometry.qp.nonnegative import QPSolution, default_tolerance
from geomem.geometry.qp.projected_cg import product


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _multipliers(G, b, signs, maxiter):
  return solve_signed(G, b, signs, jnp.int32(maxiter))


def _forward(G, b, signs, maxiter):
  lam, num_iters = solve_signed(G, b, signs, jnp.int32(maxiter))
  return (lam, num_iters), (G, signs, lam)


def _backward(maxiter, saved, cotangents):
  """Differentiates (s G s) λ = b on the support, one problem after another."""
  del maxiter
  G, signs, lam = saved
  eye = jnp.eye(len(G), dtype=G.dtype)
  ridge = 30 * jnp.finfo(G.dtype).eps * scales(G) ** 2

  def solve(lane):
    s, x, cotangent = lane
    on = x > 0
    own = s[:, None] * G * s[None] + ridge[:, None] * eye
    system = jnp.where(on[:, None] & on[None], own, eye)
    return jnp.linalg.solve(system, jnp.where(on, cotangent, 0))

  y = jax.lax.map(solve, (signs, lam, cotangents[0]))
  return -matmul((signs * y).T, signs * lam), y, jnp.zeros_like(signs)


_multipliers.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames="maxiter")
def solve_signed_qp(
  G: Float[Array, "M M"],
  b: Float[Array, "T M"],
  signs: Float[Array, "T M"],
  *,
  maxiter: int = 2000,
) -> QPSolution:
  """Minimises ½ (s∘λ)ᵀ G (s∘λ) − λᵀb over λ ≥ 0, for T problems.

  Each problem has a matrix of its own, s_i G_ij s_j, but only G is stored: one
  product with it is an iteration of all. Differentiable in G and b by the
  implicit function theorem. The start is by `solve_on_growing_set`, the rest by
  conjugate gradients with projections; see `geomem.geometry.qp`.

  Args:
    G: a positive semidefinite matrix. A row and column of zeros, with b
      negative there, stands for a point that is missing.
    b: a vector for each problem.
    signs: s of each, ±1.
    maxiter: bound on the iterations.

  Returns:
    The solutions; see `QPSolution`.
  """
  lam, num_iters = _multipliers(G, b, signs, maxiter)
  found = jax.lax.stop_gradient(lam)
  g = scales(G)[None]
  w = b - product(jax.lax.stop_gradient(G), found, signs)
  residual = jnp.abs(jnp.minimum(found * g, -w / g)).max(axis=-1)
  residual = jax.lax.stop_gradient(residual)
  tol = default_tolerance(b.dtype)
  return QPSolution(lam, residual, residual <= tol, num_iters)
