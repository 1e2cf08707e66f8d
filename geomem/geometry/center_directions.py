"""Search for the directions that centres share, for K = 1, 2, ... in turn.

The K orthonormal directions minimise the correlation that is left of the
centres. Several chains go through all K: each adds a direction to its K − 1
previous ones and minimises again. The new direction is, depending on the chain,
a principal axis of the remainders scaled to unit length or unscaled, or random.
Most minima are found from the axes, which depend neither on a seed nor on the
order of the centres.

With unit centres x_μ, K orthonormal directions V, a_μ = Vᵀx_μ, the remainders
y_μ = x_μ − V a_μ and d_μ = ‖y_μ‖², the cost is half the sum of squared cosines
between the remainders, f = ½ Σ_μν cos²_μν. It does not depend on the norms of
the original centres. Its gradient over subspaces is

  −2 Σ_μ y_μ (Σ_ν W_μν a_ν − d_μ⁻¹ q_μ a_μ)ᵀ,   W_μν = y_μ·y_ν / (d_μ d_ν),

with q_μ = Σ_ν cos²_μν. To first order y_μ / √d_μ moves by −δV a_μ / √d_μ, so
that Σ_μ a_μ a_μᵀ / d_μ is most of the curvature. The descent uses it as its
metric: twenty evaluations then achieve what takes hundreds without it.

Minima of the cost are flat: directions whose cost is 1e-4 from its minimum may
have capacities that are 2 % off, and depend on rounding. The descent of the
chosen directions therefore continues until no step gains more than rounding.
Their correlation is up to 2 % off, too, which may be more than two K differ by,
so the two K of least correlation descend further before one is chosen.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from geomem.geometry.grassmann import Evaluation, minimize, orthonormalize
from geomem.geometry.linalg import matmul

_POLISH_TOLERANCE = 1e-9
_POLISH_EVALUATIONS = 400
# Evaluations before the choice of K, for a K whose correlation is at most this
# many times the least.
_TRIAL_EVALUATIONS = 100
_CLOSE = 1.03
# Arrays grow with K by this factor, because every size is a separate program.
_WIDER = 4
# Weight of −Σ log d_μ relative to f. Directions that remove nearly all of one
# centre may have an f as low as any, because its small remainder can point
# anywhere. Among equal minima the barrier prefers those that leave more of
# every centre; it costs less than .2 % of f.
_BARRIER = 0.003
# A relative gain below this ends the descent for a K, before the polishing.
_TOLERANCE = 1e-4
_MAX_EVALUATIONS = 100
# From this K on, three rises of the correlation in a row end the search.
_FIRST_END = 5


def _widths(largest: int) -> list[int]:
  """Returns the array widths that are used on the way to `largest` columns."""
  sizes = [largest]
  while sizes[0] > 32:
    sizes.insert(0, -(-sizes[0] // _WIDER))
  return sizes


def _polish(
  V: Float[Array, "P ranks"],
  rank: Int[Array, ""],
  X: Float[Array, "P P"],
  max_evaluations: Int[Array, ""],
) -> Float[Array, "P ranks"]:
  """Continues the descent of K directions, in the smallest arrays that fit."""
  largest = V.shape[1]

  def descend(width, V):
    V = minimize(
      lambda V: _evaluate(V, X),
      V[:, :width],
      jnp.arange(width) >= rank,
      tolerance=_POLISH_TOLERANCE,
      max_evaluations=max_evaluations,
    )
    return jnp.pad(V, ((0, 0), (0, largest - width)))

  sizes = _widths(largest)
  return jax.lax.switch(
    jnp.searchsorted(jnp.asarray(sizes), rank),
    [functools.partial(descend, width) for width in sizes],
    V,
  )


def mean_correlation(cosines: Float[Array, "P P"]) -> Float[Array, ""]:
  """Returns the mean |cos| of different centres; 0 for a single one."""
  size = cosines.shape[0]
  off = jnp.where(jnp.eye(size, dtype=bool), 0, jnp.abs(cosines))
  return off.sum() / max(size * (size - 1), 1)


def _remainders(
  V: Float[Array, "P K"], X: Float[Array, "P P"]
) -> tuple[Float[Array, "P P"], Float[Array, " P"], Float[Array, " P"]]:
  """Returns the remainders of X's rows, their squared norms d, and 1/d or 0."""
  Y = X - matmul(matmul(X, V), V.T)
  d = (Y**2).sum(axis=1)
  positive = d > jnp.finfo(X.dtype).tiny
  return Y, d, jnp.where(positive, 1 / jnp.where(positive, d, 1), 0)


def _barrier(d: Float[Array, " P"]) -> Float[Array, ""]:
  """Returns the term added to f for the shares d that are left of centres."""
  positive = d > jnp.finfo(d.dtype).tiny
  return -_BARRIER * jnp.log(jnp.where(positive, d, 1)).sum()


