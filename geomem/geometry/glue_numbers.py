"""The numbers of GLUE, from the multipliers of all samples; see `glue`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry.estimators import ratio_of_means
from geomem.geometry.linalg import einsum, matmul, pseudo_inverse_form


def _off_diagonal(X: Float[Array, "*t P P"]) -> Float[Array, ""]:
  """Averages over pairs of different manifolds, and over samples."""
  P = X.shape[-1]
  others = 1 - jnp.eye(P, dtype=X.dtype)
  total = (X.reshape(-1, P, P) * others[None]).sum()
  return total / (X.size // P * (P - 1))


def _cosines(X, rows, columns) -> Array:
  """Divides products by the lengths of both; 0 where there is no length."""
  norm = jnp.sqrt(jnp.maximum(rows[..., :, None] * columns[..., None, :], 0))
  return jnp.where(norm > 0, X / jnp.where(norm > 0, norm, 1), 0)


def _diagonal(X):
  return jnp.diagonal(X, axis1=-2, axis2=-1)


def numbers_of(
  K: Float[Array, "n n"],
  g: Float[Array, "T n"],
  y: Float[Array, "T n"],
  lam: Float[Array, "T n"],
  mask: Bool[Array, "P M"],
) -> dict[str, Array]:
  """Computes the numbers of `Glue`, and their errors.

  Args:
    K: products of the points.
    g: Z t of each sample.
    y: its labels, one for each point.
    lam: its multipliers.
    mask: which points are there.
  """
  P, M = mask.shape
  T = len(g)
  fixed = jax.lax.stop_gradient(lam)
  signed = y * fixed
  # Equal to λᵀ b at the optimum; of this form the derivative is exact.
  a = 2 * (signed * g).sum(axis=1) - (signed * matmul(signed, K)).sum(axis=1)
  lam = lam.reshape(T, P, M)
  total = lam.sum(axis=2, keepdims=True)
  active = total[..., 0] > 0
  W = jnp.where(total > 0, lam / jnp.where(total > 0, total, 1), 0)
  mean = W.mean(axis=0)

  def products_of(manifold):
    weights, rows = manifold
    x = matmul(weights, rows).reshape(T, P, M)
    return (x * W).sum(axis=2), (x * mean[None]).sum(axis=2)

  # [P, T, P]: ⟨s_μ, s_ν⟩ and ⟨s_μ, s⁰_ν⟩ by sample.
  SS, SS0 = jax.lax.map(products_of, (W.swapaxes(0, 1), K.reshape(P, M, P * M)))
  SS, SS0 = SS.swapaxes(0, 1), SS0.swapaxes(0, 1)
  S0S0 = SS0.mean(axis=0)
  S0S0 = (S0S0 + S0S0.T) / 2
  mixed = SS0 - S0S0[None]  # ⟨s¹_μ, s⁰_ν⟩
  S1S1 = SS - SS0 - SS0.swapaxes(1, 2) + S0S0[None]
  # a = ‖Σ y Λ s‖², Λ = Σ λ: what centres and axes have in it.
  strength = y.reshape(T, P, M)[..., 0] * total[..., 0]

  def part(X):
    return einsum("tp,tpq,tq->t", strength, X, strength).mean()

  of_centers = part(jnp.broadcast_to(S0S0[None], SS.shape))
  of_axes, whole = part(S1S1), part(SS)
  fields = g.reshape(T, P, M)
  along = ((W - mean[None]) * fields).sum(axis=2)
  b = pseudo_inverse_form(S1S1, along)
  c = pseudo_inverse_form(S0S0[None] + S1S1, along)
  ones = jnp.ones_like(a)
  inverse, inverse_error = ratio_of_means(a, ones)
  dimension, dimension_error = ratio_of_means(b, ones)
  squared, squared_error = ratio_of_means(c, b - c)
  radius = jnp.sqrt(squared)
  utility, utility_error = ratio_of_means(c, a)
  centers, axes = _diagonal(S0S0), _diagonal(S1S1)
  return {
    "capacity": P / inverse,
    "capacity_stderr": P * inverse_error / inverse**2,
    "dimension": dimension / P,
    "dimension_stderr": dimension_error / P,
    "radius": radius,
    "radius_stderr": squared_error / (2 * radius),
    "utility": utility,
    "utility_stderr": utility_error,
    "critical_features": inverse,
    "center_alignment": _off_diagonal(jnp.abs(S0S0)),
    "axis_alignment": _off_diagonal(jnp.abs(S1S1)),
    "center_axis_alignment": _off_diagonal(jnp.abs(mixed)),
    "center_cosine": _off_diagonal(_cosines(S0S0, centers, centers)),
    "axis_cosine": _off_diagonal(_cosines(S1S1, axes, axes)),
    "center_axis_cosine": _off_diagonal(
      _cosines(mixed, axes, jnp.broadcast_to(centers[None], axes.shape))
    ),
    "center_part": of_centers / whole,
    "axis_part": of_axes / whole,
    "center_axis_part": 1 - (of_centers + of_axes) / whole,
    "active": active.mean(axis=0),
  }
