r"""The quadratic programme at the heart of the geometry.

For a manifold's points S (M rows) and a probe t, the vector nearest to t that
has every point on its positive side, v = argmin ½‖v − t‖² subject to S v ≥ κ,
has the dual: minimise ½ λᵀGλ − λᵀb over λ ≥ 0, with G = S Sᵀ and b = κ − S t.

Lanes go in chunks; a chunk ends with its slowest lane. The method is that of
`active_set`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxopt import linear_solve
from jaxopt.base import IterativeSolver, OptStep
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.active_set import pivot, polish, scales, start_pivoting

_HIGHEST = jax.lax.Precision.HIGHEST
# Lanes of one chunk: the tableaus should stay in the cache of a core.
_CHUNK_FLOATS = 2**18


class QPSolution(NamedTuple):
  """Solutions of many problems.

  Attributes:
    lam: the multipliers λ.
    residual: violation of the optimality conditions, in units of the probes'
      standard deviation: the largest |min(λ_i g_i, −w_i / g_i)|, with
      g_i² = G_ii and w = b − Gλ. Computed from λ alone.
    converged: whether the residual is finite and within the tolerance.
    num_iters: sweeps.
  """

  lam: Float[Array, "... M"]
  residual: Float[Array, "..."]
  converged: Bool[Array, "..."]
  num_iters: Int[Array, "..."]


def default_tolerance(dtype) -> float:
  """A thousand rounding errors: 1.2e-4 in float32, 2.2e-13 in float64."""
  return 1e3 * float(jnp.finfo(dtype).eps)


def _solve_scaled(G, b, maxiter: int):
  """Chunk `[L, M, M]`, `[L, M]` of problems with unit diagonals."""

  def unfinished(carry):
    lanes, count = carry
    return ~lanes.done.all() & (count < maxiter)

  def body(carry):
    lanes, count = carry
    return jax.vmap(pivot)(lanes), count + 1

  lanes = jax.vmap(start_pivoting)(G, b)
  lanes, _ = jax.lax.while_loop(unfinished, body, (lanes, 0))
  return jax.vmap(polish)(lanes, G, b), lanes.iter_num


def kkt_residual(
  G: Float[Array, "P M M"], b: Float[Array, "P T M"], lam: Float[Array, "P T M"]
) -> Float[Array, "P T"]:
  """Violation of the optimality conditions; see `QPSolution`."""
  g = scales(G)[:, None]
  w = b - jnp.einsum("pij,ptj->pti", G, lam, precision=_HIGHEST)
  return jnp.abs(jnp.minimum(lam * g, -w / g)).max(axis=-1)


def _solve(G, b, maxiter):
  num_manifolds, num_probes, size = b.shape
  g = scales(G)
  unit = G / (g[:, :, None] * g[:, None, :])
  scaled = (b / g[:, None]).reshape(-1, size)
  chunk = max(1, min(_CHUNK_FLOATS // size**2, len(scaled)))
  missing = -len(scaled) % chunk
  # Lanes of padding have nothing to gain, and are done at once.
  padding = jnp.full((missing, size), -1, b.dtype)
  targets = jnp.concatenate([scaled, padding]).reshape(-1, chunk, size)
  lanes = jnp.arange(targets.shape[0] * chunk)
  owner = jnp.minimum(lanes // num_probes, num_manifolds - 1)
  owner = owner.reshape(-1, chunk)
  lam, num_iters = jax.lax.map(
    lambda xs: _solve_scaled(unit[xs[0]], xs[1], maxiter), (owner, targets)
  )
  lam = lam.reshape(-1, size)[: len(scaled)].reshape(b.shape) / g[:, None]
  return lam, num_iters.reshape(-1)[: len(scaled)].reshape(b.shape[:2])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multipliers(G, b, maxiter):
  return _solve(G, b, maxiter)


def _multipliers_forward(G, b, maxiter):
  lam, num_iters = _solve(G, b, maxiter)
  return (lam, num_iters), (G, lam)


def _multipliers_backward(maxiter, saved, cotangents):
  """On the support G λ = b: differentiate that."""
  del maxiter
  G, lam = saved
  on = lam > 0
  both = on[..., :, None] & on[..., None, :]
  eye = jnp.eye(lam.shape[-1], dtype=lam.dtype)
  system = jnp.where(both, G[:, None], eye[None, None])
  rhs = jnp.where(on, cotangents[0], 0)
  y = jnp.linalg.solve(system, rhs[..., None])[..., 0]
  return -jnp.einsum("pti,ptj->pij", y, lam, precision=_HIGHEST), y


_multipliers.defvjp(_multipliers_forward, _multipliers_backward)


@functools.partial(jax.jit, static_argnames=("maxiter", "tol"))
def solve_nonnegative_qp(
  G: Float[Array, "P M M"],
  b: Float[Array, "P T M"],
  *,
  tol: float | None = None,
  maxiter: int | None = None,
) -> QPSolution:
  """Minimises ½ λᵀGλ − λᵀb over λ ≥ 0, for P · T problems.

  Differentiable in G and b by the implicit function theorem.

  Args:
    G: a positive semidefinite matrix for each manifold. A row and column of
      zeros, with b negative there, stands for a point that is missing.
    b: a vector for each of its T probes.
    tol: the residual that counts as converged; `default_tolerance` by default.
    maxiter: bound on the sweeps, 10 M by default. A lane that needs more says
      that it did not converge; repeated points in float32 may be the cause.

  Returns:
    The solutions; see `QPSolution`.
  """
  maxiter = 10 * G.shape[-1] if maxiter is None else maxiter
  tol = default_tolerance(b.dtype) if tol is None else tol
  lam, num_iters = _multipliers(G, b, maxiter)
  residual = kkt_residual(*jax.lax.stop_gradient((G, b, lam)))
  return QPSolution(lam, residual, residual <= tol, num_iters)


class QPState(NamedTuple):
  """State of `NonnegativeQP`: jaxopt's two fields, and the lane."""

  iter_num: Int[Array, ""]
  error: Float[Array, ""]
  lane: Any


