"""Many points, one matrix: working sets that grow, in two precisions.

Of many points, few support a solution. Each round solves on the supporting
points and the most violated ones, as many as there are slots, until none is
violated. For most lanes, rounds in single precision, refined in double, are
enough. Where points are ill conditioned and labels near the limit of
separability, multipliers reach 10⁵ and the matrix is singular to single
precision: those lanes continue in double.

Lanes with more supporting points than slots are left to conjugate gradients,
and what these leave unsolved to `active_set`.

Source for refinement in two precisions: Carson and Higham, "Accelerating the
solution of linear systems by iterative refinement in three precisions", SIAM J.
Scientific Computing 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry.linalg import diagonal
from geomem.geometry.qp.projected_cg import product
from geomem.geometry.qp.working_set import solve_on

# Precision and slots of the rounds, in order. Measured on two cores for 250 to
# 5,000 points: more slots overflow a core's cache, and take 20 times as long.
_TIERS = (("float32", (64, 320)), ("float64", (128, 320)))
_MAX_ROUNDS = 12
_MOST_SLOTS = max(slots for _, sizes in _TIERS for slots in sizes)
# Share of the candidates that support a solution, at the least: of nearly
# independent points, .9 and more were measured.
_SUPPORTING = 0.8
# Tableau entries that are swept together on a core.
_CACHED = 2**18
# Largest violation of a solved lane: in units of the tolerance of F, or of the
# rounding error of a gradient. The fields of GLUE leave the span of the points
# by up to 10⁵ of these errors, so no less can be asked.
_VIOLATION, _ROUNDING = 1e-2, 1e6


class Lanes(NamedTuple):
  """Lanes in progress.

  Attributes:
    lam: a feasible λ.
    gradient: b − Gλ.
    stalled: whether the last round did not improve λ.
  """

  lam: Float[Array, "t n"]
  gradient: Float[Array, "t n"]
  stalled: Bool[Array, " t"]


def value(lam: Array, gradient: Array, b: Array) -> Float[Array, "*t"]:
  """Computes 2 λᵀb − λᵀGλ, which is F at the optimum and never more."""
  return (lam * (b + gradient)).sum(axis=-1)


def solved(
  lam: Float[Array, "*t n"],
  gradient: Float[Array, "*t n"],
  b: Float[Array, "*t n"],
  tol: float,
  apart: float | Float[Array, ""] = 1.0,
) -> Bool[Array, "*t"]:
  """Tells which lanes have F within a relative error of `tol`; NaN fails.

  For points of length one, a violation of r costs up to 2 r Σλ, as F changes by
  2λ per unit of a constraint. This Σλ is that of the optimum, which λ may miss,
  and by the more the less points of different labels are apart, as far from the
  origin: r must be small beside that distance. Lack of complementarity counts
  likewise. `apart` is the least distance of points that may have different
  labels, at most 1.
  """
  violation = jnp.maximum(gradient, 0).max(axis=-1)
  lacking = jnp.abs(lam * gradient).sum(axis=-1)
  total = lam.sum(axis=-1)
  error = 2 * (violation * total + lacking)
  close = error <= tol * value(lam, gradient, b) + tol**2
  rounding = _ROUNDING * jnp.finfo(b.dtype).eps * (1 + total)
  most = _VIOLATION * tol
  least = jnp.minimum(most, rounding)
  return close & (violation <= jnp.maximum(most * apart, least))


def solve_on_growing_set(
  G: Float[Array, "n n"],
  b: Float[Array, "t n"],
  signs: Float[Array, "t n"],
  tol: float,
  apart: Float[Array, ""],
) -> Float[Array, "t n"]:
  """Returns a feasible λ, exact where up to 320 points support it.

  G has unit diagonal and double precision; see `solved` for `tol` and `apart`.
  """
  no_lane = jnp.zeros(len(b), bool)
  lanes = Lanes(jnp.zeros_like(b), b, no_lane)
  # Devices without double precision have b in single, and do that tier alone.
  tiers = [tier for tier in _TIERS if tier[0] in ("float32", b.dtype.name)]

  def judge(lanes):
    return solved(lanes.lam, lanes.gradient, b, tol, apart)

  for kind, sizes in tiers:
    lanes, tried = lanes._replace(stalled=no_lane), 0
    for slots in sizes:
      if b.shape[1] > tried:
        # Only lanes that ran out of slots get more.
        stalled = (lanes.lam > 0).sum(axis=1) < tried
        lanes = lanes._replace(stalled=stalled | _is_crowded(G, lanes, tol))
        slots = min(slots, b.shape[1])
        lanes = _solve_in_rounds(G, b, signs, lanes, slots, kind, tol, judge)
        tried = slots
  return lanes.lam


def _is_crowded(
  G: Float[Array, "n n"], lanes: Lanes, tol: float
) -> Bool[Array, " t"]:
  """Tells in which lanes more points will support a solution than have slots.

  Candidates are the supporting and the violated points. Of nearly independent
  points most of them will support it, but never more than the rank of G, which
  is at least (tr G)² / ‖G‖². Rounds on such lanes would be in vain.
  """
  rank = diagonal(G).sum() ** 2 / jnp.maximum((G * G).sum(), 1)
  started = (lanes.lam > 0).any(axis=1)
  candidates = (lanes.lam > 0) | (lanes.gradient > tol)
  # In floats: JAX before 0.8 gives integers two widths in `in_double`.
  candidates = candidates.astype(G.dtype).sum(axis=1)
  return started & (jnp.minimum(rank, _SUPPORTING * candidates) > _MOST_SLOTS)


def _solve_in_rounds(G, b, signs, lanes, num_slots, kind, tol, judge) -> Lanes:
  """Runs rounds until every lane is solved, stalled or out of slots."""

  def waiting(lanes):
    fits = (lanes.lam > 0).sum(axis=-1) < num_slots
    return ~judge(lanes) & fits & ~lanes.stalled

  def advance(carry):
    lanes, count = carry
    wait = waiting(lanes)
    lam = _solve_waiting(G, b, signs, lanes, wait, num_slots, kind)
    gradient = b - product(G, lam, signs)
    new_value = value(lam, gradient, b)
    gains = new_value > value(lanes.lam, lanes.gradient, b)
    # A value whose rounding error reaches the tolerance shows no gain.
    gains &= jnp.finfo(b.dtype).eps * lam.sum(axis=-1) ** 2 < tol * new_value
    better = (wait & gains)[:, None]
    lanes = Lanes(
      jnp.where(better, lam, lanes.lam),
      jnp.where(better, gradient, lanes.gradient),
      lanes.stalled | (wait & ~gains),
    )
    return lanes, count + 1

  lanes, _ = jax.lax.while_loop(
    lambda carry: waiting(carry[0]).any() & (carry[1] < _MAX_ROUNDS),
    advance,
    (lanes, jnp.int32(0)),
  )
  return lanes


def _solve_waiting(G, b, signs, lanes, wait, num_slots, kind) -> Array:
  """Returns λ, solved anew in waiting lanes, as many at once as fit a cache."""
  on_cpu = jax.default_backend() == "cpu"
  at_once = min(max(1, _CACHED // num_slots**2), len(b)) if on_cpu else len(b)
  order = jnp.argsort(~wait).astype(jnp.int32)
  order = jnp.pad(order, (0, -len(b) % at_once))
  wanted = wait.sum(dtype=jnp.int32)

  def chunk(carry):
    start, lam = carry
    which = jax.lax.dynamic_slice_in_dim(order, start, at_once)
    present = start + jnp.arange(at_once, dtype=jnp.int32) < wanted
    # Supporting points rank above all others. The search is fast in single
    # precision only.
    rank = jnp.where(lanes.lam[which] > 0, 1e9, lanes.gradient[which])
    _, slots = jax.lax.top_k(rank.astype(jnp.float32), num_slots)
    # Padding lanes have a negative b, so they converge immediately.
    target = jnp.where(present[:, None], b[which], -1)
    found = solve_on(G, target, signs[which], slots, 3 * num_slots, kind)
    rows = jnp.where(present, which, len(b))
    return start + jnp.int32(at_once), lam.at[rows].set(found, mode="drop")

  _, lam = jax.lax.while_loop(
    lambda carry: carry[0] < wanted, chunk, (jnp.int32(0), lanes.lam)
  )
  return lam
