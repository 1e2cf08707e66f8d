"""Products in the full precision of their type, on every device.

Accelerators multiply float32 in fewer bits unless they are told otherwise, and
the geometry needs all of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST

matmul = functools.partial(jnp.matmul, precision=_HIGHEST)
einsum = functools.partial(jnp.einsum, precision=_HIGHEST)


def grams(X: Float[Array, "P m n"]) -> Float[Array, "P m m"]:
  """Returns X Xᵀ of each of P matrices.

  One after the other on CPU, whose batched products take three times as long.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.map(lambda x: matmul(x, x.T), X)
  return einsum("pmn,pkn->pmk", X, X)


def one_by_one(function: Callable[..., Any], *arrays: Any) -> Any:
  """Maps a function of matrices over the leading axis of trees of arrays.

  One after the other on CPU: JAX shares a batched factorization out to the
  threads that run programs, and the one that asks waits for the others. As many
  at once as there are threads, be it of programs that run side by side, wait
  for each other for ever (jaxlib 0.10). Batches of k matrices with k n³
  of at most 20,000 are too small to be shared out.
  """
  if jax.default_backend() == "cpu":
    return jax.lax.map(lambda xs: function(*xs), arrays)
  return jax.vmap(function)(*arrays)


def pseudo_inverse_shares(
  A: Float[Array, "T P P"], r: Float[Array, "T P"]
) -> Float[Array, "T P"]:
  """Computes r ∘ A⁺ r, whose sum is rᵀ A⁺ r.

  Derivatives hold while the rank of A stays and r is in its range.
  """
  # LAPACK need not come to an end with NaN.
  finite = jnp.isfinite(A).all(axis=(1, 2))
  fixed = jnp.where(finite[:, None, None], jax.lax.stop_gradient(A), 0)
  values, vectors = one_by_one(jnp.linalg.eigh, fixed)
  smallest = A.shape[-1] * 4 * jnp.finfo(A.dtype).eps
  kept = values > smallest * values[:, -1:]
  inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)

  def solve(r):
    along = einsum("tpk,tp->tk", vectors, r)
    return einsum("tpk,tk->tp", vectors, inverse * along)

  x = solve(jax.lax.stop_gradient(r))
  # The correction is zero; its derivative is A⁺(dr − dA x), that of x.
  x = x + solve(r - einsum("tpq,tq->tp", A, x))
  return jnp.where(finite[:, None], x * r, jnp.nan)
