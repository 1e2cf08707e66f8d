"""Products in the full precision of their type, on every device.

Accelerators multiply float32 in fewer bits unless they are told otherwise, and
the geometry needs all of them.
"""

import functools

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
