"""Many quadratic programmes in lock-step, chunk by chunk.

A lane is a manifold with one of its probes. A chunk of them gets an exact start
on the few points that are violated most (`working_set`), then conjugate
gradients with projections to rounding (`projected_cg`), where the lanes that
are not done move together, so that finished ones stop costing. What is not done
after many iterations is finished by `active_set`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geomem.geometry.loops import repeat_until_done
from geomem.geometry.qp import projected_cg
from geomem.geometry.qp.active_set import finish, violation
from geomem.geometry.qp.working_set import solve_on_working_set

# Blocks go on with other lanes once two thirds of them are done: measured.
_SHRINKAGE = 3
# Violations, in units of ε, that are left as they are: half of what counts as
# converged.
_CLOSE = 500


def scales(G: Float[Array, "... M M"]) -> Float[Array, "... M"]:
  """Roots g_i of G_ii, and 1 for a point that is missing."""
  diagonal = jnp.diagonal(G, axis1=-2, axis2=-1)
  return jnp.where(diagonal > 0, jnp.sqrt(jnp.abs(diagonal)), 1)


def _first_waiting(waiting, size: int) -> Int[Array, " size"]:
  """Places of the first `size` lanes that wait; what fills up has no place."""
  places = jnp.where(waiting, jnp.cumsum(waiting) - 1, size)
  lane = jnp.arange(len(waiting), dtype=jnp.int32)
  nowhere = jnp.full((size,), len(waiting), jnp.int32)
  return nowhere.at[places].set(lane, mode="drop")


def _finish_by_blocks(
  G, step, lanes, size: int, allowed: int, maxiter, wanted: float
):
  """Iterates on `size` lanes at a time until at most `allowed` wait.

  A block goes on until a third of it waits, and is then filled up again; what
  it has of a lane is kept, so that no step is lost.
  """

  def waiting(lanes):
    more = lanes.num_iters < maxiter
    return projected_cg.pending(lanes, wanted) & more

  def block(lanes):
    places = _first_waiting(waiting(lanes), size)
    some = jnp.minimum(places, len(lanes.num_iters) - 1)
    here = jax.tree.map(lambda x: x[some], lanes)
    present = places < len(lanes.num_iters)
    few = jnp.where(present.sum() < size, allowed, size // _SHRINKAGE)
    here = repeat_until_done(
      lambda here: (waiting(here) & present).sum() > few,
      functools.partial(projected_cg.iterate, G, step),
      here,
    )
    return jax.tree.map(
      lambda x, y: x.at[places].set(y, mode="drop"), lanes, here
    )

  return jax.lax.while_loop(
    lambda lanes: waiting(lanes).sum() > allowed, block, lanes
  )


def iterate_in_blocks(
  G: Float[Array, "M M"],
  b: Float[Array, "t M"],
  lam: Float[Array, "t M"],
  maxiter: Int[Array, ""],
  signs: Float[Array, "t M"] | None = None,
  wanted: float = 0.0,
) -> projected_cg.Lanes:
  """Iterates by conjugate gradients until none is pending.

  Args:
    G: the matrix of all, with unit diagonal.
    b: a vector for each.
    lam: feasible, to start from.
    maxiter: bound on the iterations.
    signs: of the rows and columns of G, for each; all + by default.
    wanted: as in `projected_cg.pending`.
  """
  step = projected_cg.step_length(G)
  num_iters = jnp.zeros((len(b),), jnp.int32)
  lanes = projected_cg.start(G, b, lam, step, num_iters, signs)
  for size, allowed in _blocks(len(b)):
    lanes = _finish_by_blocks(G, step, lanes, size, allowed, maxiter, wanted)
  return lanes


def _solve_manifold(G, b, maxiter):
  """Solves for t probes `[t, M]` of one manifold, of unit diagonal."""
  lanes = iterate_in_blocks(G, b, solve_on_working_set(G, b), maxiter)
  found = violation(G, b, lanes.lam)
  left = found > _CLOSE * jnp.finfo(b.dtype).eps
  return finish(G, b, lanes.lam, left, maxiter), lanes.num_iters


def _blocks(num_lanes: int) -> list[tuple[int, int]]:
  """Returns the sizes of blocks in turn, and how many lanes each leaves.

  First all lanes go together. A core does the rest a few at a time; an
  accelerator, which has room, all at once. Each size is a program of its own.
  """
  rest = num_lanes // _SHRINKAGE
  block = rest // 2 if jax.default_backend() == "cpu" else rest
  return [(num_lanes, rest), (block, 0)] if block else [(num_lanes, 0)]


def _chunk_sizes(num_manifolds: int, num_probes: int) -> tuple[int, int]:
  """Manifolds and probes of one chunk.

  A core's cache holds some hundred lanes, and one manifold's go through plain
  matrix products; an accelerator wants many at once.
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
  """Problems `[P, M, M]`, `[P, T, M]`, chunk by chunk."""
  num_manifolds, num_probes, size = b.shape
  g = scales(G)
  unit = G / (g[:, :, None] * g[:, None, :])
  m, t = _chunk_sizes(num_manifolds, num_probes)
  pieces = -(-num_probes // t)
  # Lanes of padding have nothing to gain, and are done at once.
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
  """Merges the manifolds of all batches under vmap."""
  whole = [
    x if batched else jnp.broadcast_to(x[None], (axis_size, *x.shape))
    for x, batched in zip((G, b), in_batched, strict=False)
  ]
  flat = [x.reshape(-1, *x.shape[2:]) for x in whole]
  found = solve_in_chunks(*flat, maxiter)
  split = [x.reshape(axis_size, -1, *x.shape[1:]) for x in found]
  return tuple(split), (True, True)
