"""An exact finish: the method of Lawson and Hanson, one lane at a time.

Where points are nearly dependent, as when the centre is tiny beside them,
conjugate gradients need thousands of steps. The few lanes that they leave
unsolved are finished here; each step is a dense solve on the support.

Source: Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.linalg import matmul
from geomem.geometry.qp.projected_cg import product

_STEPS_A_POINT = 6
_RIDGE = 4  # In units of ε.
# Largest support that is gathered into a smaller system.
_MOST_SLOTS = 96


class _State(NamedTuple):
  lam: Float[Array, " M"]
  support: Bool[Array, " M"]
  done: Bool[Array, ""]
  count: Int[Array, ""]


def _solve_on(G: Array, b: Array, support: Array) -> Array:
  """Solves G λ = b on the support, with λ = 0 elsewhere; refines once.

  Of many points, few support the solution: the system is reduced to these.
  """
  size = len(b)
  if size <= _MOST_SLOTS:
    return _solve_masked(G, b, support)

  def on_few():
    _, few = jax.lax.top_k(support.astype(b.dtype), _MOST_SLOTS)
    active = support[few]
    values = _solve_masked(G[few[:, None], few[None, :]], b[few], active)
    return jnp.zeros_like(b).at[few].set(values, unique_indices=True)

  fits = support.sum() <= _MOST_SLOTS
  return jax.lax.cond(fits, on_few, lambda: _solve_masked(G, b, support))


def _solve_masked(G: Array, b: Array, support: Array) -> Array:
  both = support[:, None] & support[None, :]
  eye = jnp.eye(len(b), dtype=G.dtype)
  system = jnp.where(both, G, eye)
  rhs = jnp.where(support, b, 0)
  # The ridge makes duplicate points give large numbers instead of NaN.
  ridge = _RIDGE * jnp.finfo(G.dtype).eps
  factors = jax.scipy.linalg.lu_factor(system + ridge * eye)

  # The first pass solves, the second refines; a loop halves the program.
  def refine(_, z):
    residual = rhs - jnp.where(support, matmul(G, z), 0)
    return z + jax.scipy.linalg.lu_solve(factors, residual)

  z = jax.lax.fori_loop(0, 2, refine, jnp.zeros_like(rhs))
  return jnp.where(support, z, 0)


def _first(flags: Array) -> Array:
  """Returns the index of the first flag; `in_double` forbids argmax."""
  return jax.lax.argmax(flags, 0, jnp.int32)


def _step(G: Array, b: Array, signs: Array | None, state: _State) -> _State:
  """Moves λ towards the solution on its support as far as is feasible.

  If λ reaches the solution, the point of steepest gradient enters the support;
  otherwise the blocking point leaves.
  """
  lam, support, _, count = state
  eps = jnp.finfo(b.dtype).eps
  # (s G s) z = b where G (s z) = s b: no copy of G for each lane.
  s = 1 if signs is None else signs
  z = s * _solve_on(G, s * b, support)
  blocking = support & (z <= 0)
  ratio = jnp.where(blocking, lam / (lam - z), jnp.inf)
  first = _first(ratio == ratio.min())
  blocked = blocking.any()
  length = jnp.where(blocked, jnp.clip(ratio[first], 0, 1), 1)
  lam = jnp.where(support, jnp.maximum(lam + length * (z - lam), 0), 0)
  points = jnp.arange(len(b))
  kept = jnp.where(blocked, support & (points != first), support)
  lam = jnp.where(kept, lam, 0)
  gradient = b - product(G, lam, signs)
  gain = jnp.where(kept, -jnp.inf, gradient)
  best = _first(gain == gain.max())
  enters = ~blocked & (gain[best] > 8 * eps * (1 + lam.sum()))
  support = kept | (enters & (points == best))
  return _State(lam, support, ~blocked & ~enters, count + 1)


def violation(
  lam: Float[Array, "*t M"], gradient: Float[Array, "*t M"]
) -> Float[Array, "*t"]:
  """Returns the largest violation of optimality, with gradient = b − Gλ."""
  return jnp.abs(jnp.minimum(lam, -gradient)).max(axis=-1)


def finish(
  G: Float[Array, "M M"],
  b: Float[Array, "t M"],
  lam: Float[Array, "t M"],
  waiting: Bool[Array, " t"],
  maxiter: Int[Array, ""],
  signs: Float[Array, "t M"] | None = None,
) -> Float[Array, "t M"]:
  """Solves the waiting lanes, starting from their feasible λ.

  G has unit diagonal and, up to the signs of a lane's rows and columns, is that
  of all lanes. `maxiter` bounds the steps of each; a few times M are enough.
  """
  max_steps = jnp.minimum(_STEPS_A_POINT * len(G), maxiter)

  def solve(carry):
    lam, waiting = carry
    lane = _first(waiting)
    start, target = lam[lane], b[lane]
    s = None if signs is None else signs[lane]
    state = jax.lax.while_loop(
      lambda state: ~state.done & (state.count < max_steps),
      lambda state: _step(G, target, s, state),
      _State(start, start > 0, jnp.bool_(False), jnp.int32(0)),
    )

    # Where points are dependent to rounding, the new λ may be worse.
    after, before = (
      violation(x, target - product(G, x, s)) for x in (state.lam, start)
    )
    better = after <= before
    best = jnp.where(better, state.lam, start)
    return lam.at[lane].set(best), waiting.at[lane].set(False)

  return jax.lax.while_loop(
    lambda carry: carry[1].any(), solve, (lam, waiting)
  )[0]
