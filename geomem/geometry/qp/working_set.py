"""An exact start: the problem on the few most violated points.

Usually few points support the solution, and nearly all of them are among the K
of largest b. On these, the method of Lawson and Hanson runs on a K × K tableau:
exchanging λ_k for its gradient is one rank-one update, whether point k enters
or leaves the support, so that thousands of lanes run in lock-step. Lanes that
are not solved this way are finished by `projected_cg`.

Sources: Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23;
Goodnight, "A tutorial on the SWEEP operator", 1979.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry.linalg import einsum, repeat_until_done

# Measured on two cores: 12 slots finish more lanes here but take longer in all;
# more sweeps than this wait for the slowest lane.
NUM_SLOTS = 8
NUM_SWEEPS = 10
# With many points, those of largest b are less often the supporting ones, and
# the gradient steps that finish cost more. On one core, M = 200 points of digit
# pixels take 56 µs with 32 slots and 91 with 8; independent points, 50 and 46.
_MANY_POINTS = 150
_SLOTS_OF_MANY, _SWEEPS_OF_MANY = 32, 60
# Least pivot and least gradient that stand out from rounding. Double precision
# gets the problems that single cannot solve: tableaus with condition numbers of
# 10⁷ and more, which lose as many digits.
_LEAST = {"float32": (30 * 2.0**-23, 100 * 2.0**-23), "float64": (1e-11, 1e-10)}
# Steps of iterative refinement.
_REFINEMENTS = 3


class _Tableau(NamedTuple):
  """Lanes in progress, on problems with unit diagonal.

  Sweeping the support S, with N the other points, turns [G, b] into

    matrix = [[−G_SS⁻¹, G_SS⁻¹ G_SN], [G_NS G_SS⁻¹, G_NN − G_NS G_SS⁻¹ G_SN]]
    target = [G_SS⁻¹ b_S, b_N − G_NS G_SS⁻¹ b_S]

  Attributes:
    matrix: G, swept on the support.
    target: b, swept likewise: λ on the support, the gradient elsewhere.
    diagonal: of the matrix.
    lam: a feasible λ, with the lowest objective so far.
    support: which points are swept.
    done: whether the lane needs no further sweep.
  """

  matrix: Float[Array, "L K K"]
  target: Float[Array, "L K"]
  diagonal: Float[Array, "L K"]
  lam: Float[Array, "L K"]
  support: Bool[Array, "L K"]
  done: Bool[Array, " L"]


def _first_largest(x: Array) -> tuple[Array, Array]:
  """Finds the largest entry of each row; XLA's own argmax is a slow loop."""
  largest = x.max(axis=-1)
  indices = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  size = x.shape[-1]
  first = jnp.where(x == largest[:, None], indices, size).min(axis=-1)
  return jnp.minimum(first, size - 1), largest


def _sweep(lanes: _Tableau) -> _Tableau:
  """Lets the steepest point enter the support, or a blocking one leave it.

  While every target on the support is positive, the point whose gradient is
  largest enters. Otherwise λ moves towards the target as far as it stays
  feasible, and the point that blocks it leaves.
  """
  matrix, target, diagonal, lam, support, done = lanes
  eps = jnp.finfo(target.dtype).eps
  # One key ranks both cases: gradients stay far below 1/ε, and blocking points
  # get (2 − ratio)/ε, so that they come first, the nearest of them on top.
  above = 1 / eps
  ratio = lam / (lam - target)
  blocking = jnp.where(target <= 0, above * (2 - ratio), -1)
  least_pivot, least_gain = _LEAST[target.dtype.name]
  # The pivot of a point in the span of the support is rounding error alone.
  entering = jnp.where(diagonal > least_pivot, target, -1)
  k, key = _first_largest(jnp.where(support, blocking, entering))
  leaves = key > above / 2
  done |= ~(key > least_gain)
  go = ~done[:, None]
  chosen = jax.lax.broadcasted_iota(jnp.int32, target.shape, 1) == k[:, None]
  step = jnp.where(leaves, 2 - key / above, 1)[:, None]
  lam = jnp.where(go & support, lam + step * (target - lam), lam)
  lam = jnp.where(go & chosen, 0, lam)
  # The sweep is a rank-one update. With the pivot p = r_k of row r, s = 1 to
  # enter or −1 to leave, and u = r − s e_k, A − u uᵀ/p − 2 s e_k e_kᵀ has −1/p
  # at the pivot, s r_j/p beside it, and A_ij − r_i r_j/p elsewhere.
  row = jnp.take_along_axis(matrix, k[:, None, None], axis=1)[:, 0]
  pivot = jnp.take_along_axis(row, k[:, None], axis=1)
  sign = jnp.where(leaves, -1, 1).astype(target.dtype)[:, None]
  u = row - jnp.where(chosen, sign, 0)
  v = jnp.where(go, u / pivot, 0)
  corner = jnp.where(go, 2 * sign, 0)
  at_corner = chosen[:, :, None] & chosen[:, None, :]
  matrix = matrix - u[:, :, None] * v[:, None, :]
  matrix = matrix - jnp.where(at_corner, corner[:, :, None], 0)
  diagonal = diagonal - u * v - jnp.where(chosen, corner, 0)
  target = target - v * jnp.take_along_axis(target, k[:, None], axis=1)
  return _Tableau(matrix, target, diagonal, lam, support ^ (chosen & go), done)


