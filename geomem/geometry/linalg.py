"""Products in the full precision of their type, on every device.

Accelerators multiply float32 in fewer bits unless they are told otherwise, and
the geometry needs all of them.
"""

import functools

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST

matmul = functools.partial(jnp.matmul, precision=_HIGHEST)
einsum = functools.partial(jnp.einsum, precision=_HIGHEST)
