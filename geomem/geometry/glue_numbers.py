"""The numbers of GLUE, as its module defines them, from solved problems."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry.estimators import (
  mean_and_error,
  mean_over_probes,
  ratio_of_means,
  with_less_variance,
)
from geomem.geometry.linalg import (
  diagonal,
  einsum,
  matmul,
  mean_off_diagonal,
  pseudo_inverse_shares,
)

# Least square of a centre beside those of its points, far above what the fields
# lack (`fields.shifted_root`).
_LEAST_CENTER = 1e-6


def _cosines(X, rows, columns) -> Array:
  """Divides products by both lengths; 0 where a length is zero."""
  norm = jnp.sqrt(jnp.maximum(rows[..., :, None] * columns[..., None, :], 0))
  return jnp.where(norm > 0, X / jnp.where(norm > 0, norm, 1), 0)


def _forms(
  mean: Float[Array, "P M"],
  W: Float[Array, "T P M"],
  SS: Float[Array, "T P P"],
  K: Float[Array, "n n"],
  g: Float[Array, "T n"],
) -> tuple[Array, Array, tuple[Array, Array, Array]]:
  """Computes b and c by sample and manifold, and the products of s⁰ and s¹.

  `mean` holds weights of the mean anchors s⁰ and W those of s, SS ⟨s_μ, s_ν⟩, K
  the products of the points, and g the Z t of each sample.
  """
  T, P, M = W.shape
  # In this order K is read as it lies in memory, without a copy.
  to_means = einsum("qk,qkn->qn", mean, K.reshape(P, M, P * M))
  to_means = to_means.reshape(P, P, M)
  SS0 = einsum("tpm,qpm->tpq", W, to_means)
  S0S0 = einsum("pm,qpm->pq", mean, to_means)
  S0S0 = (S0S0 + S0S0.T) / 2
  S1S1 = SS - SS0 - SS0.swapaxes(1, 2) + S0S0[None]
  along = ((W - mean[None]) * g.reshape(T, P, M)).sum(axis=2)
  b = pseudo_inverse_shares(S1S1, along)
  c = pseudo_inverse_shares(S0S0[None] + S1S1, along)
  return b, c, (S0S0, SS0 - S0S0[None], S1S1)


def _with_influence(mean, W, SS, K, g):
  """Returns b and c with each sample's influence on s⁰, and the forms.

  The mean anchors are estimated from the same samples, so to first order sample
  t moves ⟨b⟩ by ∂⟨b⟩/∂s⁰ · (s − s⁰) in addition to b. These terms add up to
  zero: they do not change the means, and with them the spread of the samples
  gives the full error (the infinitesimal jackknife; Efron, 1982).
  """

  def means(mean):
    forms = _forms(mean, W, SS, K, g)
    b, c = (shares.sum(axis=1).mean() for shares in forms[:2])
    return (b, c), forms

  _, pull, forms = jax.vjp(means, mean, has_aux=True)
  one, zero = jnp.ones((), g.dtype), jnp.zeros((), g.dtype)

  def with_move(shares, cotangents):
    (slope,) = pull(cotangents)
    move = ((W - mean[None]) * slope[None]).sum(axis=(1, 2))
    return shares.sum(axis=1) + move

  b = with_move(forms[0], (one, zero))
  c = with_move(forms[1], (zero, one))
  return b, c, forms


def _parts(strength, SS, S0S0, S1S1) -> dict[str, Array]:
  """Computes the shares of ⟨a⟩ = ⟨‖Σ y Λ s‖²⟩ due to centres and axes."""

  def part(X):
    return einsum("tp,tpq,tq->t", strength, X, strength).mean()

  total = part(SS)
  of_centers = part(jnp.broadcast_to(S0S0[None], SS.shape)) / total
  of_axes = part(S1S1) / total
  return {
    "center_part": of_centers,
    "axis_part": of_axes,
    "center_axis_part": 1 - (of_centers + of_axes),
  }


def _controls(
  K: Float[Array, "n n"], b: Float[Array, "T n"], mask: Bool[Array, "P M"]
) -> Float[Array, "T 6"]:
  """Computes functions of the probes with mean zero that correlate with F.

  b are the fields with the signs of the labels, and u = b/σ, with σ² the
  variance of each: standard normal for any labels. They are what single points,
  and single centres, would cost, Σ max(u, 0)² and Σ max(u, 0); and Σ u and Σ u²
  of the points alone.
  """
  present = mask.astype(K.dtype)
  counts = jnp.maximum(present.sum(axis=1), 1)
  share = present / counts[:, None]
  eye = jnp.eye(len(mask), dtype=K.dtype)
  to_centers = (share[:, None] * eye[..., None]).reshape(len(mask), -1)
  lengths = jnp.diagonal(K)
  variances = (matmul(to_centers, K) * to_centers).sum(axis=1)
  # Of a centre at the origin only rounding is left, which fields do not have.
  least = _LEAST_CENTER * (lengths.reshape(mask.shape) * share).sum(axis=1)
  of_points, u, count = _single_costs(b, lengths, jnp.zeros_like(lengths))
  of_centers, _, _ = _single_costs(matmul(b, to_centers.T), variances, least)
  # Sorted by how much they explain beside those before them.
  of_all = [u.sum(axis=1), (u**2).sum(axis=1) - count]
  return jnp.stack([*of_points, *of_centers, *of_all], axis=1)


def _single_costs(
  b: Float[Array, "T k"], variances: Float[Array, " k"], least: Array
) -> tuple[list[Array], Float[Array, "T k"], Float[Array, ""]]:
  """Returns Σ max(u, 0)² and Σ max(u, 0) less their means; u; and their number.

  u = b/σ, and 0 where σ² does not exceed `least`. The means of max(u, 0)² and
  max(u, 0) are 1/2 and 1/√(2π).
  """
  there = variances > least
  scale = jnp.where(there, jax.lax.rsqrt(jnp.where(there, variances, 1)), 0)
  count, u = there.astype(b.dtype).sum(), b * scale[None]
  above = jnp.maximum(u, 0)
  squares = (above**2).sum(axis=1) - count / 2
  return [squares, above.sum(axis=1) - count / (2 * jnp.pi) ** 0.5], u, count


def _of_manifolds(
  a: Float[Array, "T P"],
  b: Float[Array, "T P"],
  c: Float[Array, "T P"],
  totals: Float[Array, "3"],
  controls: Float[Array, "T C"] | None,
) -> dict[str, Array]:
  """Computes each manifold's numbers from its shares of a, b and c.

  The shares are the terms of (St)ᵀ[(SSᵀ)⁺(St)] and the like. The share of a is
  its points' part of F = λᵀb, so that 1/α is the mean of 1/α_μ. They are scaled
  to the `totals`, ⟨a⟩, ⟨b⟩ and ⟨c⟩, of which control variates have less error.
  """

  def scaled(shares, total):
    plain = shares.sum()
    known = plain != 0
    factor = jnp.where(known, total / jnp.where(known, plain, 1), 1)
    return shares * factor, factor

  inverse, error = mean_over_probes(a, controls)
  inverse, factor = scaled(inverse, totals[0])
  error = error * factor
  b, c = (scaled(x.mean(0), t)[0] for x, t in ((b, totals[1]), (c, totals[2])))
  positive = (c > 0) & (b > c)
  squared = jnp.where(positive, c, 1) / jnp.where(positive, b - c, 1)
  return {
    "manifold_capacity": 1 / inverse,
    "manifold_capacity_stderr": error / inverse**2,
    "manifold_dimension": b,
    "manifold_radius": jnp.where(positive, jnp.sqrt(squared), jnp.nan),
    "manifold_utility": c / inverse,
  }


def numbers_of(
  K: Float[Array, "n n"],
  g: Float[Array, "T n"],
  y: Float[Array, "T n"],
  lam: Float[Array, "T n"],
  mask: Bool[Array, "P M"],
  reduce_variance: bool,
) -> dict[str, Array]:
  """Computes the numbers of `Glue`, and their errors.

  K are the products of the points, g the Z t of each sample, y its labels, one
  for each point, and lam its multipliers.
  """
  (P, M), T = mask.shape, len(g)

  def shares_of_a(signed):
    terms = 2 * signed * g - signed * matmul(signed, K)
    return terms.reshape(T, P, M).sum(axis=2)

  # Equal to λᵀ b at the optimum. The derivative at fixed λ is exact for the
  # sum, but not for a manifold's share, which changes with λ.
  a = shares_of_a(y * jax.lax.stop_gradient(lam)).sum(axis=1)
  a_shares = shares_of_a(y * lam)
  lam = lam.reshape(T, P, M)
  total = lam.sum(axis=2, keepdims=True)
  W = jnp.where(total > 0, lam / jnp.where(total > 0, total, 1), 0)

  def products_of(p):
    rows = jax.lax.dynamic_slice_in_dim(K, p * M, M)
    return (matmul(W[:, p], rows).reshape(T, P, M) * W).sum(axis=2)

  # ⟨s_μ, s_ν⟩ by sample, one manifold at a time.
  SS = jax.lax.map(products_of, jnp.arange(P)).swapaxes(0, 1)
  b, c, (b_shares, c_shares, anchors) = _with_influence(
    W.mean(axis=0), W, SS, K, g
  )
  controls = _controls(K, y * g, mask) if reduce_variance else None
  # The radius needs ⟨b − c⟩, which may be small beside both.
  parts = jnp.stack([a, c, b - c], axis=1)
  a, c, rest = with_less_variance(parts, controls).T
  b = c + rest
  totals = jnp.stack([a.mean(), b.mean(), c.mean()])
  strength = y.reshape(T, P, M)[..., 0] * total[..., 0]
  return {
    "active": (total[..., 0] > 0).mean(axis=0),
    **_of_all(a, b, c, P),
    **_alignments(*anchors),
    **_of_manifolds(a_shares, b_shares, c_shares, totals, controls),
    **_parts(strength, SS, anchors[0], anchors[2]),
  }


def _of_all(a, b, c, P: int) -> dict[str, Array]:
  """Computes the numbers of all P manifolds from a, b and c of each sample."""
  inverse, inverse_error = mean_and_error(a)
  dimension, dimension_error = mean_and_error(b)
  squared, squared_error = ratio_of_means(c, b - c)
  radius = jnp.sqrt(squared)
  utility, utility_error = ratio_of_means(c, a)
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
  }


def _alignments(S0S0, mixed, S1S1) -> dict[str, Array]:
  """Averages products of centres and axes, and their cosines, over pairs."""
  centers, axes = diagonal(S0S0), diagonal(S1S1)
  numbers = {}
  for name, X, rows, columns in (
    ("center", S0S0, centers, centers),
    ("axis", S1S1, axes, axes),
    ("center_axis", mixed, axes, jnp.broadcast_to(centers[None], axes.shape)),
  ):
    numbers[f"{name}_alignment"] = mean_off_diagonal(jnp.abs(X))
    numbers[f"{name}_cosine"] = mean_off_diagonal(_cosines(X, rows, columns))
  return numbers
