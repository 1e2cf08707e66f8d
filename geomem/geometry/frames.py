"""Frames: each manifold's M points about its centre, in M coordinates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from geomem.geometry.linalg import (
  NO_SECOND,
  diagonal,
  matmul,
  no_derivative,
  one_by_one,
)
from geomem.geometry.statistics import GramStatistics

# A centre is lost if it is shorter than so many ε of its points, or of others.
LOST = 16


class RelativeGrams(NamedTuple):
  """Gram matrices of P manifolds about their centres, directions removed.

  Attributes:
    grams: in units of the centre's squared norm after the removal.
    lost: relative error of each point's squared length in units of ε, at least
      1: the ratio of the squares before and after the removal, times how much
      larger the centres are than the directions that are formed from them.
    center_left: the share of the centre's squared norm that is left, computed
      about the unweighted mean of the centres.
    rounding: relative error of the Gram matrix due to rounding: ε times the
      factor by which the removal shrinks the squares of the points or of the
      centre, amplified likewise; infinite where the centre has no norm. At
      least the rounding error of the points themselves over what is left.
    error: the squared rounding error of the points, in the unit of the grams.
  """

  grams: Float[Array, "P M M"]
  lost: Float[Array, "P M"]
  center_left: Float[Array, " P"]
  rounding: Float[Array, " P"]
  error: Float[Array, " P"]


class Frames(NamedTuple):
  """Points of P manifolds, relative to the centre and in units of its norm.

  The coordinates come from the symmetric root of the matrix of the points'
  cosines, which changes little when the Gram matrix does: rounding, rotations
  and the order of the features hardly affect the results of probes.

  Attributes:
    points: X with X Xᵀ the Gram matrix, without the last coordinate 1.
    projection: Π, onto the span of the points.
    rank: dimension of that span.
  """

  points: Float[Array, "P M M"]
  projection: Float[Array, "P M M"]
  rank: Float[Array, " P"]


def _ratio(whole: Array, part: Array, smallest: Array) -> Array:
  """Returns whole / part ≥ 1: 1 for whole = 0, else infinite for part = 0."""
  significant = whole > smallest
  positive = part > 0
  ratio = jnp.where(positive, whole / jnp.where(positive, part, 1), jnp.inf)
  return jnp.where(significant, jnp.maximum(ratio, 1), 1)


@jax.custom_jvp
def _inverse_of_one(B: Float[Array, "K K"]) -> Float[Array, "K K"]:
  """Returns the inverse of B = 1, up to rounding, for its derivatives."""
  return 2 * jnp.eye(len(B), dtype=B.dtype) - no_derivative(B, NO_SECOND)


@_inverse_of_one.defjvp
def _inverse_of_one_jvp(primals, tangents):
  inverse = _inverse_of_one(*primals)
  return inverse, -matmul(inverse, matmul(tangents[0], inverse))


def relative_grams(
  stats: GramStatistics, coefficients: Float[Array, "P K"]
) -> RelativeGrams:
  """Removes the directions with coefficients A from all points.

  G_μ = (w_μ − (x_μ A) B⁻¹ (x_μ A)ᵀ) / (C_μμ − (C A)_μ B⁻¹ (C A)_μᵀ) with
  B = Aᵀ C A. For the coefficients of `shared_directions` the directions are
  orthonormal, B = 1, but B still enters the derivative with respect to the
  points at fixed A, because the directions V = C̄ᵀA move with the centres.
  """
  # A multiplies centred centres; centring A instead gives the same products.
  A = coefficients - coefficients.mean(axis=0, keepdims=True)
  CA = matmul(stats.centers, A)
  B = matmul(A.T, CA)
  inverse = _inverse_of_one(B)
  along = matmul(stats.cross, A[None])
  removed = matmul(matmul(along, inverse[None]), along.swapaxes(1, 2))
  norms = jnp.diagonal(stats.centers)
  left = norms - (matmul(CA, inverse) * CA).sum(axis=1)
  eps = jnp.finfo(left.dtype).eps
  # A centre that is zero up to rounding cannot be the unit of length.
  has_center = (left > 4 * eps * norms) & ~center_is_lost(
    stats.within, stats.centers, stats.mask
  )
  unit = jnp.where(has_center, left, 1)
  grams = jnp.where(has_center[:, None, None], stats.within - removed, 0)
  grams = grams / unit[:, None, None]
  # Directions in which the centres differ little are differences of large
  # vectors, which amplifies rounding on single axes by up to this factor. The
  # error of the whole matrix grows with its root: on layers and clouds it is at
  # most five times as large.
  size = jnp.sqrt((A**2).sum() * jnp.trace(stats.centers))
  amplified = jnp.maximum(size, 1)
  squares = diagonal(stats.within)
  smallest = eps**2 * squares.max(axis=1, keepdims=True)
  kept = squares - diagonal(removed)
  lost = amplified * _ratio(squares, kept, smallest)
  points = _ratio(squares.sum(axis=1), kept.sum(axis=1), smallest[:, 0])
  center = jnp.where(has_center, norms / unit, jnp.inf)
  C = center_gram(stats.centers)
  whole = jnp.diagonal(C)
  along_C = matmul(C, A)
  remaining = whole - (matmul(along_C, inverse) * along_C).sum(axis=1)
  # Squares of tiny lengths, which the derivative would take, underflow.
  positive = whole > 0
  unit_whole = jax.lax.stop_gradient(jnp.where(positive, whole, 1))
  share = remaining / unit_whole
  share = share / jnp.where(positive, whole / unit_whole, 1)
  error = points_error(stats)
  square = kept.sum(axis=1) / stats.mask.sum(axis=1).clip(1)
  own = jnp.where(error > 0, error / jnp.maximum(square, 0), 0)
  # A coordinate is rounded to a quarter of ε on average, and errors of many are
  # independent. Numbers are right to their error bars up to .02 of the bound.
  own = jnp.sqrt(own) / 8
  removal = eps * jnp.sqrt(amplified) * jnp.maximum(points, center)
  errors = RelativeGrams(
    grams,
    jnp.where(jnp.isfinite(lost), lost, 1 / eps),
    jnp.clip(share, 0, 1),
    jnp.maximum(removal, own),
    error / unit,
  )
  known = jax.lax.stop_gradient(errors)
  return known._replace(grams=grams, center_left=errors.center_left)


def center_is_lost(
  within: Float[Array | np.ndarray, "P M M"],
  centers: Float[Array | np.ndarray, "P P"],
  mask: Bool[Array | np.ndarray, "P M"],
) -> Bool[Array | np.ndarray, " P"]:
  """Returns which centres equal the mean of all points up to rounding.

  The rounding error of a centre is a few ε times the length of its points.
  """
  squares = within.diagonal(axis1=1, axis2=2).sum(axis=1)
  size = squares / mask.sum(axis=1).clip(1)
  norms = centers.diagonal()
  tolerance = (LOST * float(jnp.finfo(norms.dtype).eps)) ** 2
  return (norms <= tolerance * size) | (norms <= tolerance * norms.max())


def points_error(stats: GramStatistics) -> Float[Array, "*b P"]:
  """Bounds the squared rounding error of each manifold's points.

  Points are rounded to ε of their distance from the first one, a point of the
  first manifold. If they are so near each other that ε of this is not little,
  they are lost. Points that are all the same have no error.
  """
  squares = diagonal(stats.within)
  at = stats.mask[..., :1, :].argmax(axis=-1)[..., None]
  first = jnp.take_along_axis(squares[..., :1, :], at, axis=-1)[..., 0]
  squares, norms = squares.max(axis=-1), jnp.sqrt(diagonal(stats.centers))
  first = norms[..., :1] + jnp.sqrt(first)
  error = (jnp.finfo(norms.dtype).eps * (norms + first)) ** 2
  return jnp.where(squares > 0, error, 0)


def center_gram(centers: Float[Array, "*b P P"]) -> Float[Array, "*b P P"]:
  """Returns the Gram matrix of the centres about their own, unweighted mean."""
  centers = centers - centers.mean(axis=-2, keepdims=True)
  return centers - centers.mean(axis=-1, keepdims=True)


def eigenvalue_rounding(
  size: int, largest: Float[Array, "..."]
) -> Float[Array, "..."]:
  """Bounds the rounding error of a zero eigenvalue of M = `size` cosines.

  The bound is 2 √M ε times the largest eigenvalue: three times the error
  measured for Gram matrices of rank 1 to 40, M = 10 to 200, N = 5 to 50,000.
  """
  return 2 * size**0.5 * jnp.finfo(largest.dtype).eps * largest


def _spectrum(cosines, lost):
  """Returns eigenvalues' roots, eigenvectors, and which axes have variance."""
  values, vectors = one_by_one(jnp.linalg.eigh, cosines)
  largest = jnp.maximum(values[:, -1:], lost[:, None])
  real = values > eigenvalue_rounding(cosines.shape[-1], largest)
  return jnp.sqrt(jnp.where(real, values, 0)), vectors, real


