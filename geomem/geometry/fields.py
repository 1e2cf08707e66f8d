"""Probes of GLUE, as fields Z t whose covariance is the points' products."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry.linalg import matmul
from geomem.geometry.products import PointProducts

# ε relative to the norm, for products in single and double precision. It is far
# below the accuracy of directions in single precision; with a smaller ε,
# derivatives, which grow like its inverse root, would lose their digits there.
_SHIFT, _DOUBLE_SHIFT = 4e-12, 2e-15
# Squared distances of directions that are not rounding, but lost with _SHIFT.
_CLOSE = (1e-13, 1e-7)


def draw_normal(key, products, num_probes) -> Float[Array, "n1 T"]:
  """Draws the standard normal input x of `fields_of`."""
  shape = (len(products.offset) + 1, num_probes)
  return jax.random.normal(key, shape, products.gram.dtype)


@jax.custom_vjp
def _derivative_unless(x: Array, unknown: Bool[Array, ""]) -> Array:
  """Returns x, whose derivative is NaN where it is unknown."""
  return x


_derivative_unless.defvjp(
  lambda x, unknown: (x, unknown),
  lambda unknown, pulled: (jnp.where(unknown, jnp.nan, pulled), None),
)


def _repeated(products: PointProducts) -> Bool[Array, ""]:
  """Tells whether two points coincide; apart, they would raise the rank."""
  gram, present = products.gram, products.mask.reshape(-1)
  squares = jnp.diagonal(gram)
  sums = squares[:, None] + squares[None]
  pairs = present[:, None] & present[None] & ~jnp.eye(len(gram), dtype=bool)
  rounding = 64 * jnp.finfo(gram.dtype).eps
  return (pairs & (sums - 2 * gram <= rounding * sums)).any()


@jax.custom_jvp
def _root_of(L: Array, C: Array) -> Array:
  """Returns L, with its derivative in C + εI = L Lᵀ.

  The loop that finds ε has no derivative of its own.
  """
  del C
  return L


@_root_of.defjvp
def _root_jvp(primals, tangents):
  """Computes dL = L Φ(L⁻¹ dC L⁻ᵀ): Φ is the lower half, diagonal halved."""
  L, dC = primals[0], tangents[1]
  left = jax.scipy.linalg.solve_triangular(L, dC, lower=True)
  both = jax.scipy.linalg.solve_triangular(L, left.T, lower=True)
  both = (both + both.T) / 2
  half = jnp.tril(both) - jnp.diag(jnp.diagonal(both)) / 2
  return L, matmul(L, half)


def shifted_root(
  C: Float[Array, "n n"], single: bool | Bool[Array, ""] = False
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
  """Factorizes C + εI with ε as small as possible; returns the root and ε.

  C has unit diagonal; `single` starts from the ε of products in float32.
  """
  eye = jnp.eye(len(C), dtype=C.dtype)
  norm = jnp.maximum(jnp.abs(C).sum(axis=1).max(), 1)
  shift = jnp.where(single, _SHIFT, _DOUBLE_SHIFT).astype(C.dtype)
  if C.dtype == jnp.float32:  # On devices without float64.
    shift = 8 * jnp.finfo(C.dtype).eps
  start = jax.lax.stop_gradient(shift * norm)

  def factor(epsilon):
    return epsilon, jnp.linalg.cholesky(C + epsilon * eye)

  # The first factorization usually succeeds. One that fails has NaN in its last
  # entry; an ε of NaN ends the loop, too.
  epsilon, L = jax.lax.while_loop(
    lambda state: ~jnp.isfinite(state[1][-1, -1:]).all() & (state[0] < 1),
    lambda state: factor(4 * state[0]),
    jax.lax.stop_gradient(factor(start)),
  )
  return _root_of(L, C), epsilon


def fields_of(
  products: PointProducts, x: Float[Array, "n1 T"], single: bool = True
) -> Float[Array, "T n"]:
  """Computes the fields Z t of probes t ~ N(0, I): normal with covariance K.

  With C the correlations of the centred points and their mean, and L Lᵀ =
  C + εI, the fields are C (L Lᵀ)⁻¹ C L⁻ᵀ x. They lie in the span of the points
  at any rank, and their covariance is too small by at most 3 ε. ε is as small
  as the factorization allows. Derivatives are NaN where points coincide: moved
  apart, they add a direction at once, and the root has a kink.

  Products are in the precision to compute in; `single` tells whether they were
  given in single. x is standard normal, a column for each probe.
  """
  A = products.whole
  diagonal = jnp.diagonal(A)
  scale = jnp.where(diagonal > 0, jnp.sqrt(jnp.abs(diagonal)), 1)
  C = A / (scale[:, None] * scale[None])
  # Seen from the mean, points far from it, or in two groups, nearly coincide.
  apart = 1 - C**2
  close = ((apart > _CLOSE[0]) & (apart < _CLOSE[1])).any()
  L, epsilon = shifted_root(C, single & ~close)
  # Multiplying by C as L Lᵀ − εI loses little to rounding.
  back = jax.scipy.linalg.solve_triangular(L, x, lower=True, trans=1)
  h = matmul(L, x) - epsilon * back
  # Removes what rounding left outside the span, which no multipliers could fit:
  # where points surround the origin, they would diverge.
  h = h - epsilon * jax.scipy.linalg.cho_solve((L, True), h)
  h = (scale[:, None] * h).T
  present = products.mask.reshape(-1)
  g = jnp.where(present[None], h[:, :-1] + h[:, -1:], 0)
  return _derivative_unless(g, _repeated(products))
