"""The quadratic programme as a jaxopt solver.

jaxopt is no longer developed, so this module stands alone: it is imported only
when its method is chosen.
"""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geomem.geometry.linalg import matmul
from geomem.geometry.points import in_floats
from geomem.geometry.qp import projected_cg
from geomem.geometry.qp.lockstep import scales

with warnings.catch_warnings():
  # jaxopt announces at import that it is no longer developed.
  warnings.simplefilter("ignore", DeprecationWarning)
  from jaxopt import linear_solve
  from jaxopt.base import IterativeSolver, OptStep


class QPState(NamedTuple):
  """State of `NonnegativeQP`: jaxopt's two fields, and the lane."""

  iter_num: Int[Array, ""]
  error: Float[Array, ""]
  lane: Any


class NonnegativeQP(IterativeSolver):
  """Projected conjugate gradients behind jaxopt's interface.

  `NonnegativeQP().run(None, G, b)` returns λ; `run`, implicit differentiation
  and vmap are those of jaxopt.
  """

  def __init__(self, *, maxiter: int = 2000):
    """Sets the bound on the iterations."""
    self.maxiter = maxiter
    self.tol = 1.0  # The error is in units of its rounding error.
    # Through the iterations, derivatives in reverse mode would be NaN.
    self.implicit_diff = True
    # jaxopt's default linear solver misses the last digits.
    self.implicit_diff_solve = linear_solve.solve_lu
    self.verbose = 0
    self.jit = True
    self.unroll = "auto"

  def init_state(self, init_params, G, b) -> QPState:
    """Returns the state at `init_params`, made feasible."""
    unit, target, g = _scaled(G, b)
    lam = jnp.maximum(init_params * g, 0)
    step = projected_cg.step_length(unit)
    lane = projected_cg.start(unit, target, lam, step)
    return QPState(lane.num_iters, projected_cg.error(lane), lane)

  def update(self, params, state: QPState, G, b) -> OptStep:
    """Does one iteration."""
    del params
    unit, _, g = _scaled(G, b)
    step = projected_cg.step_length(unit)
    lane = projected_cg.iterate(unit, step, state.lane)
    error = projected_cg.error(lane)
    return OptStep(lane.lam / g, QPState(state.iter_num + 1, error, lane))

  def run(self, init_params, G, b) -> OptStep:
    """Solves from `init_params`, or from λ = 0 if that is None."""
    G, b = in_floats(G=G, b=b)
    start = jnp.zeros_like(b) if init_params is None else init_params
    return super().run(start, G, b)

  def optimality_fun(self, params, G, b) -> Float[Array, " M"]:
    """Returns λ − max(λ + b − Gλ, 0), which is zero at the solution."""
    w = b - matmul(G, params)
    return params - jnp.maximum(params + w, 0)


def _scaled(G, b):
  g = scales(G)
  return G / (g[:, None] * g[None, :]), b / g, g
