"""The active-set method on a symmetric tableau, one problem at a time.

This is the method of Lawson and Hanson for min ½ λᵀGλ − λᵀb, λ ≥ 0. Sweeping
row k of G moves point k into the support: after the support has been swept, b
has become λ on the support and the gradient elsewhere, and the tableau holds
the support's inverse, which an exact last step reuses. Every step is one sweep,
a rank-one update, whether a point enters or leaves, so that many problems go in
lock-step under vmap.

Sources: Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23;
Goodnight, "A tutorial on the SWEEP operator", 1979.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_HIGHEST = jax.lax.Precision.HIGHEST


class Pivot(NamedTuple):
  """One lane of the active-set method, on a problem with unit diagonal.

  Attributes:
    tableau: G, swept on the support.
    target: b, swept likewise: λ of the support, the gradient elsewhere.
    lam: a feasible λ, at which the objective is at its lowest so far.
    support: which points are swept.
    iter_num: sweeps.
    done: whether no sweep is left to do.
  """

  tableau: Float[Array, "M M"]
  target: Float[Array, " M"]
  lam: Float[Array, " M"]
  support: Bool[Array, " M"]
  iter_num: Int[Array, ""]
  done: Bool[Array, ""]


def start_pivoting(G: Float[Array, "M M"], b: Float[Array, " M"]) -> Pivot:
  """The lane before its first sweep: λ = 0."""
  lam = jnp.zeros_like(b)
  # Types are those that a sweep gives, as loops ask for.
  zero = jnp.sum(jnp.zeros_like(b), dtype=jnp.int32)
  return Pivot(G, b, lam, lam != 0, zero, zero != 0)


def pivot(lane: Pivot) -> Pivot:
  """One sweep: the point of steepest gradient enters, or a blocking one leaves.

  With every λ of the support positive, the point whose gradient is largest
  enters; there is none at the optimum. Otherwise λ moves towards the target as
  far as it stays feasible, and the point that stops it leaves.
  """
  tableau, target, lam, support, iter_num, done = lane
  eps = jnp.finfo(target.dtype).eps
  diagonal = jnp.diagonal(tableau)
  blocked = support & (target <= 0)
  must_leave = blocked.any()
  ratio = jnp.where(blocked, lam / (lam - target), jnp.inf)
  step = jnp.minimum(ratio.min(), 1)
  # A point in the span of the support would divide by its rounding error.
  enters = ~support & (diagonal > 30 * eps)
  gradient = jnp.where(enters, target, -jnp.inf)
  # Lanes in progress are bounded in sweeps, and a lane with nothing to gain
  # beyond rounding is done.
  largest = jnp.abs(jnp.where(support, 1.0, 0.0) * target).max()
  threshold = 10 * eps * (1 + largest)
  finished = done | (~must_leave & ~(gradient.max() > threshold))
  k = jnp.where(must_leave, ratio.argmin(), gradient.argmax())
  chosen = jnp.arange(target.size) == k
  moved = jnp.where(support, lam + step * (target - lam), 0)
  lam = jnp.where(finished, lam, jnp.where(chosen & must_leave, 0, moved))
  lam = jnp.where(finished & ~done & support, target, lam)
  sign = jnp.where(must_leave, -1.0, 1.0).astype(target.dtype)
  row = tableau[k]
  d = row[k]
  u = row - jnp.where(chosen, sign, 0)
  scale = jnp.where(finished, 0, 1 / d)
  corner = jnp.where(finished, 0, 2 * sign)
  # Written out, since XLA makes one pass over the tableau of it.
  at_corner = chosen[:, None] & chosen[None, :]
  tableau = tableau - u[:, None] * (scale * u)[None, :]
  tableau = tableau - jnp.where(at_corner, corner, 0)
  target = target - u * (scale * target[k])
  support = jnp.where(finished, support, support ^ chosen)
  iter_num = iter_num + (~finished).astype(iter_num.dtype)
  return Pivot(tableau, target, lam, support, iter_num, finished)


def polish(lane: Pivot, G: Array, b: Array) -> Array:
  """Two steps of refinement with the support's inverse, from the tableau."""
  inverse = jnp.where(
    lane.support[:, None] & lane.support[None, :], -lane.tableau, 0
  )
  lam = jnp.where(lane.support, lane.lam, 0)
  dot = functools.partial(jnp.dot, precision=_HIGHEST)
  for _ in range(2):
    lam = lam + dot(inverse, jnp.where(lane.support, b - dot(G, lam), 0))
  return jnp.maximum(lam, 0)


def scales(G: Float[Array, "... M M"]) -> Float[Array, "... M"]:
  """G with g_i² = G_ii, and 1 for a point that is missing."""
  diagonal = jnp.diagonal(G, axis1=-2, axis2=-1)
  return jnp.where(diagonal > 0, jnp.sqrt(jnp.abs(diagonal)), 1)