class NonnegativeQP(IterativeSolver):
  """The same method, one problem at a time, under jaxopt's contract.

  `NonnegativeQP().run(None, G, b)` gives λ; `run`, implicit differentiation
  and vmap are jaxopt's own.
  """

  def __init__(self, *, maxiter: int = 1000, implicit_diff: bool = True):
    """Sets the bound on the sweeps, and how derivatives are taken."""
    self.maxiter = maxiter
    self.tol = 0.5  # The error is 0 or 1: whether sweeps are left to do.
    self.implicit_diff = implicit_diff
    # jaxopt's default solve stops short of the last digits.
    self.implicit_diff_solve = linear_solve.solve_lu
    self.verbose = 0
    self.jit = True
    self.unroll = "auto"

  def init_state(self, init_params, G, b) -> QPState:
    """The state at λ = 0; `init_params` is not used."""
    del init_params
    g = scales(G)
    lane = start_pivoting(G / (g[:, None] * g[None, :]), b / g)
    return QPState(lane.iter_num, jnp.ones((), b.dtype), lane)

  def update(self, params, state: QPState, G, b) -> OptStep:
    """One sweep."""
    del params
    lane = pivot(state.lane)
    g = scales(G)
    polished = polish(lane, G / (g[:, None] * g[None, :]), b / g)
    lam = jnp.where(lane.done, polished, lane.lam) / g
    error = 1 - lane.done.astype(b.dtype)
    return OptStep(lam, QPState(state.iter_num + 1, error, lane))

  def run(self, init_params, *args, **kwargs) -> OptStep:
    """Solves; λ starts from zero whatever `init_params` is."""
    del init_params
    return super().run(jnp.zeros_like(args[1]), *args, **kwargs)

  def optimality_fun(self, params, G, b) -> Float[Array, " M"]:
    """λ − max(λ + b − Gλ, 0), which is zero at the solution."""
    w = b - jnp.dot(G, params, precision=_HIGHEST)
    return params - jnp.maximum(params + w, 0)
