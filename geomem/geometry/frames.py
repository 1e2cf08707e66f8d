"""Frames: each manifold's points about its centre, in as few axes as points."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from geomem.geometry.linalg import matmul, one_by_one
from geomem.geometry.statistics import GramStatistics


class RelativeGrams(NamedTuple):
  """Gram matrices of P manifolds about their centres, once directions are gone.

  Attributes:
    grams: in units of the squared norm of what is left of the centre.
    lost: how many ε of itself each point's square is wrong by, at least 1:
      by how much it was larger before directions were removed, times how much
      larger than the directions the centres are that add up to them.
    center_left: the share of the centre's squared norm that is left, as the
      other manifolds' centres see it: about the unweighted mean of the centres.
    rounding: the relative error of the Gram matrix in units of ε times what
      directions have taken, of the points or of the centre; infinite where the
      centre has no norm.
  """

  grams: Float[Array, "P M M"]
  lost: Float[Array, "P M"]
  center_left: Float[Array, " P"]
  rounding: Float[Array, " P"]


class Frames(NamedTuple):
  """Points of P manifolds, relative to the centre and in units of its norm.

  The coordinates are those of the symmetric root of the matrix of the points'
  cosines, which changes little where the Gram matrix does: rounding, rotations
  and the order of the features leave what probes find as it is.

  Attributes:
    points: X with X Xᵀ the Gram matrix, without the last coordinate 1.
    projection: Π, onto the span of the points.
    rank: its dimension.
  """

  points: Float[Array, "P M M"]
  projection: Float[Array, "P M M"]
  rank: Float[Array, " P"]


def _ratio(whole: Array, part: Array, smallest: Array) -> Array:
  """Divides; 1 where both are zero, infinite where nothing is left."""
  some = whole > smallest
  there = part > 0
  ratio = jnp.where(there, whole / jnp.where(there, part, 1), jnp.inf)
  return jnp.where(some, jnp.maximum(ratio, 1), 1)


def relative_grams(
  stats: GramStatistics, coefficients: Float[Array, "P K"]
) -> RelativeGrams:
  """Removes the directions with coefficients A from all points.

  G_μ = (w_μ − (x_μ A) B⁻¹ (x_μ A)ᵀ) / (C_μμ − (C A)_μ B⁻¹ (C A)_μᵀ) with
  B = Aᵀ C A. The directions are orthonormal, B = 1, for the coefficients of
  `shared_directions`; the derivative in the points at fixed A is not that of
  B = 1, as the directions V = C̄ᵀA move with the centres.
  """
  # A counts centred centres; centring it does the same for the products.
  A = coefficients - coefficients.mean(axis=0, keepdims=True)
  CA = matmul(stats.centers, A)
  B = matmul(A.T, CA)
  # B⁻¹ to the square of its distance from 1, and its derivative there.
  inverse = 2 * jnp.eye(len(B), dtype=B.dtype) - B
  along = matmul(stats.cross, A[None])
  removed = matmul(matmul(along, inverse[None]), along.swapaxes(1, 2))
  norms = jnp.diagonal(stats.centers)
  left = norms - (matmul(CA, inverse) * CA).sum(axis=1)
  eps = jnp.finfo(left.dtype).eps
  # Nothing in units of what rounding left of a centre would be a number.
  there = (left > 4 * eps * norms) & ~center_is_lost(
    stats.within, stats.centers, stats.mask
  )
  unit = jnp.where(there, left, 1)
  grams = jnp.where(there[:, None, None], stats.within - removed, 0)
  grams = grams / unit[:, None, None]
  # Directions in which the centres differ little are differences of large ones:
  # so much larger may axes of rounding be. Of the whole matrix rounding grows
  # with the root of that: on layers and clouds at most five times as large.
  size = jnp.sqrt((A**2).sum() * jnp.trace(stats.centers))
  amplified = jnp.maximum(size, 1)
  squares = jnp.diagonal(stats.within, axis1=1, axis2=2)
  smallest = eps**2 * squares.max(axis=1, keepdims=True)
  kept = squares - jnp.diagonal(removed, axis1=1, axis2=2)
  lost = amplified * _ratio(squares, kept, smallest)
  points = _ratio(squares.sum(axis=1), kept.sum(axis=1), smallest[:, 0])
  center = jnp.where(there, norms / unit, jnp.inf)
  C = center_gram(stats.centers)
  own = jnp.diagonal(C) - (matmul(C, A) ** 2).sum(axis=1)
  share = own / jnp.where(jnp.diagonal(C) > 0, jnp.diagonal(C), 1)
  return RelativeGrams(
    grams,
    jax.lax.stop_gradient(jnp.where(jnp.isfinite(lost), lost, 1 / eps)),
    jax.lax.stop_gradient(jnp.clip(share, 0, 1)),
    jax.lax.stop_gradient(
      eps * jnp.sqrt(amplified) * jnp.maximum(points, center)
    ),
  )


def center_is_lost(
  within: Float[Array | np.ndarray, "P M M"],
  centers: Float[Array | np.ndarray, "P P"],
  mask: Bool[Array | np.ndarray, "P M"],
) -> Bool[Array | np.ndarray, " P"]:
  """Tells whose centre is at the mean of all points, as far as can be known.

  A centre is known to some ε of the points that it is the mean of.

  Args:
    within: of the statistics, like the others.
    centers: Gram matrix of the centres.
    mask: which points are there.
  """
  squares = within.diagonal(axis1=1, axis2=2).sum(axis=1)
  size = squares / mask.sum(axis=1).clip(1)
  norms = centers.diagonal()
  known = (16 * float(jnp.finfo(norms.dtype).eps)) ** 2
  return (norms <= known * size) | (norms <= known * norms.max())


def center_gram(centers: Float[Array, "P P"]) -> Float[Array, "P P"]:
  """Returns the Gram matrix of the centres about their own, unweighted mean."""
  centers = centers - centers.mean(axis=0, keepdims=True)
  return centers - centers.mean(axis=1, keepdims=True)


def eigenvalue_rounding(
  size: int, largest: Float[Array, "..."]
) -> Float[Array, "..."]:
  """Bounds what rounding makes of a zero eigenvalue of a matrix of cosines.

  2 √M ε times the largest eigenvalue: three times what was measured for Gram
  matrices of rank 1 to 40 with M = 10 to 200, N = 5 to 50,000.

  Args:
    size: M, rows of the matrix.
    largest: its largest eigenvalue.
  """
  return 2 * size**0.5 * jnp.finfo(largest.dtype).eps * largest


def _spectrum(cosines, lost):
  """Roots of the eigenvalues, eigenvectors, and which axes have variance."""
  values, vectors = jnp.linalg.eigh(cosines)
  largest = jnp.maximum(values[-1], lost)
  real = values > eigenvalue_rounding(len(cosines), largest)
  return jnp.sqrt(jnp.where(real, values, 0)), vectors, real


@jax.custom_jvp
def root_and_projection(
  gram: Float[Array, "M M"], lost: Float[Array, ""]
) -> tuple[Float[Array, "M M"], Float[Array, "M M"]]:
  """Returns the symmetric root X of a Gram matrix and its range's projection.

  Args:
    gram: positive semidefinite, with entries of order one.
    lost: how many ε its entries are wrong by, at least 1.
  """
  roots, vectors, real = _spectrum(gram, lost)
  root = matmul(vectors * roots[None], vectors.T)
  return root, matmul(vectors * real.astype(gram.dtype)[None], vectors.T)


@root_and_projection.defjvp
def _root_and_projection_jvp(primals, tangents):
  """Solves X dX + dX X = dG; the range turns with the null space of G.

  Unlike the derivatives of eigenvectors, these exist where eigenvalues meet.
  """
  roots, V, real = _spectrum(*primals)
  change = matmul(V.T, matmul(tangents[0], V))
  sums = roots[:, None] + roots[None, :]
  root_change = jnp.where(sums > 0, change / jnp.where(sums > 0, sums, 1), 0)
  mixed = real[:, None] != real[None, :]
  turn = jnp.where(mixed, change / jnp.where(mixed, sums**2, 1), 0)
  return root_and_projection(*primals), tuple(
    matmul(V, matmul(x, V.T)) for x in (root_change, turn)
  )


def _frame(gram: Array, lost: Array) -> tuple[Array, Array]:
  """Coordinates of the points, and the projection onto their span.

  The root is that of the cosines: one long point, or one large feature, would
  hide the axes of the others in the rounding of the largest eigenvalue.
  """
  squares = jnp.diagonal(gram)
  eps = jnp.finfo(gram.dtype).eps
  # Below this a point is at the centre, to rounding.
  floor = jnp.maximum((32 * eps) ** 2 * squares.max(), 4 * eps * lost * squares)
  floor = jnp.where(squares.max() > 0, floor, 1)
  lengths = jnp.sqrt(jnp.maximum(squares, jax.lax.stop_gradient(floor)))
  cosines = gram / (lengths[:, None] * lengths[None, :])
  root, projection = root_and_projection(cosines, lost.mean())
  return lengths[:, None] * root, projection


def make_frames(
  grams: Float[Array, "P M M"],
  lost: Float[Array, "P M"],
  padded: bool = False,
) -> Frames:
  """Makes frames of Gram matrices.

  Args:
    grams: about the centres, from `relative_grams`.
    lost: likewise.
    padded: whether axes without variance count as dimensions, so that D = M.
  """
  points, projection = one_by_one(_frame, grams, lost)
  if padded:
    eye = jnp.eye(grams.shape[-1], dtype=grams.dtype)
    projection = jnp.broadcast_to(eye, grams.shape)
  rank = jax.lax.stop_gradient(jnp.trace(projection, axis1=1, axis2=2))
  return Frames(points, projection, jnp.round(rank))
