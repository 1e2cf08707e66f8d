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
from geomem.geometry.fields import draw_normal, fields_of
from geomem.geometry.glue_doubt import (
  in_other_manifolds,
  is_lost,
  share_faces,
  share_rays,
  surrounds_origin,
)
from geomem.geometry.glue_numbers import numbers_of
from geomem.geometry.labellings import Labels, draw_labels
from geomem.geometry.points import Mask, Points
from geomem.geometry.products import (
  PointProducts,
  in_present_type,
  point_products,
)
from geomem.geometry.qp.signed import (
  default_error,
  distance_apart,
  solve_signed,
)
from geomem.geometry.statistics import GramStatistics, times_power

_MAXITER = 1000
_MOST_NOT_UNIQUE = 0.01
# An unsolved problem understates F, which the standard errors do not contain.
_MOST_UNSOLVED = 0.01
# Of F alone, which is unique where the anchors are not.
_OF_FORCES = ("capacity", "capacity_stderr", "critical_features")


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
      manifold has a point, or its own one of another length, or more points
      touch the hyperplane v than are linearly independent, as where some
      manifolds surround the origin in features of their own: shares of λ can be
      exchanged. Affine combinations of points of one manifold do no harm.
    converged: which problems are solved; none of a dead layer, or of points
      that rounding has taken. If more than one, and more than 1% of them, are
      not, all numbers are NaN.
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


@functools.partial(jax.jit, static_argnames=("num_probes", "reduce_variance"))
def _glue(key, products, y, num_probes, reduce_variance) -> Glue:
  dtype = products.gram.dtype
  solve = functools.partial(
    _solve,
    tol=default_error(dtype),
    single=dtype == jnp.float32,
    reduce_variance=reduce_variance,
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


def _too_few(converged: Bool[Array, " T"]) -> Bool[Array, ""]:
  """Tells whether more than one problem, and more than 1%, are not solved."""
  most = max(1, int(_MOST_UNSOLVED * len(converged) + 1e-9))
  # In floats: JAX before 0.8 gives integers two widths in `in_double`.
  return (~converged).astype(jnp.float32).sum() > most


def _solve(floats, others, tol, single, reduce_variance):
  parts, x, y = floats
  products = PointProducts(*parts, *others)
  K, mask = products.raw, products.mask
  g = fields_of(products, x, single)
  signs = jnp.repeat(y, mask.shape[1], axis=1)
  dead = ~(jnp.diagonal(K) > 0).any() | is_lost(products, K)
  dead |= ~mask.any(axis=1).all()  # An empty manifold is refused outside jit.
  # Where nothing is known, λ = 0 solves at once.
  b = jnp.where(mask.reshape(-1)[None] & ~dead, signs * g, -1)
  apart = jax.lax.stop_gradient(distance_apart(K, in_other_manifolds(mask)))
  solution = solve_signed(K, b, signs, apart, _MAXITER, tol)
  values = numbers_of(K, g, signs, solution.lam, mask, reduce_variance)
  fixed = jax.lax.stop_gradient((products, K, b, solution.lam))
  interior = surrounds_origin(*fixed, signs).mean()
  shared = share_rays(*fixed[:2], fixed[3], signs)
  shared = (shared | share_faces(*fixed, signs)).mean()
  converged = solution.converged & ~dead
  unsolved = _too_few(converged)
  not_unique = unsolved | (jnp.maximum(interior, shared) > _MOST_NOT_UNIQUE)
  for name in values:
    unknown = unsolved if name in _OF_FORCES else not_unique
    # Not by a choice alone, which would make the derivative 0 instead of NaN.
    values[name] = values[name] * jnp.where(unknown, jnp.nan, 1)
  values["interior"] = jnp.where(dead, jnp.nan, interior)
  values["residual"] = solution.residual.max()
  return values, (converged,)


@functools.partial(jax.jit, static_argnames=("num_probes", "reduce_variance"))
def _glue_of_pairs(
  probe_key, label_key, products, pairs, num_probes, reduce_variance
) -> Glue:
  P, M = products.mask.shape
  points = jnp.arange(P * M).reshape(P, M)

  def one(pair):
    i = points[pair].reshape(-1)
    part = products.of_points(i, products.mask[pair])
    y = draw_labels(label_key, "balanced", num_probes, 2)
    return _glue(probe_key, part, y, num_probes, reduce_variance)

  return jax.lax.map(one, pairs)


def glue(
  key: Key[Array, ""],
  points: PointProducts | Points,
  *,
  mask: Mask = None,
  labels: Labels = "balanced",
  tilt: float | None = None,
  num_probes: int = 200,
  reduce_variance: bool = True,
) -> Glue:
  """Estimates GLUE: capacity, dimension, radius and utility for a task.

  Differentiable in the points, once and in reverse mode; derivatives are NaN
  where points coincide or the number is NaN, and a point at the origin is taken
  to stay there. Labels are drawn: there is no derivative in `tilt`. For all
  points, one key draws the same labellings, and probes that are as similar as
  possible: differences between layers, epochs and subsets are then due to the
  manifolds.

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
    reduce_variance: whether functions of the probes with known means reduce
      the errors, from 48 probes on; they add no bias to α, and to the other
      numbers less than the 1/T above.

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
  checks.flag("reduce_variance", reduce_variance)
  probe_key, label_key = jax.random.split(key)
  if isinstance(labels, str) and labels == "pairs":
    if tilt is not None:
      raise ValueError(f"tilt={tilt} was given with pairs; give signs instead.")
    pairs = jnp.stack(jnp.triu_indices(num_manifolds, 1), axis=1)
    return _glue_of_pairs(
      probe_key, label_key, points, pairs, num_probes, reduce_variance
    )
  y = draw_labels(label_key, labels, num_probes, num_manifolds, tilt)
  return _glue(probe_key, points, y, num_probes, reduce_variance)