def _evaluate(V: Float[Array, "P K"], X: Float[Array, "P P"]) -> Evaluation:
  """Evaluates the cost and its small barrier at an orthonormal basis V."""
  A = matmul(X, V)
  Y, d, inverse = _remainders(V, X)
  R = matmul(Y, Y.T)
  W = R * (inverse[:, None] * inverse[None, :])
  squares = (R * W).sum(axis=1)
  pull = W - jnp.diag((squares + _BARRIER) * inverse)
  gradient = -2 * matmul(Y.T, matmul(pull, A))
  return Evaluation(
    0.5 * squares.sum() + _barrier(d),
    gradient - matmul(V, matmul(V.T, gradient)),
    matmul(A.T, A * inverse[:, None]),
  )


class Remainders(NamedTuple):
  """What directions leave: the mean |cos| of centres, f, and the least d_μ.

  As curves over K they are infinite, infinite and 0 where K was not tried.
  """

  correlation: Float[Array, "*n"]
  cost: Float[Array, "*n"]
  left: Float[Array, "*n"]


class SearchResult(NamedTuple):
  """The directions V of the chosen K, the rank, with columns of zeros beyond.

  `curves` tell what directions leave, by K = 1, 2, ..., and `leading` the
  largest eigenvalue of the cosines by K, if requested.
  """

  V: Float[Array, "P ranks"]
  rank: Int[Array, ""]
  curves: Remainders
  leading: Float[Array, " ranks"]


class _Chains(NamedTuple):
  V: Float[Array, "chains P K"]
  objective: Float[Array, " chains"]
  summary: Remainders


def summarize(
  V: Array, X: Array, present: Array
) -> tuple[Float[Array, ""], Remainders]:
  """Returns the objective at V, and what V leaves of the centres X."""
  Y, d, inverse = _remainders(V, X)
  cosines = matmul(Y, Y.T) * jnp.sqrt(inverse[:, None] * inverse[None, :])
  cost = 0.5 * (cosines**2).sum()
  left = jnp.where(present, d, 1).min()
  summary = Remainders(mean_correlation(cosines), cost, left)
  return cost + _barrier(d), summary


def _leading(V: Array, X: Array) -> Array:
  """Returns the largest eigenvalue of the cosines of the remainders."""
  Y, _, inverse = _remainders(V, X)
  Y = Y * jnp.sqrt(inverse)[:, None]
  return jnp.linalg.eigvalsh(matmul(Y, Y.T))[-1]


