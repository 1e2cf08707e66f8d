r"""The quadratic programme at the heart of the geometry.

For a manifold's points S (M rows) and a probe t, the vector nearest to t that
has every point on its positive side, v = argmin ½‖v − t‖² subject to S v ≥ κ,
has the dual: minimise ½ λᵀGλ − λᵀb over λ ≥ 0, with G = S Sᵀ and b = κ − S t.

The method is that of `lockstep`.
"""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry import projected_cg
from geomem.geometry.lockstep import scales, solve_in_chunks

with warnings.catch_warnings():
  # jaxopt announces at import that it is no longer developed.
  warnings.simplefilter("ignore", DeprecationWarning)
  from jaxopt import linear_solve
  from jaxopt.base import IterativeSolver, OptStep

_HIGHEST = jax.lax.Precision.HIGHEST


class QPSolution(NamedTuple):
  """Solutions of many problems.

  Attributes:
    lam: the multipliers λ.
    residual: violation of the optimality conditions, in units of the probes'
      standard deviation: the largest |min(λ_i g_i, −w_i / g_i)|, with
      g_i² = G_ii and w = b − Gλ. Computed from λ alone.
    converged: whether the residual is finite and within the tolerance.
    num_iters: iterations after the exact start.
  """

  lam: Float[Array, "... M"]
  residual: Float[Array, "..."]
  converged: Bool[Array, "..."]
  num_iters: Int[Array, "..."]


def default_tolerance(dtype) -> float:
  """A thousand rounding errors: 1.2e-4 in float32, 2.2e-13 in float64."""
  return 1e3 * float(jnp.finfo(dtype).eps)


def kkt_residual(
  G: Float[Array, "P M M"], b: Float[Array, "P T M"], lam: Float[Array, "P T M"]
) -> Float[Array, "P T"]:
  """Violation of the optimality conditions; see `QPSolution`."""
  g = scales(G)[:, None]
  w = b - jnp.einsum("pij,ptj->pti", G, lam, precision=_HIGHEST)
  return jnp.abs(jnp.minimum(lam * g, -w / g)).max(axis=-1)


@jax.custom_vjp
def _multipliers(G, b, maxiter):
  return solve_in_chunks(G, b, maxiter)


def _multipliers_forward(G, b, maxiter):
  lam, num_iters = solve_in_chunks(G, b, maxiter)
  return (lam, num_iters), (G, lam)


def _multipliers_backward(saved, cotangents):
  """On the support G λ = b: differentiate that."""
  G, lam = saved
  on = lam > 0
  both = on[..., :, None] & on[..., None, :]
  eye = jnp.eye(lam.shape[-1], dtype=lam.dtype)
  # Where supporting points repeat each other any share between them will do: of
  # all, the smallest is taken.
  ridge = 30 * jnp.finfo(lam.dtype).eps * scales(G)[:, None, :, None] ** 2
  system = jnp.where(
    both, G[:, None] + ridge * eye[None, None], eye[None, None]
  )
  rhs = jnp.where(on, cotangents[0], 0)
  y = jnp.linalg.solve(system, rhs[..., None])[..., 0]
  gradient = -jnp.einsum("pti,ptj->pij", y, lam, precision=_HIGHEST)
  return gradient, y, None


_multipliers.defvjp(_multipliers_forward, _multipliers_backward)


@functools.partial(jax.jit, static_argnames=("maxiter", "tol"))
def solve_nonnegative_qp(
  G: Float[Array, "P M M"],
  b: Float[Array, "P T M"],
  *,
  tol: float | None = None,
  maxiter: int = 500,
) -> QPSolution:
  """Minimises ½ λᵀGλ − λᵀb over λ ≥ 0, for P · T problems.

  Differentiable in G and b by the implicit function theorem.

  Args:
    G: a positive semidefinite matrix for each manifold. A row and column of
      zeros, with b negative there, stands for a point that is missing.
    b: a vector for each of its T probes.
    tol: the residual that counts as converged; `default_tolerance` by default.
      Iterations go on to rounding whatever it is.
    maxiter: bound on the iterations. Lanes that need more are finished by at
      most as many steps of an active-set method, one lane after the other; one
      that needs still more says that it did not converge.

  Returns:
    The solutions; see `QPSolution`.
  """
  tol = default_tolerance(b.dtype) if tol is None else tol
  lam, num_iters = _multipliers(G, b, jnp.int32(maxiter))
  residual = kkt_residual(*jax.lax.stop_gradient((G, b, lam)))
  return QPSolution(lam, residual, residual <= tol, num_iters)


class QPState(NamedTuple):
  """State of `NonnegativeQP`: jaxopt's two fields, and the lane."""

  iter_num: Int[Array, ""]
  error: Float[Array, ""]
  lane: Any


class NonnegativeQP(IterativeSolver):
  """Conjugate gradients with projections, under jaxopt's contract.

  `NonnegativeQP().run(None, G, b)` gives λ; `run`, implicit differentiation
  and vmap are jaxopt's own.
  """

  def __init__(self, *, maxiter: int = 2000, implicit_diff: bool = True):
    """Sets the bound on the iterations, and how derivatives are taken."""
    self.maxiter = maxiter
    self.tol = 1.0  # The error is in units of what rounding leaves.
    self.implicit_diff = implicit_diff
    # jaxopt's default solve stops short of the last digits.
    self.implicit_diff_solve = linear_solve.solve_lu
    self.verbose = 0
    self.jit = True
    self.unroll = "auto"

  def init_state(self, init_params, G, b) -> QPState:
    """The state at `init_params`, made feasible."""
    unit, target, g = _scaled(G, b)
    lam = jnp.maximum(init_params * g, 0)
    step = projected_cg.step_length(unit)
    zero = jnp.int32(0)
    lane = projected_cg.start(unit, target, lam, step, zero)
    return QPState(zero, projected_cg.error(lane), lane)

  def update(self, params, state: QPState, G, b) -> OptStep:
    """One iteration."""
    del params
    unit, _, g = _scaled(G, b)
    step = projected_cg.step_length(unit)
    lane = projected_cg.iterate(unit, step, state.lane)
    error = projected_cg.error(lane)
    return OptStep(lane.lam / g, QPState(state.iter_num + 1, error, lane))

  def run(self, init_params, *args, **kwargs) -> OptStep:
    """Solves, from `init_params`, or from λ = 0 where that is None."""
    if init_params is None:
      init_params = jnp.zeros_like(args[1])
    return super().run(init_params, *args, **kwargs)

  def optimality_fun(self, params, G, b) -> Float[Array, " M"]:
    """λ − max(λ + b − Gλ, 0), which is zero at the solution."""
    w = b - jnp.dot(G, params, precision=_HIGHEST)
    return params - jnp.maximum(params + w, 0)


def _scaled(G, b):
  g = scales(G)
  return G / (g[:, None] * g[None, :]), b / g, g
