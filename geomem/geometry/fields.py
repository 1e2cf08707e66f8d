"""Probes as GLUE sees them: fields Z t, of the covariance of the points."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from geomem.geometry.linalg import matmul
from geomem.geometry.products import PointProducts

# ε over the norm, for products in single and double precision. It is far below
# what single precision tells of directions; less would make derivatives, which
# grow like its inverse root, lose their digits there.
_SHIFT, _DOUBLE_SHIFT = 4e-12, 2e-15


def draw_normal(key, products, num_probes) -> Float[Array, "n1 T"]:
  """Draws the standard normal x that `fields_of` takes."""
  shape = (len(products.offset) + 1, num_probes)
  return jax.random.normal(key, shape, products.gram.dtype)


def fields_of(
  products: PointProducts, x: Float[Array, "n1 T"], single: bool = True
) -> Float[Array, "T n"]:
  """Computes Z t of probes t ~ N(0, I): normal, of covariance K.

  With C the correlations of the centred points and their mean, and L Lᵀ =
  C + εI, these are C (L Lᵀ)⁻¹ C L⁻ᵀ x: in the span of the points whatever their
  rank, and short of the covariance by 3 ε at most. ε is as small as the
  factorization allows.

  Args:
    products: of the points, in the precision to compute in.
    x: standard normal, a column for each probe.
    single: whether the points were known in single precision.

  Returns:
    A row for each probe, in the unit of the points.
  """
  A = products.whole
  diagonal = jnp.diagonal(A)
  scale = jnp.where(diagonal > 0, jnp.sqrt(jnp.abs(diagonal)), 1)
  C = A / (scale[:, None] * scale[None])
  eye = jnp.eye(len(C), dtype=C.dtype)
  norm = jnp.maximum(jnp.abs(C).sum(axis=1).max(), 1)
  shift = _SHIFT if single else _DOUBLE_SHIFT
  if C.dtype == jnp.float32:  # Where devices know no other.
    shift = 8 * jnp.finfo(C.dtype).eps
  start = jax.lax.stop_gradient(shift * norm)

  def factor(epsilon):
    return jnp.linalg.cholesky(C + epsilon * eye)

  def failed(L):
    return ~jnp.isfinite(L[-1:, -1:]).all()

  # Mostly the first will do, and it is what takes the time.
  first = factor(start)
  epsilon, _ = jax.lax.while_loop(
    # NaN ends it, too.
    lambda found: found[1] & (found[0] < 1),
    lambda found: (4 * found[0], failed(factor(4 * found[0]))),
    jax.lax.stop_gradient((start, failed(first))),
  )
  # C = L Lᵀ − εI: in this form little is lost to rounding.
  L = jax.lax.cond(epsilon > start, lambda: factor(epsilon), lambda: first)
  back = jax.scipy.linalg.solve_triangular(L, x, lower=True, trans=1)
  h = matmul(L, x) - epsilon * back
  # What rounding left outside the span no multipliers could ever fit: where
  # points surround the origin, they would grow without end.
  h = h - epsilon * jax.scipy.linalg.cho_solve((L, True), h)
  h = (scale[:, None] * h).T
  there = products.mask.reshape(-1)
  return jnp.where(there[None], h[:, :-1] + h[:, -1:], 0)