def _solve_small(G: Array, b: Array, num_sweeps: int) -> _Tableau:
  """Sweeps at most `num_sweeps` times; λ stays feasible."""
  zero = jnp.zeros_like(b)
  diagonal = jnp.diagonal(G, axis1=1, axis2=2) + zero
  lanes = repeat_until_done(
    lambda lanes: ~lanes.done.all(),
    _sweep,
    _Tableau(G, b, diagonal, zero, zero > 1, (zero > 1)[:, 0]),
    num_sweeps,
  )
  # Unfinished lanes keep their last feasible λ; no support, no refinement.
  target = jnp.where(lanes.support, lanes.target, 0)
  feasible = (target >= 0).all(axis=-1, keepdims=True)
  return lanes._replace(
    lam=jnp.where(feasible, target, lanes.lam), support=lanes.support & feasible
  )


@functools.partial(jax.vmap, in_axes=(0, 0, None))
def _scatter(slots: Int[Array, " K"], values: Array, size: int) -> Array:
  zeros = jnp.zeros((size,), values.dtype)
  return zeros.at[slots].set(values, unique_indices=True)


def solve_on_working_set(
  G: Float[Array, "M M"], b: Float[Array, "t M"]
) -> Float[Array, "t M"]:
  """Returns a feasible λ, exact where the K chosen points support it."""
  num_points = b.shape[-1]
  num_slots, num_sweeps = NUM_SLOTS, NUM_SWEEPS
  if num_points >= _MANY_POINTS and jax.default_backend() == "cpu":
    num_slots, num_sweeps = _SLOTS_OF_MANY, _SWEEPS_OF_MANY
  _, slots = jax.lax.top_k(b, min(num_slots, num_points))
  return solve_on(G, b, None, slots, num_sweeps, b.dtype.name, 1)


def solve_on(
  G: Float[Array, "M M"],
  b: Float[Array, "t M"],
  signs: Float[Array, "t M"] | None,
  slots: Int[Array, "t K"],
  num_sweeps: int,
  kind: str,
  num_refinements: int = _REFINEMENTS,
) -> Float[Array, "t M"]:
  """Returns a feasible λ from the problem on the chosen points of each lane.

  G has unit diagonal; `kind` is the dtype of the tableau. Refinement is
  iterative, in the precision of G.
  """
  size = b.shape[-1]
  small = G[slots[:, :, None], slots[:, None, :]]
  if signs is not None:
    slot_signs = jnp.take_along_axis(signs, slots, axis=1)
    small = small * slot_signs[:, :, None] * slot_signs[:, None, :]
  target = jnp.take_along_axis(b, slots, axis=1)
  lanes = _solve_small(small.astype(kind), target.astype(kind), num_sweeps)
  lam = lanes.lam.astype(b.dtype)
  # On the support the tableau holds −G_SS⁻¹, which corrects λ.
  for _ in range(num_refinements):
    residual = target - einsum("lij,lj->li", small, lam)
    residual = jnp.where(lanes.support, residual, 0).astype(kind)
    step = einsum("lij,lj->li", lanes.matrix, residual)
    lam = lam - jnp.where(lanes.support, step, 0)
  return _scatter(slots, jnp.maximum(lam, 0), size)
