r"""The quadratic programme at the heart of the geometry.

For a manifold's points S (M rows) and a probe t, the vector nearest to t with
every point on its positive side, v = argmin ½‖v − t‖² subject to S v ≥ κ,
has the dual: minimise ½ λᵀGλ − λᵀb over λ ≥ 0, with G = S Sᵀ and b = κ − S t.

`METHODS` lists the solvers.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from geomem.geometry.linalg import NO_SECOND, einsum, no_derivative, one_by_one
from geomem.geometry.points import in_floats
from geomem.geometry.qp.active_set import violation
from geomem.geometry.qp.lockstep import scales, solve_in_chunks

Method = Callable[[Array, Array, Array], tuple[Array, Array]]


def _implicit(solve: Method) -> Method:
  """Gives a solver the derivatives of G λ = b on the support, of any order.

  They do not pass through the solver's iterations and its rule for vmap.
  """

  @jax.custom_jvp
  def solve_all(G, b, maxiter):
    return solve(*no_derivative((G, b), NO_SECOND), maxiter)

  def differentiate(primals, tangents):
    G, b, maxiter = primals
    dG, db, _ = tangents
    lam, num_iters = solve_all(G, b, maxiter)
    support = lam > 0
    # Between duplicate supporting points any split will do: the ridge picks the
    # smallest.
    ridge = 30 * jnp.finfo(lam.dtype).eps * scales(G)[:, None] ** 2
    ridge = jnp.where(support, jax.lax.stop_gradient(ridge), 1)

    def product(x):
      Gx = einsum("pij,ptj->pti", G, jnp.where(support, x, 0))
      return jnp.where(support, Gx, 0) + ridge * x

    # Factorizing only here costs nothing where λ needs no derivative.
    # On CPU one system at a time is in memory.
    def invert(_, x):
      return one_by_one(_solve_supported, G, support, ridge, x)

    rhs = jnp.where(support, db - einsum("pij,ptj->pti", dG, lam), 0)
    dlam = jax.lax.custom_linear_solve(product, rhs, invert, symmetric=True)
    none = np.zeros(num_iters.shape, jax.dtypes.float0)
    return (lam, num_iters), (dlam, none)

  solve_all.defjvp(differentiate)
  return solve_all


def _solve_supported(G, support, ridge, x):
  """Solves (G + ridge) y = x on the support of each problem of one manifold."""

  def solve(support, ridge, x):
    both = support[:, None] & support[None]
    return jnp.linalg.solve(jnp.where(both, G, 0) + jnp.diag(ridge), x)

  return one_by_one(solve, support, ridge, x)


def _by_jaxopt(G, b, maxiter):
  """Solves each problem on its own, within the bound of `NonnegativeQP`."""
  from geomem.geometry.qp.jaxopt_solver import NonnegativeQP

  del maxiter
  solver = NonnegativeQP()

  def solve(G, b):
    result = solver.run(None, G, b)
    return result.params, result.state.iter_num

  return jax.vmap(jax.vmap(solve, (None, 0)))(G, b)


# Each maps G `[P, M, M]`, b `[P, T, M]` and a bound on the iterations to λ and
# the iterations of each problem. The second serves comparisons only.
METHODS: dict[str, Method] = {
  "lockstep": _implicit(solve_in_chunks),
  "jaxopt": _implicit(_by_jaxopt),
}


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
  """Returns 1,000 rounding errors: 1.2e-4 in float32, 2.2e-13 in float64."""
  return 1e3 * float(jnp.finfo(dtype).eps)


def kkt_residual(
  G: Float[Array, "P M M"], b: Float[Array, "P T M"], lam: Float[Array, "P T M"]
) -> Float[Array, "P T"]:
  """Computes the violation of the optimality conditions; see `QPSolution`."""
  g = scales(G)[:, None]
  w = b - einsum("pij,ptj->pti", G, lam)
  return violation(lam * g, w / g)


@jax.custom_jvp
def least_force(
  G: Float[Array, "P M M"], b: Float[Array, "P T M"], lam: Float[Array, "P T M"]
) -> Float[Array, "P T"]:
  """Computes F = λᵀGλ, the maximum over λ of 2 λᵀb − λᵀGλ.

  Because it is the maximum, the derivative of λ drops out of that of F (the
  envelope theorem), which needs no derivative of the solver.
  """
  del b
  return (lam * einsum("pij,ptj->pti", G, lam)).sum(axis=-1)


@least_force.defjvp
def _least_force_jvp(primals, tangents):
  G, b, lam = primals
  dG, db, _ = tangents
  # In second derivatives, that of λ does count.
  dGlam = einsum("pij,ptj->pti", dG, lam)
  return least_force(G, b, lam), (lam * (2 * db - dGlam)).sum(axis=-1)


@functools.partial(jax.jit, static_argnames=("maxiter", "tol", "method"))
def solve_nonnegative_qp(
  G: Shaped[Array | np.ndarray, "P M M"],
  b: Shaped[Array | np.ndarray, "P T M"],
  *,
  tol: float | None = None,
  maxiter: int = 500,
  method: str = "lockstep",
) -> QPSolution:
  """Minimises ½ λᵀGλ − λᵀb over λ ≥ 0, for P · T problems.

  Differentiable in G and b by the implicit function theorem, in both modes and
  at any order. Where a multiplier turns zero λ has a kink, and the derivatives
  are those at constant support.

  Args:
    G: a positive semidefinite matrix for each manifold. A row and column of
      zeros, with b negative there, stands for a missing point.
    b: one vector for each of its T probes.
    tol: the residual that counts as converged; `default_tolerance` by default.
      Iterations continue down to rounding whatever it is.
    maxiter: upper bound on the iterations. Lanes that need more are finished by
      at most as many steps of an active-set method, one lane after the other;
      a lane that needs still more is reported as not converged. The method
      `jaxopt` has a bound of its own.
    method: one of `METHODS`.

  Returns:
    The solutions; see `QPSolution`.

  Raises:
    ValueError: the method is unknown, values are not real, or the shapes do not
      fit.
  """
  if method not in METHODS:
    raise ValueError(
      f"method {method!r} is not known; choose one of {', '.join(METHODS)}."
    )
  G, b = in_floats(G=G, b=b)
  if b.ndim != 3 or G.shape != (len(b), b.shape[2], b.shape[2]):
    raise ValueError(
      f"G and b of shapes {G.shape} and {b.shape} were given; [P, M, M] and"
      " [P, T, M] were expected."
    )
  tol = default_tolerance(b.dtype) if tol is None else tol
  lam, num_iters = METHODS[method](G, b, jnp.int32(maxiter))
  residual = kkt_residual(*jax.lax.stop_gradient((G, b, lam)))
  return QPSolution(lam, residual, residual <= tol, num_iters)
