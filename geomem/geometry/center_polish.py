"""The final descent: the directions of the chosen K, to their minimum.

Minima of the cost are flat: directions whose cost is 1e-4 from its minimum may
have capacities that are 2 % off, and depend on rounding. The descent of the
chosen directions therefore continues until no step gains more than rounding.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geomem.geometry.center_cost import evaluate_cost
from geomem.geometry.grassmann import minimize

_TOLERANCE = 1e-9
_MAX_EVALUATIONS = 400
# Arrays grow with K by this factor, because every size is a separate program.
_WIDER = 4


def widths(largest: int) -> list[int]:
  """Returns the array widths that are used on the way to `largest` columns."""
  sizes = [largest]
  while sizes[0] > 32:
    sizes.insert(0, -(-sizes[0] // _WIDER))
  return sizes


def polish(
  V: Float[Array, "P ranks"], rank: Int[Array, ""], X: Float[Array, "P P"]
) -> Float[Array, "P ranks"]:
  """Finishes the descent of K directions, in the smallest arrays that fit.

  Args:
    V: the directions; columns beyond K are zero.
    rank: K.
    X: the centres, as in `center_directions.search`.
  """
  largest = V.shape[1]

  def descend(width, V):
    V = minimize(
      lambda V: evaluate_cost(V, X),
      V[:, :width],
      jnp.arange(width) >= rank,
      tolerance=_TOLERANCE,
      max_evaluations=_MAX_EVALUATIONS,
    )
    return jnp.pad(V, ((0, 0), (0, largest - width)))

  sizes = widths(largest)
  return jax.lax.switch(
    jnp.searchsorted(jnp.asarray(sizes), rank),
    [functools.partial(descend, width) for width in sizes],
    V,
  )