@jax.custom_jvp
def roots_and_projections(
  grams: Float[Array, "P M M"], lost: Float[Array, " P"]
) -> tuple[Float[Array, "P M M"], Float[Array, "P M M"]]:
  """Returns Gram matrices' symmetric roots X and projections on their ranges.

  Their entries are of order one, with errors of `lost` ≥ 1 units of ε.
  """
  grams = no_derivative(grams, NO_SECOND)
  roots, vectors, real = _spectrum(grams, lost)
  across = vectors.swapaxes(1, 2)
  ones = real.astype(grams.dtype)
  return tuple(matmul(vectors * x[:, None], across) for x in (roots, ones))


@roots_and_projections.defjvp
def _roots_and_projections_jvp(primals, tangents):
  """Solves X dX + dX X = dG; the range rotates into the null space of G.

  Unlike derivatives of eigenvectors, these exist where eigenvalues coincide.
  """
  roots, V, real = _spectrum(*jax.lax.stop_gradient(primals))
  X, projection = roots_and_projections(*primals)
  null = jnp.eye(X.shape[-1], dtype=X.dtype)[None] - projection
  # The equation leaves the null space's own block open: it stays zero.
  sums = roots[:, :, None] + roots[:, None, :]
  sums = jnp.where(real[:, :, None] | real[:, None, :], sums, 1)

  def own_block(Y):
    return matmul(null, matmul(Y, null))

  def product(Y):
    return matmul(X, Y) + matmul(Y, X) + own_block(Y)

  def invert(_, Y):
    across = V.swapaxes(1, 2)
    return matmul(V, matmul(matmul(across, matmul(Y, V)) / sums, across))

  def solve(Y):
    return jax.lax.custom_linear_solve(product, Y, invert, symmetric=True)

  root_change = solve(tangents[0] - own_block(tangents[0]))
  # As X Π = X, the part N dX of dX in the null space is dΠ X.
  turn = solve(matmul(null, root_change))
  return (X, projection), (root_change, turn + turn.swapaxes(1, 2))


