"""Products in full precision, and loops that run until they are finished.

By default, accelerators multiply float32 in fewer bits, and the geometry needs
all of them.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_T = TypeVar("_T")

# Steps between two checks of the condition. On accelerators each check asks the
# host, which takes longer than a step.
_STEPS_A_QUESTION = 4


_HIGHEST = jax.lax.Precision.HIGHEST
matmul = functools.partial(jnp.matmul, precision=_HIGHEST)
einsum = functools.partial(jnp.einsum, precision=_HIGHEST)


def repeat_until_done(
  unfinished: Callable[[_T], jax.Array], advance: Callable[[_T], _T], state: _T
) -> _T:
  """Advances a state while it is unfinished, as `jax.lax.while_loop` does.

  Args:
    unfinished: returns whether to continue.
    advance: performs one step. Accelerators may run a few more steps than
      needed, which must not degrade a finished state.
    state: the initial state.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.while_loop(unfinished, advance, state)
  return jax.lax.while_loop(
    unfinished,
    lambda state: jax.lax.fori_loop(
      0, _STEPS_A_QUESTION, lambda _, state: advance(state), state
    ),
    state,
  )


def grams(X: Float[Array, "P m n"]) -> Float[Array, "P m m"]:
  """Returns X Xᵀ of each of P matrices.

  Sequential on CPU, where batched products take three times as long.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.map(lambda x: matmul(x, x.T), X)
  return einsum("pmn,pkn->pmk", X, X)


def one_by_one(function: Callable[..., Any], *arrays: Any) -> Any:
  """Maps a function of matrices over the leading axis of trees of arrays.

  Sequential on CPU: JAX splits a batched factorization among the threads that
  run programs, and the calling thread waits for the others. As many such calls
  as there are threads, even from programs that run side by side, deadlock
  (jaxlib 0.10). Batches of k matrices with k n³ of at most 20,000 are too small
  to be split.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.map(lambda xs: function(*xs), arrays)
  return jax.vmap(function)(*arrays)


def pseudo_inverse_shares(
  A: Float[Array, "T P P"], r: Float[Array, "T P"]
) -> Float[Array, "T P"]:
  """Computes r ∘ A⁺ r, whose sum is rᵀ A⁺ r.

  Derivatives are valid if the rank of A is constant and r is in its range.
  """
  # LAPACK may not terminate on NaN.
  finite = jnp.isfinite(A).all(axis=(1, 2))
  fixed = jnp.where(finite[:, None, None], jax.lax.stop_gradient(A), 0)
  values, vectors = one_by_one(jnp.linalg.eigh, fixed)
  tolerance = A.shape[-1] * 4 * jnp.finfo(A.dtype).eps
  kept = values > tolerance * values[:, -1:]
  inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)

  def solve(r):
    along = einsum("tpk,tp->tk", vectors, r)
    return einsum("tpk,tk->tp", vectors, inverse * along)

  x = solve(jax.lax.stop_gradient(r))
  # The correction is zero, but adds the derivative of x: A⁺(dr − dA x).
  x = x + solve(r - einsum("tpq,tq->tp", A, x))
  return jnp.where(finite[:, None], x * r, jnp.nan)
