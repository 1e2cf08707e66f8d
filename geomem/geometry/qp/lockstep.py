"""Many quadratic programmes in lock-step, chunk by chunk.

A lane is one probe of a manifold. A chunk of lanes gets an exact start on the
few most violated points (`working_set`), then projected conjugate gradients
down to rounding (`projected_cg`), where unfinished lanes are gathered into
blocks so that finished ones stop costing time. Lanes that are not done after
many iterations are finished by `active_set`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geomem.geometry.linalg import matmul, repeat_until_done
from geomem.geometry.qp import projected_cg
from geomem.geometry.qp.active_set import finish, violation
from geomem.geometry.qp.working_set import solve_on_working_set

# A block is refilled once two thirds of its lanes are done: measured.
_SHRINKAGE = 3
# Violations up to this many ε are left as they are: half of what counts as
# converged.
_CLOSE = 500


def scales(G: Float[Array, "... M M"]) -> Float[Array, "... M"]:
  """Returns the roots g_i of G_ii, and 1 for missing points."""
  diagonal = jnp.diagonal(G, axis1=-2, axis2=-1)
  return jnp.where(diagonal > 0, jnp.sqrt(jnp.abs(diagonal)), 1)


def _first_waiting(waiting, size: int) -> Int[Array, " size"]:
  """Returns the first `size` waiting lanes; padding is out of range."""
  slots = jnp.where(waiting, jnp.cumsum(waiting) - 1, size)
  lane = jnp.arange(len(waiting), dtype=jnp.int32)
  out_of_range = jnp.full((size,), len(waiting), jnp.int32)
  return out_of_range.at[slots].set(lane, mode="drop")


def _finish_by_blocks(
  G, step, lanes, size: int, allowed: int, maxiter, wanted: float
):
  """Iterates on `size` lanes at a time until at most `allowed` wait.

  A block runs until only a third of it waits, and is then written back and
  refilled. The whole state of a lane is kept, so that no step is lost.
  """

  def waiting(lanes):
    below_limit = lanes.num_iters < maxiter
    return projected_cg.pending(lanes, wanted) & below_limit

  def block(lanes):
    indices = _first_waiting(waiting(lanes), size)
    clipped = jnp.minimum(indices, len(lanes.num_iters) - 1)
    chosen = jax.tree.map(lambda x: x[clipped], lanes)
    present = indices < len(lanes.num_iters)
    threshold = jnp.where(present.sum() < size, allowed, size // _SHRINKAGE)
    chosen = repeat_until_done(
      lambda chosen: (waiting(chosen) & present).sum() > threshold,
      functools.partial(projected_cg.iterate, G, step),
      chosen,
    )
    return jax.tree.map(
      lambda x, y: x.at[indices].set(y, mode="drop"), lanes, chosen
    )

  return jax.lax.while_loop(
    lambda lanes: waiting(lanes).sum() > allowed, block, lanes
  )


def iterate_in_blocks(
  G: Float[Array, "M M"],
  b: Float[Array, "t M"],
  lam: Float[Array, "t M"],
  step: Float[Array, ""],
  maxiter: Int[Array, ""],
  signs: Float[Array, "t M"] | None = None,
  wanted: float = 0.0,
) -> projected_cg.Lanes:
  """Iterates by conjugate gradients until no lane is pending.

  G has unit diagonal and, up to the signs of a lane's rows and columns, is that
  of all lanes; λ is feasible, `step` that of projections, and `wanted` as in
  `projected_cg.pending`.
  """
  lanes = projected_cg.start(G, b, lam, step, signs)
  for size, allowed in _blocks(len(b)):
    lanes = _finish_by_blocks(G, step, lanes, size, allowed, maxiter, wanted)
  return lanes


def _solve_manifold(G, b, maxiter):
  """Solves for the t probes `[t, M]` of one manifold, with unit diagonal."""
  start, step = solve_on_working_set(G, b), projected_cg.step_length(G)
  lanes = iterate_in_blocks(G, b, start, step, maxiter)
  gradient = b - matmul(lanes.lam, G)
  unsolved = violation(lanes.lam, gradient) > _CLOSE * jnp.finfo(b.dtype).eps
  return finish(G, b, lanes.lam, unsolved, maxiter), lanes.num_iters


def _blocks(num_lanes: int) -> list[tuple[int, int]]:
  """Returns pairs: a block size, and how many lanes may be left waiting.

  First all lanes go together. A core does the rest a few at a time; an
  accelerator has room for all at once. Each size is compiled separately.
  """
  rest = num_lanes // _SHRINKAGE
  block = rest // 2 if jax.default_backend() == "cpu" else rest
  return [(num_lanes, rest), (block, 0)] if block else [(num_lanes, 0)]


def _chunk_sizes(num_manifolds: int, num_probes: int) -> tuple[int, int]:
  """Returns how many manifolds and probes make one chunk.

  A core's cache holds some hundred lanes, and lanes of one manifold share plain
  matrix products; an accelerator needs many lanes at once.
  """
  if jax.default_backend() == "cpu":
    pieces = -(-num_probes // 512)
    return 1, -(-num_probes // pieces)
  lanes = 2**16
  pieces = -(-num_probes // lanes)
  probes = -(-num_probes // pieces)
  return max(1, min(num_manifolds * pieces, lanes // probes)), probes


@jax.custom_batching.custom_vmap
def solve_in_chunks(G, b, maxiter):
  """Solves the problems `[P, M, M]`, `[P, T, M]`, chunk by chunk."""
  num_manifolds, num_probes, size = b.shape
  g = scales(G)
  unit = G / (g[:, :, None] * g[:, None, :])
  m, t = _chunk_sizes(num_manifolds, num_probes)
  pieces = -(-num_probes // t)
  # Padding lanes have a negative b, so they converge immediately.
  b = jnp.pad(
    b / g[:, None],
    ((0, 0), (0, pieces * t - num_probes), (0, 0)),
    constant_values=-1,
  ).reshape(num_manifolds * pieces, t, size)
  owner = jnp.arange(len(b)) // pieces
  lam, num_iters = jax.lax.map(
    lambda xs: _solve_manifold(unit[xs[0]], xs[1], maxiter),
    (owner, b),
    batch_size=m if m > 1 else None,
  )
  lam = lam.reshape(num_manifolds, -1, size)
  num_iters = num_iters.reshape(num_manifolds, -1)
  return lam[:, :num_probes] / g[:, None], num_iters[:, :num_probes]


@solve_in_chunks.def_vmap
def _solve_batch(axis_size, in_batched, G, b, maxiter):
  """Merges the batch axis of vmap into the axis of manifolds."""
  broadcast = [
    x if batched else jnp.broadcast_to(x[None], (axis_size, *x.shape))
    for x, batched in zip((G, b), in_batched[:2], strict=True)
  ]
  flat = [x.reshape(-1, *x.shape[2:]) for x in broadcast]
  # One bound serves all; `max` of several is the safe one.
  solution = solve_in_chunks(*flat, maxiter.max())
  split = [x.reshape(axis_size, -1, *x.shape[1:]) for x in solution]
  return tuple(split), (True, True)
