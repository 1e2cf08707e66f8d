"""Many points, one matrix: sets of points that grow, in two precisions.

Of many points few support a solution. Each round solves on those that do and
those that are violated most, as many as there are slots, until none is. Rounds
in single precision, refined in double, do for most lanes. Where points are ill
conditioned and labels near the limit of separability, multipliers are of 10⁵
and the matrix is singular to single precision: those lanes go on in double.

What has more supporting points than slots is left to conjugate gradients, and
what these leave to `active_set`.

Source for refinement in two precisions: Carson and Higham, "Accelerating the
solution of linear systems by iterative refinement in three precisions", SIAM J.
Scientific Computing 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.qp.projected_cg import product
from geomem.geometry.qp.working_set import solve_on

# Slots and precision of the rounds in turn. Measured on two cores for 250 to
# 5,000 points: more slots leave a core's cache, and take twenty times as long.
_TIERS = (
  ("float32", (64, 320)),
  ("float64", (128, 320)),
)
_MAX_ROUNDS = 12
# Entries of tableaus that are swept together.
_CACHED = 2**18
# Violations of a solved lane, in units of the tolerance of F.
_VIOLATION = 1e-2


class Lanes(NamedTuple):
  """Problems in progress.

  Attributes:
    lam: a feasible λ.
    gradient: b − Gλ.
    stalled: whether the last round brought nothing.
  """

  lam: Float[Array, "t n"]
  gradient: Float[Array, "t n"]
  stalled: Bool[Array, " t"]


def value(lam: Array, gradient: Array, b: Array) -> Float[Array, "*t"]:
  """Computes 2 λᵀb − λᵀGλ, which F is at the optimum and never more."""
  return (lam * (b + gradient)).sum(axis=-1)


def solved(
  lam: Float[Array, "*t n"],
  gradient: Float[Array, "*t n"],
  b: Float[Array, "*t n"],
  tol: float,
) -> Bool[Array, "*t"]:
  """Tells which lanes know F to `tol` of it; NaN does not.

  Points of length one that are violated by r would cost 2 r Σλ: F changes by 2λ
  with what a constraint asks. Σλ is the optimum's, so that r must be small by
  itself, too. What complementarity lacks counts likewise.
  """
  violation = jnp.maximum(gradient, 0).max(axis=-1)
  lacking = jnp.abs(lam * gradient).sum(axis=-1)
  error = 2 * (violation * lam.sum(axis=-1) + lacking)
  close = error <= tol * value(lam, gradient, b) + tol**2
  return close & (violation <= _VIOLATION * tol)


def solve_on_growing_set(
  G: Float[Array, "n n"],
  b: Float[Array, "t n"],
  signs: Float[Array, "t n"],
  tol: float,
) -> Float[Array, "t n"]:
  """Returns a feasible λ, exact where some hundred points support it.

  Args:
    G: the matrix of all, with unit diagonal, in double precision.
    b: a vector for each.
    signs: of the rows and columns of G, for each.
    tol: of `solved`.
  """
  lam, gradient, nobody = jnp.zeros_like(b), b, jnp.zeros(len(b), bool)
  # On devices that know no double precision, all is in single.
  known = [tier for tier in _TIERS if tier[0] in ("float32", b.dtype.name)]
  for kind, sizes in known:
    lanes, fewer = Lanes(lam, gradient, nobody), 0
    for slots in sizes:
      if b.shape[1] > fewer:
        # More slots are for those that lack them.
        lanes = lanes._replace(stalled=(lanes.lam > 0).sum(axis=1) < fewer)
        slots = min(slots, b.shape[1])
        lanes = _solve_in_rounds(G, b, signs, lanes, slots, kind, tol)
        fewer = slots
    lam, gradient, _ = lanes
  return lam


def _solve_in_rounds(G, b, signs, lanes, num_slots, kind, tol) -> Lanes:
  """Does rounds until all lanes are solved, stalled, or lack slots."""
  # As many lanes as a core's cache holds go together.
  on_cpu = jax.default_backend() == "cpu"
  at_once = min(max(1, _CACHED // num_slots**2), len(b)) if on_cpu else len(b)
  more = -len(b) % at_once

  def waiting(lanes):
    fits = (lanes.lam > 0).sum(axis=-1) < num_slots
    return ~solved(lanes.lam, lanes.gradient, b, tol) & fits & ~lanes.stalled

  def solve_some(lanes, which: Int[Array, " c"], present: Bool[Array, " c"]):
    lam, gradient = lanes.lam[which], lanes.gradient[which]
    # A point of the support stands above all others. The search is fast in
    # single precision alone.
    key = jnp.where(lam > 0, 1e9, gradient).astype(jnp.float32)
    _, slots = jax.lax.top_k(key, num_slots)
    # What fills up has nothing to gain, and is done at once.
    target = jnp.where(present[:, None], b[which], -1)
    return solve_on(G, target, signs[which], slots, 3 * num_slots, kind)

  def advance(carry):
    lanes, count = carry
    wait = waiting(lanes)
    order = jnp.pad(jnp.argsort(~wait).astype(jnp.int32), (0, more))
    wanted = wait.sum(dtype=jnp.int32)

    def chunk(carry):
      start, lam = carry
      which = jax.lax.dynamic_slice_in_dim(order, start, at_once)
      present = start + jnp.arange(at_once, dtype=jnp.int32) < wanted
      found = solve_some(lanes, which, present)
      places = jnp.where(present, which, len(b))
      return start + jnp.int32(at_once), lam.at[places].set(found, mode="drop")

    _, lam = jax.lax.while_loop(
      lambda carry: carry[0] < wanted, chunk, (jnp.int32(0), lanes.lam)
    )
    gradient = b - product(G, lam, signs)
    now = value(lam, gradient, b)
    gains = now > value(lanes.lam, lanes.gradient, b)
    # Beyond that, rounding is all that the value says.
    gains &= jnp.finfo(b.dtype).eps * lam.sum(axis=-1) ** 2 < tol * now
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
