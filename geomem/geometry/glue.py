r"""GLUE: the capacity for a task's labels, correlations included.

For probes t and labels y of the manifolds one joint problem each, F(y, t) =
‖t − v‖² with v the nearest vector with y_μ⟨z, v⟩ ≤ 0 for every point z of every
manifold μ: F is the squared length of what t has in the cone of the points y z.
Its multipliers λ give each manifold's anchor s_μ = Σ λ_i z_i / Σ λ_i, the zero
vector where it carries none. With s⁰ the mean anchors, s¹ = s − s⁰, and S, S⁰,
S¹ the matrices of P rows,

  a = (St)ᵀ(SSᵀ)⁺(St) = F,          capacity   α = P / ⟨a⟩
  b = (S¹t)ᵀ(S¹S¹ᵀ)⁺(S¹t),          dimension  D = ⟨b⟩ / P
  c = (S¹t)ᵀ(S⁰S⁰ᵀ + S¹S¹ᵀ)⁺(S¹t),  radius     R = √(⟨c⟩ / ⟨b − c⟩)
                                    utility    Ψ = ⟨c⟩ / ⟨a⟩

so that α = Ψ (1 + R⁻²) / D. N = P/α features separate half of the labellings.

Only products of points enter, of K = Z Zᵀ: the probes as Z t ~ N(0, K).

Sources: Chou, Arend, Wakhloo, Kim, Slatton and Chung, "Neural manifold capacity
captures representation geometry, correlations, and task-efficiency across
species and behaviors", 2024; Wakhloo, Sussman and Chung, Physical Review
Letters 2023.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from geomem.geometry.estimators import ratio_of_means
from geomem.geometry.labellings import Labels, draw_labels
from geomem.geometry.linalg import matmul, pseudo_inverse_form
from geomem.geometry.products import (
  PointProducts,
  draw_fields,
  point_products,
)
from geomem.geometry.qp import solve_signed_qp
from geomem.geometry.statistics import times_power

_MAXITER = 2000


class Glue(NamedTuple):
  """GLUE of P manifolds; numbers with their standard errors over (y, t).

  Attributes:
    capacity: α.
    capacity_stderr: its error.
    dimension: D.
    dimension_stderr: its error.
    radius: R.
    radius_stderr: its error.
    utility: Ψ.
    utility_stderr: its error.
    critical_features: P/α, features at which half of the labellings separate.
    center_alignment: mean over pairs of |⟨s⁰_μ, s⁰_ν⟩|, in the points' units.
    axis_alignment: of |⟨s¹_μ, s¹_ν⟩|.
    center_axis_alignment: of |⟨s⁰_μ, s¹_ν⟩|.
    center_cosine: mean over pairs of cos(s⁰_μ, s⁰_ν), signed.
    axis_cosine: of cos(s¹_μ, s¹_ν), the lengths those of the mean squares.
    center_axis_cosine: of cos(s⁰_μ, s¹_ν), likewise.
    active: share of the samples in which a manifold has an anchor.
    converged: which problems are solved.
    residual: the largest violation of their optimality conditions.
  """

  capacity: Float[Array, "*b"]
  capacity_stderr: Float[Array, "*b"]
  dimension: Float[Array, "*b"]
  dimension_stderr: Float[Array, "*b"]
  radius: Float[Array, "*b"]
  radius_stderr: Float[Array, "*b"]
  utility: Float[Array, "*b"]
  utility_stderr: Float[Array, "*b"]
  critical_features: Float[Array, "*b"]
  center_alignment: Float[Array, "*b"]
  axis_alignment: Float[Array, "*b"]
  center_axis_alignment: Float[Array, "*b"]
  center_cosine: Float[Array, "*b"]
  axis_cosine: Float[Array, "*b"]
  center_axis_cosine: Float[Array, "*b"]
  active: Float[Array, "*b P"]
  converged: Bool[Array, "*b T"]
  residual: Float[Array, "*b"]


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


def _from_multipliers(K, g, y, lam, mask) -> dict[str, Array]:
  """Computes everything from the solutions of all samples."""
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
    "active": active.mean(axis=0),
  }


@functools.partial(jax.jit, static_argnames="num_probes")
def _glue(key, products, y, num_probes) -> Glue:
  K, mask = products.raw, products.mask
  g = draw_fields(key, products, num_probes)
  signs = jnp.repeat(y, mask.shape[1], axis=1).astype(K.dtype)
  b = jnp.where(mask.reshape(-1)[None], signs * g, -1)
  found = solve_signed_qp(K, b, signs, maxiter=_MAXITER)
  values = _from_multipliers(K, g, signs, found.lam, mask)
  for name in ("center_alignment", "axis_alignment", "center_axis_alignment"):
    values[name] = times_power(values[name], 2 * products.exponent)
  # Of a dead layer nothing can be said.
  dead = ~(jnp.diagonal(K) > 0).any()
  values = {n: jnp.where(dead, jnp.nan, x) for n, x in values.items()}
  return Glue(
    **values, converged=found.converged, residual=found.residual.max()
  )


@functools.partial(jax.jit, static_argnames="num_probes")
def _glue_of_pairs(key, products, pairs, num_probes) -> Glue:
  P, M = products.mask.shape
  points = jnp.arange(P * M).reshape(P, M)

  def one(pair):
    i = points[pair].reshape(-1)
    part = PointProducts(
      products.gram[i[:, None], i[None]],
      products.offset[i],
      products.square,
      products.mask[pair],
      products.exponent,
    )
    y = draw_labels(key, "balanced", num_probes, 2)
    return _glue(key, part, y, num_probes)

  return jax.lax.map(one, pairs)


def glue(
  key: Key[Array, ""],
  points: PointProducts | Shaped[Array | np.ndarray, "..."] | Sequence,
  *,
  mask: Bool[Array | np.ndarray, "P M"] | None = None,
  labels: Labels = "balanced",
  tilt: float | None = None,
  num_probes: int = 200,
) -> Glue:
  """Estimates GLUE: capacity, dimension, radius and utility for a task.

  Differentiable in the points. Equal keys, split for probes and labels, draw
  equal labellings, and probes as equal as they can be, whatever the points:
  differences between layers, epochs and subsets are then of the manifolds.

  Args:
    key: for probes and labels.
    points: `[P, M, N]`, a list of `[M_i, N]`, or their products; uncentred.
    mask: which of the `[P, M]` points are there; all by default.
    labels: `balanced` (half of each sign), `independent`, `one_vs_rest`, or
      signs `[P]` of one labelling: the task. `pairs` measures all pairs of
      manifolds, each by itself, and gives every number a leading axis for them.
    tilt: β; labellings about the one that is given, see `draw_labels`.
    num_probes: T, probes with a labelling each.

  Raises:
    ValueError: points of the wrong shape, or not finite (outside jit); labels
      that do not exist; fewer than two manifolds or probes.
  """
  if not isinstance(points, PointProducts):
    points = point_products(points, mask=mask)
  elif mask is not None:
    raise ValueError(
      "A mask was given with the products of points, which have their own; give"
      " it to point_products."
    )
  num_manifolds = points.mask.shape[0]
  if num_manifolds < 2:
    raise ValueError(
      f"There is {num_manifolds} manifold; labels need two at least."
    )
  if num_probes < 2:
    raise ValueError(f"num_probes is {num_probes}; 2 at least were expected.")
  probe_key, label_key = jax.random.split(key)
  if isinstance(labels, str) and labels == "pairs":
    pairs = jnp.stack(jnp.triu_indices(num_manifolds, 1), axis=1)
    return _glue_of_pairs(key, points, pairs, num_probes)
  y = draw_labels(label_key, labels, num_probes, num_manifolds, tilt)
  return _glue(probe_key, points, y, num_probes)
