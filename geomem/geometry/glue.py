"""GLUE: the capacity for a task's labels, correlations included.

Each probe t with labels y of the manifolds poses one joint problem: F(y, t) =
‖t − v‖² with v the nearest vector that has y_μ⟨z, v⟩ ≤ 0 for every point z of
every manifold μ. F is the squared length of the projection of t onto the cone
of the points y z. The multipliers λ give each manifold's anchor s_μ =
Σ λ_i z_i / Σ λ_i, or zero where all its λ_i are zero. With s⁰ the mean anchors,
s¹ = s − s⁰, and S, S⁰, S¹ the matrices of P rows,

  a = (St)ᵀ(SSᵀ)⁺(St) = F,          capacity   α = P / ⟨a⟩
  b = (S¹t)ᵀ(S¹S¹ᵀ)⁺(S¹t),          dimension  D = ⟨b⟩ / P
  c = (S¹t)ᵀ(S⁰S⁰ᵀ + S¹S¹ᵀ)⁺(S¹t),  radius     R = √(⟨c⟩ / ⟨b − c⟩)
                                    utility    Ψ = ⟨c⟩ / ⟨a⟩

so that α = Ψ (1 + R⁻²) / D. N = P/α features separate half of the labellings.
Each form is a sum over manifolds of terms like (St)_μ [(SSᵀ)⁺(St)]_μ. The terms
of one manifold in these formulas with P = 1 give its α_μ, D_μ, R_μ and Ψ_μ, and
1/α and D are the means of 1/α_μ and D_μ.

Points enter only by their products K = Z Zᵀ, and probes as Z t ~ N(0, K).

Sources: Chou, Arend, Wakhloo, Kim, Slatton and Chung, "Neural manifold capacity
captures representation geometry, correlations, and task-efficiency across
species and behaviors", 2024; Wakhloo, Sussman and Chung, Physical Review
Letters 2023.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from geomem.geometry import checks
from geomem.geometry.double import in_double
from geomem.geometry.estimators import mean_over_probes, ratio_of_means
from geomem.geometry.fields import draw_normal, fields_of
from geomem.geometry.glue_doubt import (
  distance_apart,
  is_lost,
  share_rays,
  surrounds_origin,
)
from geomem.geometry.labellings import Labels, draw_labels
from geomem.geometry.linalg import (
  diagonal,
  einsum,
  matmul,
  mean_off_diagonal,
  pseudo_inverse_shares,
)
from geomem.geometry.points import Mask, Points
from geomem.geometry.products import (
  PointProducts,
  in_present_type,
  point_products,
)
from geomem.geometry.qp.signed import default_error, solve_signed
from geomem.geometry.statistics import GramStatistics, times_power

_MAXITER = 1000
_MOST_NOT_UNIQUE = 0.01
_LEAST_CONVERGED = 0.5
# These depend on F alone, which is unique where the anchors are not.
_OF_FORCES = ("capacity", "capacity_stderr", "critical_features")


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


def _parts(strength, SS, S0S0, mixed, S1S1) -> dict[str, Array]:
  """Computes the shares of ⟨a⟩ = ⟨‖Σ y Λ s‖²⟩ due to centres and axes."""
  del mixed  # Its share is what is left of 1.

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


def _of_manifolds(
  a: Float[Array, "T P"], b: Float[Array, "T P"], c: Float[Array, "T P"]
) -> dict[str, Array]:
  """Computes each manifold's numbers from its shares of a, b and c.

  The shares are the terms of (St)ᵀ[(SSᵀ)⁺(St)] and the like. The share of a is
  its points' part of F = λᵀb, so that 1/α is the mean of 1/α_μ.
  """
  inverse, error = mean_over_probes(a)
  b, c = b.mean(axis=0), c.mean(axis=0)
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
  b, c, (b_shares, c_shares, of_anchors) = _with_influence(
    W.mean(axis=0), W, SS, K, g
  )
  strength = y.reshape(T, P, M)[..., 0] * total[..., 0]
  return {
    "active": (total[..., 0] > 0).mean(axis=0),
    **_of_all(a, b, c, P),
    **_alignments(*of_anchors),
    **_of_manifolds(a_shares, b_shares, c_shares),
    **_parts(strength, SS, *of_anchors),
  }


def _of_all(a, b, c, P: int) -> dict[str, Array]:
  """Computes the numbers of all P manifolds from a, b and c of each sample."""
  ones = jnp.ones_like(a)
  inverse, inverse_error = ratio_of_means(a, ones)
  dimension, dimension_error = ratio_of_means(b, ones)
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


class Glue(NamedTuple):
  """GLUE of P manifolds; `_stderr` are standard errors over (y, t).

  Attributes:
    capacity: α.
    dimension: D.
    radius: R.
    utility: Ψ.
    critical_features: P/α, features at which half of the labellings separate.
    center_alignment: mean over pairs of |⟨s⁰_μ, s⁰_ν⟩|, in the points' units;
      NaN where it does not fit its type.
    axis_alignment: mean over pairs and samples of |⟨s¹_μ, s¹_ν⟩|.
    center_axis_alignment: mean of |⟨s⁰_μ, s¹_ν⟩|, likewise.
    center_cosine: mean over pairs of cos(s⁰_μ, s⁰_ν), signed.
    axis_cosine: mean over pairs and samples of cos(s¹_μ, s¹_ν).
    center_axis_cosine: mean of cos(s⁰_μ, s¹_ν), likewise.
    center_part: share of ⟨a⟩ = P/α due to the mean anchors alone: with Λ = Σ λ,
      the sum of ⟨y_μ y_ν Λ_μ Λ_ν s⁰_μ·s⁰_ν⟩ over all μ, ν.
    axis_part: share due to s¹_μ·s¹_ν, likewise.
    center_axis_part: share due to s⁰_μ·s¹_ν and s¹_μ·s⁰_ν; the three parts add
      up to 1.
    active: share of the samples in which a manifold has an anchor.
    manifold_capacity: α_μ of each manifold, 1 / ⟨its share of F⟩, infinite for
      a manifold that never binds; 1/α is the mean of 1/α_μ.
    manifold_dimension: D_μ, likewise; D is their mean. Shares may be negative,
      and have no errors, because the mean anchors come from the same samples.
    manifold_radius: R_μ; NaN where the share of c or of b − c is not positive.
    manifold_utility: Ψ_μ, so that α_μ = Ψ_μ (1 + R_μ⁻²) / D_μ.
    interior: share of the samples in which the points surround the origin: v is
      0, F is ‖t‖² in the span of the points, and anchors are not unique, as
      there are more points than dimensions. Above one in a hundred, all numbers
      above but capacity and critical_features are NaN. It is NaN itself for a
      dead layer. So are they, with `interior` 0, where in more than one sample
      in a hundred a point is active on a ray from the origin on which another
      manifold has a point, or its own one of another length: their shares of λ
      can be exchanged.
    converged: which problems are solved; none of a dead layer, or of points
      that rounding has taken. If fewer than half are, all numbers are NaN.
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
  center_part: Float[Array, "*b"]
  axis_part: Float[Array, "*b"]
  center_axis_part: Float[Array, "*b"]
  active: Float[Array, "*b P"]
  manifold_capacity: Float[Array, "*b P"]
  manifold_capacity_stderr: Float[Array, "*b P"]
  manifold_dimension: Float[Array, "*b P"]
  manifold_radius: Float[Array, "*b P"]
  manifold_utility: Float[Array, "*b P"]
  interior: Float[Array, "*b"]
  converged: Bool[Array, "*b T"]
  residual: Float[Array, "*b"]


