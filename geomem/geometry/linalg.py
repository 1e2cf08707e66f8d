"""Products in full precision, loops until done, and refused derivatives.

By default, accelerators multiply float32 in fewer bits, and the geometry needs
all of them.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

_T = TypeVar("_T")

# Steps between two checks of the condition. On accelerators each check asks the
# host, which takes longer than a step.
_STEPS_A_QUESTION = 4
# Why functions with rules for their derivatives refuse to be differentiated
# without them; see `no_derivative`.
NO_SECOND = (
  "JAX before 0.12 ignores the rules of second derivatives inside a scan, such"
  " as that of jax.lax.map; use jax.vmap or a Python loop there."
)

_HIGHEST = jax.lax.Precision.HIGHEST
matmul = functools.partial(jnp.matmul, precision=_HIGHEST)
einsum = functools.partial(jnp.einsum, precision=_HIGHEST)


def repeat_until_done(
  unfinished: Callable[[_T], jax.Array],
  advance: Callable[[_T], _T],
  state: _T,
  max_steps: int | jax.Array | None = None,
) -> _T:
  """Advances a state while it is unfinished, as `jax.lax.while_loop` does.

  Accelerators may run a few more steps than needed, which must not degrade a
  finished state.
  """
  if max_steps is not None:
    return repeat_until_done(
      lambda carry: unfinished(carry[0]) & (carry[1] < max_steps),
      lambda carry: (advance(carry[0]), carry[1] + 1),
      (state, jnp.int32(0)),
    )[0]
  if jax.default_backend() == "cpu":
    return jax.lax.while_loop(unfinished, advance, state)
  return jax.lax.while_loop(
    unfinished,
    lambda state: jax.lax.fori_loop(
      0, _STEPS_A_QUESTION, lambda _, state: advance(state), state
    ),
    state,
  )


def diagonal(X: Float[Array, "*b n n"]) -> Float[Array, "*b n"]:
  """Returns the diagonals of matrices."""
  return jnp.diagonal(X, axis1=-2, axis2=-1)


def squared_distances(G: Float[Array, "n n"]) -> Float[Array, "n n"]:
  """Computes the squared distances of vectors from their Gram matrix."""
  squares = jnp.diagonal(G)
  return squares[:, None] + squares[None] - 2 * G


def mean_off_diagonal(X: Float[Array, "*b n n"]) -> Float[Array, ""]:
  """Averages the entries off the diagonals; NaN if there are none."""
  n = X.shape[-1]
  off_diagonal = 1 - jnp.eye(n, dtype=X.dtype)
  total = (X.reshape(-1, n, n) * off_diagonal[None]).sum()
  return total / (X.size // n * (n - 1))


def grams(X: Float[Array, "P m n"]) -> Float[Array, "P m m"]:
  """Returns X Xᵀ of each of P matrices."""
  # Sequential on CPU, where batched products take three times as long.
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


_no_derivative = jax.extend.core.Primitive("no_derivative")
_no_derivative.def_impl(lambda x, *, why: x)
_no_derivative.def_abstract_eval(lambda x, *, why: x)
mlir.register_lowering(_no_derivative, lambda _, x, *, why: [x])
batching.primitive_batchers[_no_derivative] = lambda xs, axes, *, why: (
  _no_derivative.bind(*xs, why=why),
  *axes,
)


def _refuse(primals, tangents, *, why):
  del primals, tangents
  raise TypeError(why)


ad.primitive_jvps[_no_derivative] = _refuse


def no_derivative(tree: _T, why: str) -> _T:
  """Returns arrays whose derivative raises a TypeError that says why.

  Iterations would give wrong derivatives, and JAX before 0.12 ignores the rules
  of `jax.custom_jvp` in second derivatives inside a scan. A primitive cannot be
  ignored.
  """
  return jax.tree.map(lambda x: _no_derivative.bind(x, why=why), tree)


@jax.custom_jvp
def _pseudo_inverse(
  A: Float[Array, "T P P"],
) -> tuple[Float[Array, "T P P"], Float[Array, "T P P"]]:
  """Returns A⁺, and the projection N on the null space of A."""
  A = no_derivative(A, NO_SECOND)
  values, vectors = one_by_one(jnp.linalg.eigh, A)
  tolerance = A.shape[-1] * 4 * jnp.finfo(A.dtype).eps
  kept = values > tolerance * values[:, -1:]
  inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
  null = jnp.where(kept, 0, 1).astype(A.dtype)
  across = vectors.swapaxes(1, 2)
  return (
    matmul(vectors * inverse[:, None], across),
    matmul(vectors * null[:, None], across),
  )


@_pseudo_inverse.defjvp
def _pseudo_inverse_jvp(primals, tangents):
  """Differentiates at constant rank; Golub and Pereyra, 1973."""
  inverse, null = _pseudo_inverse(*primals)
  change = matmul(inverse, tangents[0])
  turn = matmul(change, null)
  within = matmul(change, inverse)
  further = matmul(inverse, turn)
  return (inverse, null), (
    further + further.swapaxes(1, 2) - within,
    -(turn + turn.swapaxes(1, 2)),
  )


def pseudo_inverse_shares(
  A: Float[Array, "T P P"], r: Float[Array, "T P"]
) -> Float[Array, "T P"]:
  """Computes r ∘ A⁺ r, whose sum is rᵀ A⁺ r.

  Derivatives are valid if the rank of A is constant.
  """
  # LAPACK may not terminate on NaN.
  finite = jnp.isfinite(A).all(axis=(1, 2))
  inverse, _ = _pseudo_inverse(jnp.where(finite[:, None, None], A, 0))
  x = einsum("tpq,tq->tp", inverse, r)
  return jnp.where(finite[:, None], x * r, jnp.nan)
