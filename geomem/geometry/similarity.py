r"""How alike two representations of the same examples are: linear CKA.

With K and L the products of the same points in two representations, about their
means, linear centred kernel alignment is their cosine ⟨K, L⟩ / (‖K‖ ‖L‖), from
0 to 1, which does not depend on rotations and scales. Points are differentiable
once, in reverse mode.

With few points in many features it is biased upwards: the diagonals alone give
random representations a positive cosine. The unbiased form leaves diagonals
out, and is 0 on average for unrelated representations; it may be negative.

Sources: Kornblith, Norouzi, Lee and Hinton, ICML 2019; Song, Smola, Gretton,
Bedo and Borgwardt, JMLR 2012, equation 5, for the unbiased form.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry import checks
from geomem.geometry.products import PointProducts, in_present_type
from geomem.geometry.representation import unit_free


def centered_kernel(
  products: PointProducts, *, unbiased: bool = False
) -> Float[Array, "*b n n"]:
  """Returns the kernel of norm 1 whose inner products are linear CKA.

  Linear CKA among many representations is then one matrix product. NaN where
  all points coincide, and in the unbiased form where there are fewer than four
  or all are equally far from each other, so that only rounding is left.
  """
  present = products.mask.reshape(*products.mask.shape[:-2], -1)
  G = unit_free(products.gram, 2)
  K = _u_centered(G, present) if unbiased else G
  size, norm = (
    jnp.sqrt((x**2).sum(axis=(-2, -1), keepdims=True)) for x in (G, K)
  )
  # Rounding leaves an ε of each entry; each is a sum of three means.
  known = norm > 16 * jnp.finfo(K.dtype).eps * size
  known &= products.has_spread[..., None, None]
  return jnp.where(known, K / jnp.where(known, norm, 1), jnp.nan)


def _u_centered(
  K: Float[Array, "*b n n"], there: Bool[Array, "*b n"]
) -> Float[Array, "*b n n"]:
  """Centres a kernel without its diagonal; rows of missing points are zero."""
  count = there.sum(axis=-1)[..., None, None].astype(K.dtype)
  pairs = there[..., :, None] & there[..., None, :]
  pairs = pairs & ~jnp.broadcast_to(jnp.eye(K.shape[-1], dtype=bool), K.shape)
  K = jnp.where(pairs, K, 0)
  rows = K.sum(axis=-1, keepdims=True)
  columns = K.sum(axis=-2, keepdims=True)
  total = rows.sum(axis=-2, keepdims=True)
  centered = K - (rows + columns) / (count - 2)
  centered = centered + total / ((count - 1) * (count - 2))
  return jnp.where(pairs & (count > 3), centered, 0)


def _check_products(*given) -> None:
  if not all(isinstance(x, PointProducts) for x in given):
    raise ValueError(
      "Products of points were expected, not the points or other statistics;"
      " give geometry.point_products(points)."
    )


@functools.partial(jax.jit, static_argnames="unbiased")
def linear_cka(
  a: PointProducts, b: PointProducts, *, unbiased: bool = False
) -> Float[Array, "*b"]:
  """Computes linear CKA of two representations of the same points.

  Args:
    a: products of the points in one representation, or in a stack of them.
    b: products in the other, which may have another number of features.
    unbiased: whether to leave the diagonals out.

  Returns:
    The cosine; NaN where a kernel is, see `centered_kernel`, or where the masks
    differ, so that the points are not the same.

  Raises:
    ValueError: the numbers of points differ, or products were not given.
  """
  _check_products(a, b)
  checks.flag("unbiased", unbiased)
  if a.mask.shape != b.mask.shape:
    raise ValueError(
      f"Products of {a.mask.shape} and {b.mask.shape} points were given; those"
      " of the same points in two representations were expected."
    )
  a, b = map(in_present_type, (a, b))
  first, second = (centered_kernel(x, unbiased=unbiased) for x in (a, b))
  same = (a.mask == b.mask).all(axis=(-2, -1))
  return jnp.where(same, (first * second).sum(axis=(-2, -1)), jnp.nan)


@jax.jit
def label_alignment(products: PointProducts) -> Float[Array, "*b"]:
  """Computes linear CKA of a representation with its labels, one-hot.

  It is 1 where each manifold is a single point and the points form a regular
  simplex, and NaN where all points coincide.

  Args:
    products: of the P · M points of all manifolds, or a stack of them.

  Raises:
    ValueError: products were not given.

  Source: Cristianini, Shawe-Taylor, Elisseeff and Kandola, "On kernel-target
  alignment", NeurIPS 2001; centred as in Cortes, Mohri and Rostamizadeh, JMLR
  2012.
  """
  _check_products(products)
  products = in_present_type(products)
  *_, P, M = products.mask.shape
  gram = unit_free(products.gram, 2)
  counts = products.mask.sum(axis=-1).astype(gram.dtype)
  # Labels enter only through sums of products over pairs of manifolds.
  blocks = gram.reshape(*gram.shape[:-2], P, M, P, M).sum(axis=(-3, -1))
  share = counts / counts.sum(axis=-1, keepdims=True)
  # ‖H Y Yᵀ H‖ = ‖Yᵀ H Y‖, with H the centring matrix.
  own = jnp.where(jnp.eye(P, dtype=bool), counts[..., None], 0)
  labels = own - counts[..., None] * share[..., None, :]
  squares = ((x**2).sum(axis=(-2, -1)) for x in (gram, labels))
  norm = jnp.sqrt(next(squares) * next(squares))
  inner = jnp.trace(blocks, axis1=-2, axis2=-1)
  known = (norm > 0) & products.has_spread
  return jnp.where(known, inner / jnp.where(known, norm, 1), jnp.nan)