@functools.partial(jax.jit, static_argnames="num_probes")
def _glue(key, products, y, num_probes) -> Glue:
  dtype = products.gram.dtype
  solve = functools.partial(
    _solve, tol=default_error(dtype), single=dtype == jnp.float32
  )
  x = draw_normal(key, products, num_probes)
  values, (converged,) = in_double(solve, dtype)(
    (products.parts, x, y), (products.mask, products.exponent)
  )
  for name in ("center_alignment", "axis_alignment", "center_axis_alignment"):
    values[name] = _in_units(values[name], 2 * products.exponent)
  return Glue(**values, converged=converged)


def _in_units(value: Array, exponent: Array) -> Array:
  """Computes 2^exponent times a value ≥ 0; NaN where this does not fit."""
  scaled = times_power(value, exponent)
  lost = (value > 0) & ~(jnp.isfinite(scaled) & (scaled > 0))
  return scaled * jnp.where(lost, jnp.nan, 1)


def _solve(floats, others, tol, single):
  parts, x, y = floats
  products = PointProducts(*parts, *others)
  K, mask = products.raw, products.mask
  g = fields_of(products, x, single)
  signs = jnp.repeat(y, mask.shape[1], axis=1)
  dead = ~(jnp.diagonal(K) > 0).any() | is_lost(products, K)
  dead |= ~mask.any(axis=1).all()  # An empty manifold is refused outside jit.
  # Where nothing is known, λ = 0 solves at once.
  b = jnp.where(mask.reshape(-1)[None] & ~dead, signs * g, -1)
  apart = jax.lax.stop_gradient(distance_apart(K, mask))
  solution = solve_signed(K, b, signs, apart, _MAXITER, tol)
  values = numbers_of(K, g, signs, solution.lam, mask)
  fixed = jax.lax.stop_gradient((products, K, b, solution.lam))
  interior = surrounds_origin(*fixed, signs).mean()
  shared = share_rays(*fixed[:2], fixed[3], signs).mean()
  converged = solution.converged & ~dead
  unsolved = converged.mean() < _LEAST_CONVERGED
  not_unique = unsolved | (jnp.maximum(interior, shared) > _MOST_NOT_UNIQUE)
  for name in values:
    unknown = unsolved if name in _OF_FORCES else not_unique
    # Not by a choice alone, which would make the derivative 0 instead of NaN.
    values[name] = values[name] * jnp.where(unknown, jnp.nan, 1)
  values["interior"] = jnp.where(dead, jnp.nan, interior)
  values["residual"] = solution.residual.max()
  return values, (converged,)


