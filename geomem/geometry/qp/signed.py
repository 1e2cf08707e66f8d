"""Programmes that share one matrix, but for signs of rows and columns."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from geomem.geometry.double import in_double
from geomem.geometry.linalg import matmul
from geomem.geometry.qp.active_set import finish
from geomem.geometry.qp.growing_set import solve_on_growing_set, solved
from geomem.geometry.qp.lockstep import iterate_in_blocks, scales
from geomem.geometry.qp.nonnegative import QPSolution
from geomem.geometry.qp.projected_cg import product

# What conjugate gradients go on to, in units of the tolerance.
_WANTED = 1e-3


def _solve(G, b, signs, maxiter, tol) -> QPSolution:
  g = scales(G)
  unit, target = G / (g[:, None] * g[None]), b / g[None]
  lam = solve_on_growing_set(unit, target, signs, tol)

  def judge(lam):
    gradient = target - product(unit, lam, signs)
    return gradient, solved(lam, gradient, target, tol)

  # What is solved has nothing to gain from now on, and is done at once.
  wait = ~judge(lam)[1][:, None]
  most = jnp.int32(maxiter)
  lanes = iterate_in_blocks(
    unit,
    jnp.where(wait, target, -1),
    jnp.where(wait, lam, 0),
    most,
    signs,
    _WANTED * tol,
  )
  lam = jnp.where(wait, lanes.lam, lam)
  lam = finish(unit, target, lam, ~judge(lam)[1], most, signs)
  gradient, converged = judge(lam)
  residual = jnp.abs(jnp.minimum(lam, -gradient)).max(axis=-1)
  return QPSolution(lam / g[None], residual, converged, lanes.num_iters)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def solve_signed(
  G: Float[Array, "M M"],
  b: Float[Array, "T M"],
  signs: Float[Array, "T M"],
  maxiter: int,
  tol: float,
) -> QPSolution:
  """Does what `solve_signed_qp` does, with arguments in double precision."""
  return _solve(G, b, signs, maxiter, tol)


def _forward(G, b, signs, maxiter, tol):
  found = _solve(G, b, signs, maxiter, tol)
  return found, (G, signs, found.lam)


def _backward(maxiter, tol, saved, cotangents):
  """Differentiates (s G s) λ = b on the support, one problem after another."""
  del maxiter, tol
  G, signs, lam = saved
  eye = jnp.eye(len(G), dtype=G.dtype)
  ridge = 30 * jnp.finfo(G.dtype).eps * scales(G) ** 2

  def solve(lane):
    s, x, cotangent = lane
    on = x > 0
    own = s[:, None] * G * s[None] + ridge[:, None] * eye
    system = jnp.where(on[:, None] & on[None], own, eye)
    return jnp.linalg.solve(system, jnp.where(on, cotangent, 0))

  y = jax.lax.map(solve, (signs, lam, cotangents.lam))
  return -matmul((signs * y).T, signs * lam), y, jnp.zeros_like(signs)


solve_signed.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames=("maxiter", "tol"))
def solve_signed_qp(
  G: Float[Array, "M M"],
  b: Float[Array, "T M"],
  signs: Float[Array, "T M"],
  *,
  tol: float | None = None,
  maxiter: int = 2000,
) -> QPSolution:
  """Minimises ½ (s∘λ)ᵀ G (s∘λ) − λᵀb over λ ≥ 0, for T problems.

  Each problem has a matrix of its own, s_i G_ij s_j, but only G is stored: one
  product with it is an iteration of all. Differentiable in G and b by the
  implicit function theorem. In double precision where single is not enough; see
  `solve_on_growing_set`.

  Args:
    G: a positive semidefinite matrix. A row and column of zeros, with b
      negative there, stands for a point that is missing. Where it is nearly
      singular its own rounding decides, and float64 is called for.
    b: a vector for each problem.
    signs: s of each, ±1.
    tol: the error of twice the objective, relative to it, that counts as
      converged; `default_error` of the type of b by default.
    maxiter: bound on the iterations of conjugate gradients, and on the steps
      of the active-set method after them.

  Returns:
    The solutions; see `QPSolution`. They converged where the error, as far as
    violated conditions tell it, is within `tol`.
  """
  tol = default_error(b.dtype) if tol is None else tol

  def solve(floats, _):
    found = solve_signed(*floats, maxiter, tol)
    return (found.lam, found.residual), (found.converged, found.num_iters)

  (lam, residual), others = in_double(solve, b.dtype)((G, b, signs), ())
  return QPSolution(lam, residual, *others)


def default_error(dtype) -> float:
  """Returns the error of F that counts as solved: of float32 3e-4, else 1e-6.

  With multipliers of 10⁵, rounding in double precision leaves 1e-7.
  """
  return 3e-4 if jnp.finfo(dtype).bits <= 32 else 1e-6
