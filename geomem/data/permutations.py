"""Random permutations of many sizes from one program."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key


def permutations(
  keys: Key[Array, " k"], sizes: list[int]
) -> list[Int[np.ndarray, " n"]]:
  """Returns the results of `jax.random.permutation` for each key and size.

  That function compiles a program for every size, a third of a second each. The
  first bits of JAX's default keys do not depend on how many are drawn, so one
  program draws the bits for all sizes, and NumPy sorts.

  Args:
    keys: one for each size.
    sizes: the i-th permutation is of 0 to sizes[i] - 1.

  Returns:
    The permutations, in the order of the keys.
  """
  # As in JAX, enough rounds for the bits to distinguish n³ values.
  rounds = [
    math.ceil(3 * math.log(max(n, 1)) / math.log(2**32 - 1)) for n in sizes
  ]
  length = 2 ** max(max(sizes) - 1, 0).bit_length()
  bits = np.asarray(_sort_keys(keys, max(1, *rounds), length))
  orders = []
  for size, count, drawn in zip(sizes, rounds, bits, strict=True):
    order = np.arange(size)
    for round_bits in drawn[:count]:
      order = order[np.argsort(round_bits[:size], kind="stable")]
    orders.append(order)
  return orders


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sort_keys(keys, num_rounds: int, length: int):
  def draw(key):
    drawn = []
    for _ in range(num_rounds):
      key, bits_key = jax.random.split(key)
      drawn.append(jax.random.bits(bits_key, (length,), jnp.uint32))
    return jnp.stack(drawn)

  return jax.vmap(draw)(keys)