@functools.partial(jax.jit, static_argnames="num_probes")
def _glue_of_pairs(probe_key, label_key, products, pairs, num_probes) -> Glue:
  P, M = products.mask.shape
  points = jnp.arange(P * M).reshape(P, M)

  def one(pair):
    i = points[pair].reshape(-1)
    part = products.of_points(i, products.mask[pair])
    y = draw_labels(label_key, "balanced", num_probes, 2)
    return _glue(probe_key, part, y, num_probes)

  return jax.lax.map(one, pairs)


def glue(
  key: Key[Array, ""],
  points: PointProducts | Points,
  *,
  mask: Mask = None,
  labels: Labels = "balanced",
  tilt: float | None = None,
  num_probes: int = 200,
) -> Glue:
  """Estimates GLUE: capacity, dimension, radius and utility for a task.

  Differentiable in the points, once and in reverse mode; derivatives are NaN
  where points coincide, or where the number itself is NaN. Labels are drawn:
  there is no derivative in `tilt`. For all points, one key draws the same
  labellings, and probes that are as similar as possible: differences between
  layers, epochs and subsets are then due to the manifolds.

  Points may be some 10⁵ times as far from the origin as from each other (10⁴ in
  float64, whose tolerance is less); beyond that, numbers are NaN. In groups of
  manifolds far apart, differences within a group of less than 10⁻⁷ of the
  distance between the groups count as none.

  Args:
    key: split for probes and labels.
    points: `[P, M, N]`, a list of `[M_i, N]`, or their products; uncentred.
    mask: which of the `[P, M]` points are present; all by default.
    labels: `balanced` (half of each sign), `independent`, `one_vs_rest`, or
      signs `[P]` of one labelling: the task. `pairs` measures each pair alone.
    tilt: β; draws labellings about the given one, see `draw_labels`.
    num_probes: T, the number of probes, each with its own labelling. As
      published, s⁰ is a mean over the same probes, so that T of them understate
      D and Ψ by some 1/T of them: more than the errors say if T is below 30.

  Returns:
    The numbers of all manifolds and of each; of `pairs` with a leading axis of
    pairs, in the order of `jnp.triu_indices(P, 1)`.

  Raises:
    ValueError: points of the wrong shape, or not finite (outside jit), or
      GramStatistics; a mask with products, or those of several sets; unknown
      labels; fewer than two manifolds or probes.
  """
  checks.key(key)
  if isinstance(points, GramStatistics):
    raise ValueError(
      "GramStatistics were given, which hold no products of points of different"
      " manifolds; give points, or their point_products."
    )
  if not isinstance(points, PointProducts):
    points = point_products(points, mask=mask)
  elif mask is not None:
    raise ValueError(
      "A mask was given with the products of points, which have their own; give"
      " it to point_products."
    )
  checks.one_set(points.mask)
  points = in_present_type(points)
  num_manifolds = points.mask.shape[0]
  if num_manifolds < 2:
    raise ValueError(
      f"There is {num_manifolds} manifold; labels need at least two."
    )
  checks.count("num_probes", num_probes, least=2)
  probe_key, label_key = jax.random.split(key)
  if isinstance(labels, str) and labels == "pairs":
    if tilt is not None:
      raise ValueError(f"tilt={tilt} was given with pairs; give signs instead.")
    pairs = jnp.stack(jnp.triu_indices(num_manifolds, 1), axis=1)
    return _glue_of_pairs(probe_key, label_key, points, pairs, num_probes)
  y = draw_labels(label_key, labels, num_probes, num_manifolds, tilt)
  return _glue(probe_key, points, y, num_probes)
