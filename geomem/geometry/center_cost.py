"""The correlation that is left of centres once directions are removed.

With unit centres x_μ, K orthonormal directions V, a_μ = Vᵀx_μ, the remainders
y_μ = x_μ − V a_μ and d_μ = ‖y_μ‖², the cost is half the sum of squared cosines
between the remainders, f = ½ Σ_μν cos²_μν. It does not depend on the norms of
the original centres. Its gradient over subspaces is

  −2 Σ_μ y_μ (Σ_ν W_μν a_ν − d_μ⁻¹ q_μ a_μ)ᵀ,   W_μν = y_μ·y_ν / (d_μ d_ν),

with q_μ = Σ_ν cos²_μν. To first order y_μ / √d_μ moves by −δV a_μ / √d_μ, so
that Σ_μ a_μ a_μᵀ / d_μ is most of the curvature. The descent uses it as its
metric: twenty evaluations then achieve what takes hundreds without it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from geomem.geometry.grassmann import Evaluation
from geomem.geometry.linalg import matmul

# Weight of −Σ log d_μ relative to f. Directions that remove nearly all of one
# centre may have an f as low as any, because its small remainder can point
# anywhere. Among equal minima the barrier prefers those that leave more of
# every centre; it costs less than .2 % of f.
_BARRIER = 0.003


def mean_off_diagonal(cosines: Float[Array, "P P"]) -> Float[Array, ""]:
  """Returns the mean absolute value of the entries off the diagonal."""
  size = cosines.shape[0]
  off = jnp.where(jnp.eye(size, dtype=bool), 0, jnp.abs(cosines))
  return off.sum() / max(size * (size - 1), 1)


def remainders(
  V: Float[Array, "P K"], X: Float[Array, "P P"]
) -> tuple[Float[Array, "P P"], Float[Array, " P"], Float[Array, " P"]]:
  """Returns the remainders of the rows of X, their squared norms d, and 1/d.

  1/d is 0 where d is zero.
  """
  Y = X - matmul(matmul(X, V), V.T)
  d = (Y**2).sum(axis=1)
  positive = d > jnp.finfo(X.dtype).tiny
  return Y, d, jnp.where(positive, 1 / jnp.where(positive, d, 1), 0)


def unit_remainders(
  V: Float[Array, "P K"], X: Float[Array, "P P"]
) -> Float[Array, "P P"]:
  """Returns the remainders of the rows of X, scaled to unit length."""
  Y, _, inverse = remainders(V, X)
  return Y * jnp.sqrt(inverse)[:, None]


def barrier(d: Float[Array, " P"]) -> Float[Array, ""]:
  """Returns the term added to f for the shares d that are left of centres."""
  positive = d > jnp.finfo(d.dtype).tiny
  return -_BARRIER * jnp.log(jnp.where(positive, d, 1)).sum()


def evaluate_cost(V: Float[Array, "P K"], X: Float[Array, "P P"]) -> Evaluation:
  """Evaluates the cost and its small barrier at an orthonormal basis V."""
  A = matmul(X, V)
  Y, d, inverse = remainders(V, X)
  R = matmul(Y, Y.T)
  W = R * (inverse[:, None] * inverse[None, :])
  squares = (R * W).sum(axis=1)
  pull = W - jnp.diag((squares + _BARRIER) * inverse)
  gradient = -2 * matmul(Y.T, matmul(pull, A))
  return Evaluation(
    0.5 * squares.sum() + barrier(d),
    gradient - matmul(V, matmul(V.T, gradient)),
    matmul(A.T, A * inverse[:, None]),
  )
