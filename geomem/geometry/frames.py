"""Frames: each manifold's points about its centre, in as few axes as points."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from geomem.geometry.statistics import GramStatistics

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Frames(NamedTuple):
  """Points of P manifolds, relative to the centre and in units of its norm.

  The coordinates are those of the symmetric root of the Gram matrix, which
  changes little where the Gram matrix does: rounding, rotations and the order
  of the features leave what probes find as it is.

  Attributes:
    points: X with X Xᵀ the Gram matrix, without the last coordinate 1.
    projection: Π, onto the span of the points.
    rank: its dimension.
  """

  points: Float[Array, "P M M"]
  projection: Float[Array, "P M M"]
  rank: Float[Array, " P"]


def relative_grams(
  stats: GramStatistics, coefficients: Float[Array, "P K"]
) -> Float[Array, "P M M"]:
  """Gram matrices of the points about their centres, in units of its norm.

  (w_μ − (x_μ A)(x_μ A)ᵀ) / (C_μμ − ‖(C A)_μ‖²), after the directions with
  coefficients A have been removed from all points.
  """
  # A counts centred centres; centring it does the same for the products.
  A = coefficients - coefficients.mean(axis=0, keepdims=True)
  along = _dot(stats.cross, A[None])
  removed = _dot(along, along.swapaxes(1, 2))
  norms = jnp.diagonal(stats.centers)
  left = norms - (_dot(stats.centers, A) ** 2).sum(axis=1)
  # A centre of no norm has no unit: the frame says so by being huge.
  tiny = jnp.finfo(left.dtype).eps * norms.max() + jnp.finfo(left.dtype).tiny
  return (stats.within - removed) / jnp.maximum(left, tiny)[:, None, None]


def _spectrum(gram):
  """Roots of the eigenvalues, eigenvectors, and which axes have variance."""
  values, vectors = jnp.linalg.eigh(gram)
  eps = jnp.finfo(gram.dtype).eps
  real = values > 10 * len(gram) * eps * values[-1]
  return jnp.sqrt(jnp.where(real, values, 0)), vectors, real


@jax.custom_jvp
def root_and_projection(
  gram: Float[Array, "M M"],
) -> tuple[Float[Array, "M M"], Float[Array, "M M"]]:
  """Symmetric root X of a Gram matrix, and the projection on its range."""
  roots, vectors, real = _spectrum(gram)
  root = _dot(vectors * roots[None], vectors.T)
  return root, _dot(vectors * real.astype(gram.dtype)[None], vectors.T)


@root_and_projection.defjvp
def _root_and_projection_jvp(primals, tangents):
  """X dX + dX X = dG, and the range turns with the null space of G.

  Unlike the derivatives of eigenvectors, these exist where eigenvalues meet.
  """
  roots, V, real = _spectrum(primals[0])
  change = _dot(V.T, _dot(tangents[0], V))
  sums = roots[:, None] + roots[None, :]
  root_change = jnp.where(sums > 0, change / jnp.where(sums > 0, sums, 1), 0)
  mixed = real[:, None] != real[None, :]
  turn = jnp.where(mixed, change / jnp.where(mixed, sums**2, 1), 0)
  return root_and_projection(primals[0]), tuple(
    _dot(V, _dot(x, V.T)) for x in (root_change, turn)
  )


def make_frames(grams: Float[Array, "P M M"], padded: bool = False) -> Frames:
  """The frames of Gram matrices.

  Args:
    grams: about the centres, from `relative_grams`.
    padded: whether axes without variance count as dimensions, so that D = M.
  """
  points, projection = jax.vmap(root_and_projection)(grams)
  if padded:
    eye = jnp.eye(grams.shape[-1], dtype=grams.dtype)
    projection = jnp.broadcast_to(eye, grams.shape)
  rank = jax.lax.stop_gradient(jnp.trace(projection, axis1=1, axis2=2))
  return Frames(points, projection, jnp.round(rank))