def _extend(key, V: Array, k: Array, j: Array, X: Array, norms: Array) -> Array:
  """Adds a direction in the span of the remainders, as column k - 1."""
  Y, _, inverse = _remainders(V, X)
  weights = jnp.where(j % 3 == 0, jnp.sqrt(inverse), norms)
  Y = Y * weights[:, None]
  _, axes = jnp.linalg.eigh(matmul(Y.T, Y))
  # The axes with variance come last; chains beyond their number wrap around.
  rank = (X**2).sum(axis=0).astype(bool).sum()
  place = (j // 3) % jnp.maximum(rank - (k - 1), 1)
  axis = jax.lax.dynamic_index_in_dim(axes, len(axes) - 1 - place, 1, False)
  key = jax.random.fold_in(jax.random.fold_in(key, k), j)
  drawn = matmul(jax.random.normal(key, (len(X),), X.dtype), Y)
  new = jnp.where(j % 3 == 2, drawn, axis)
  columns = jnp.arange(V.shape[1])
  W = jnp.where((columns == k - 1)[None], new[:, None], V)
  return orthonormalize(W, columns >= k)


def _advance(key, chains: _Chains, k: Array, X: Array, norms: Array) -> _Chains:
  """Extends the chains from k - 1 to k directions; sorts them, best first."""
  absent = jnp.arange(chains.V.shape[2]) >= k
  count, size = len(chains.V), len(X)

  def descend(xs):
    V, j = xs
    V = minimize(
      lambda V: _evaluate(V, X),
      _extend(key, V, k, j, X, norms),
      absent,
      tolerance=_TOLERANCE,
      max_evaluations=_MAX_EVALUATIONS,
    )
    return _Chains(V, *summarize(V, X, norms > 0))

  # Small problems are batched; a single large one fills a core, and a batch
  # would wait for threads: see `linalg.one_by_one`.
  together = count
  if jax.default_backend() == "cpu":
    most = min(count, max(1, 20_000 // size**3))
    # A divisor of count, because a remainder would need a second program.
    together = max(n for n in range(1, most + 1) if count % n == 0)
  result = jax.lax.map(
    descend,
    (chains.V, jnp.arange(count)),
    batch_size=together if together > 1 else None,
  )
  objective = jnp.where(jnp.isnan(result.objective), jnp.inf, result.objective)
  order = jnp.argsort(objective)
  return jax.tree.map(lambda x: x[order], result._replace(objective=objective))


class _Kept(NamedTuple):
  """The directions of the K of least correlation so far, in no order."""

  V: Float[Array, "kept P K"]
  rank: Int[Array, " kept"]
  correlation: Float[Array, " kept"]


class _Progress(NamedTuple):
  k: Int[Array, ""]
  chains: _Chains
  kept: _Kept
  curves: Remainders
  leading: Float[Array, " ranks"]
  ended: Bool[Array, ""]


def _three_rises(correlations: Array, k: Array) -> Array:
  """Returns whether the correlation rose at k, k - 1 and k - 2."""
  last = correlations[jnp.maximum(k - 4, 0) + jnp.arange(4)]
  return (k >= _FIRST_END) & (jnp.diff(last) > 0).all()


def search(
  key: Key[Array, ""],
  X: Float[Array, "P P"],
  norms: Float[Array, " P"],
  allowed: Int[Array, ""],
  *,
  largest: int,
  num_chains: int,
  keep: str = "least",
  stable: bool = False,
  with_leading: bool = False,
) -> SearchResult:
  """Searches K = 1 ... `allowed`, or up to where the correlation keeps rising.

  Args:
    key: for the chains that add random directions.
    X: the centres as rows of norm one, about their mean, in axes of their span;
      columns beyond its dimension are zero.
    norms: the centres' norms; 0, like the row of X, for a centre at the mean.
    allowed: the largest K to try.
    largest: a static upper bound on `allowed`.
    num_chains: number of chains.
    keep: `least` chooses the K of least correlation, and ends after three rises
      of the correlation in a row from K = 5 on; `last` takes K = `allowed`.
    stable: whether to take the chain that leaves most of every centre.
    with_leading: whether to compute the leading eigenvalues.
  """
  num_kept = 2 if keep == "least" else 1
  state = _at_start(X, largest, num_chains, num_kept)

  def step(state: _Progress) -> _Progress:
    k = state.k + 1
    chains = _advance(key, state.chains, k, X, norms)
    chosen = chains.summary.left.argmax() if stable else 0
    V = chains.V[chosen]
    summary = jax.tree.map(lambda x: x[chosen], chains.summary)
    curves = jax.tree.map(
      lambda curve, x: curve.at[k - 1].set(x), state.curves, summary
    )
    leading = state.leading
    if with_leading:
      leading = leading.at[k - 1].set(_leading(V, X))
    worst = state.kept.correlation.argmax()
    better = summary.correlation < state.kept.correlation[worst]
    better |= keep == "last"
    kept = jax.tree.map(
      lambda old, new: old.at[worst].set(jnp.where(better, new, old[worst])),
      state.kept,
      _Kept(V, k, summary.correlation),
    )
    return _Progress(
      k,
      chains,
      kept,
      curves,
      leading,
      _three_rises(curves.correlation, k) & (keep == "least"),
    )

  for width in _widths(largest):
    state = _wider(state, width)
    bound = jnp.minimum(width, allowed)
    state = jax.lax.while_loop(
      lambda state, bound=bound: (state.k < bound) & ~state.ended, step, state
    )
  return _decide(state, X, norms)


def _decide(state: _Progress, X: Array, norms: Array) -> SearchResult:
  """Polishes what was kept a little, chooses K, and polishes it to the end."""
  rank = state.kept.rank
  last = len(rank) if len(rank) > 1 else 0

  def step(i, carry):
    V, curves, _ = carry
    correlations = jnp.where(rank > 0, curves.correlation[rank - 1], jnp.inf)
    chosen = jnp.where(i == last, correlations.argmin(), i).astype(jnp.int32)
    close = correlations[chosen] <= _CLOSE * correlations.min()
    trial = jnp.where(close, _TRIAL_EVALUATIONS, 0)
    evaluations = jnp.where(i == last, _POLISH_EVALUATIONS, trial)
    polished = _polish(V[chosen], rank[chosen], X, evaluations)
    _, summary = summarize(polished, X, norms > 0)
    place = jnp.where(rank[chosen] > 0, rank[chosen] - 1, len(curves.cost))
    curves = jax.tree.map(
      lambda curve, x: curve.at[place].set(x, mode="drop"), curves, summary
    )
    return V.at[chosen].set(polished), curves, chosen

  V, curves, chosen = jax.lax.fori_loop(
    0, last + 1, step, (state.kept.V, state.curves, jnp.int32(0))
  )
  return SearchResult(V[chosen], rank[chosen], curves, state.leading)


def _at_start(X, largest: int, num_chains: int, num_kept: int) -> _Progress:
  """Returns the state of a search before its first direction."""
  zero, zeros = (jnp.zeros((n,), X.dtype) for n in (num_chains, largest))
  V = jnp.zeros((num_chains, len(X), 0), X.dtype)
  return _Progress(
    jnp.int32(0),
    _Chains(V, zero, Remainders(zero, zero, zero)),
    _Kept(
      jnp.zeros((num_kept, len(X), 0), X.dtype),
      jnp.zeros(num_kept, jnp.int32),
      jnp.full(num_kept, jnp.inf, X.dtype),
    ),
    Remainders(zeros + jnp.inf, zeros + jnp.inf, zeros),
    zeros,
    jnp.bool_(False),
  )


def _wider(state: _Progress, width: int) -> _Progress:
  """Pads the directions with zero columns up to a width."""

  def pad(V):
    missing = width - V.shape[-1]
    return jnp.pad(V, [(0, 0)] * (V.ndim - 1) + [(0, missing)])

  chains = state.chains._replace(V=pad(state.chains.V))
  kept = state.kept._replace(V=pad(state.kept.V))
  return state._replace(chains=chains, kept=kept)