def make_frames(
  relative: RelativeGrams, padded: Bool[Array, "P M"] | None = None
) -> Frames:
  """Makes frames from Gram matrices and their errors.

  Given which points are present as `padded`, axes without variance count as
  dimensions, so that D = M.
  """
  grams, lost, error = relative.grams, relative.lost, relative.error
  # Takes the root of the cosines, because one long point or one large feature
  # would hide the axes of the others in the rounding of the largest eigenvalue.
  squares = diagonal(grams)
  eps, size = jnp.finfo(grams.dtype).eps, grams.shape[-1]
  largest = squares.max(axis=1, keepdims=True)
  # A point closer than this to the centre coincides with it up to rounding.
  floor = jnp.maximum((32 * eps) ** 2 * largest, 4 * eps * lost * squares)
  # The mean of M points errs by √M times as much as each of them: measured.
  error = error[:, None] * (1 + size) / 8
  floor = jnp.maximum(floor, 128**2 * error)
  floor = jnp.where(largest > 0, floor, 1)
  lengths = jnp.sqrt(jnp.maximum(squares, jax.lax.stop_gradient(floor)))
  # A zero eigenvalue rises by at most the sum of the squared errors, which
  # `eigenvalue_rounding` makes of this.
  raised = jnp.where(squares > 0, error / lengths**2, 0)
  raised = jax.lax.stop_gradient(raised) * size**0.5 / (2 * eps)
  cosines = grams / (lengths[:, :, None] * lengths[:, None, :])
  roots, projection = roots_and_projections(
    cosines, (lost + raised).mean(axis=1)
  )
  points = lengths[:, :, None] * roots
  if padded is not None:
    projection = jnp.eye(size, dtype=grams.dtype)[None] * padded[..., None]
  rank = jax.lax.stop_gradient(jnp.trace(projection, axis1=1, axis2=2))
  return Frames(points, projection, jnp.round(rank))
