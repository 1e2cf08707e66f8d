"""Anchor points: where a random direction touches a manifold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry.linalg import einsum
from geomem.geometry.qp import solve_nonnegative_qp


class Anchors(NamedTuple):
  """Anchor points of one manifold, or of P manifolds, for each probe.

  Attributes:
    force: F = ‖v − t‖², whose mean over the probes is 1/α.
    lam: multipliers of the points.
    anchor: s̃ = Sᵀλ / Σλ without its last coordinate; where no point binds,
      the point that is nearest to binding.
    interior: whether no point binds, v = t.
    residual: violation of the optimality conditions, in units of the probes.
    converged: whether the residual is within rounding.
  """

  force: Float[Array, "... T"]
  lam: Float[Array, "... T M"]
  anchor: Float[Array, "... T D"]
  interior: Bool[Array, "... T"]
  residual: Float[Array, "... T"]
  converged: Bool[Array, "... T"]


def _anchors(frames, probes, kappa, mask) -> Anchors:
  """Computes anchors for `[P, M, D + 1]` frames, `[P, T, D + 1]` probes."""
  G = einsum("pmd,pkd->pmk", frames, frames)
  b = kappa - einsum("ptd,pmd->ptm", probes, frames)
  present = mask[:, None]
  G = jnp.where(present & mask[..., None], G, 0)
  solution = solve_nonnegative_qp(G, jnp.where(present, b, -1))
  lam = solution.lam
  Glam = einsum("pmk,ptk->ptm", G, lam)
  # λ maximises 2 λᵀb − λᵀGλ, so the derivative of λ drops out: the envelope
  # theorem gives exact gradients without differentiating the solver.
  fixed = jax.lax.stop_gradient(lam)
  Gfixed = einsum("pmk,ptk->ptm", G, fixed)
  b = jnp.where(present, b, 0)
  value = 2 * (fixed * b).sum(-1) - (fixed * Gfixed).sum(-1)
  quadratic = jax.lax.stop_gradient((lam * Glam).sum(-1))
  # The value is λᵀGλ, which cannot be negative, with the gradient of `value`.
  force = quadratic + (value - jax.lax.stop_gradient(value))
  total = lam.sum(axis=-1)
  interior = total == 0
  nearest = jnp.where(present, b, -jnp.inf).argmax(axis=-1)
  touching = jax.nn.one_hot(nearest, lam.shape[-1], dtype=lam.dtype)
  safe = jnp.where(interior, 1, total)[..., None]
  weights = jnp.where(interior[..., None], touching, lam / safe)
  anchor = einsum("ptm,pmd->ptd", weights, frames[..., :-1])
  return Anchors(
    force, lam, anchor, interior, solution.residual, solution.converged
  )


@jax.jit
def anchors(
  frame: Float[Array, "M D1"],
  probes: Float[Array, "T D1"],
  kappa: float | Float[Array, ""] = 0.0,
) -> Anchors:
  """Computes anchor points of one manifold, for given probes.

  v = argmin ½‖v − t‖² subject to S v ≥ κ; F = ‖v − t‖² = λᵀGλ.

  Args:
    frame: S, points in units of the centre norm, the last column ones.
    probes: t, one a row.
    kappa: margin κ.

  Source: Chung, Lee and Sompolinsky, Physical Review X 2018, section IV.
  """
  mask = jnp.ones((1, frame.shape[0]), bool)
  result = _anchors(frame[None], probes[None], kappa, mask)
  return jax.tree.map(lambda x: x[0], result)
