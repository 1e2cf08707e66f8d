"""Points that do not fit memory: manifold by manifold, or projected first.

Points that come in blocks of features need nothing of this: their statistics
add up, see `sum_statistics`.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from geomem.geometry.statistics import GramStatistics

_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _means(points, reference):
  return (points - reference[None, None]).mean(axis=1)


@functools.partial(jax.jit, donate_argnums=0)
def _centered(means):
  origin = means.mean(axis=0)
  return means - origin[None], origin


@jax.jit
def _products(points, reference, origin, centers, start):
  own = jax.lax.dynamic_slice_in_dim(centers, start, points.shape[0])
  means = own + origin[None]
  points = points - reference[None, None] - means[:, None]
  within = _dot("pmn,pkn->pmk", points, points)
  return within, _dot("pmn,qn->pmq", points, centers)


def statistics_by_manifold(
  blocks: Callable[[], Iterable[Float[Array | np.ndarray, "m M N"]]],
) -> GramStatistics:
  """Gram statistics of manifolds that come a few at a time.

  Held in memory are one block and the P centres.

  Args:
    blocks: gives the blocks of manifolds, in one order; it is called twice,
      for the centres and for the products.

  Raises:
    ValueError: there are no blocks, they differ in more than their length, or
      a point is not finite.
  """
  shapes, means, reference = set(), [], None
  for block in blocks():
    block = jnp.asarray(block)
    shapes.add(block.shape[1:])
    if len(shapes) > 1 or block.ndim != 3:
      raise ValueError(
        f"A block of manifolds has shape {block.shape}, after others of"
        f" {sorted(shapes)}; [m, M, N] with one M and N was expected."
      )
    if reference is None:
      # An offset that all points share would cost the means their digits.
      reference = block.mean(axis=(0, 1))
    means.append(_means(block, reference))
  if not means:
    raise ValueError("There are no blocks; at least one manifold was expected.")
  starts = np.cumsum([0, *map(len, means)])
  whole = jnp.concatenate(means)
  means.clear()  # All centres are held once from here on.
  _check_finite(whole)
  centers, origin = _centered(whole)
  parts = [
    _products(jnp.asarray(block), reference, origin, centers, start)
    for block, start in zip(blocks(), starts, strict=False)
  ]
  within, cross = (jnp.concatenate(part) for part in zip(*parts, strict=True))
  gram = _dot("pn,qn->pq", centers, centers)
  return GramStatistics(within, cross, gram, jnp.ones(within.shape[:2], bool))


def _check_finite(means: Array) -> None:
  finite = np.asarray(jnp.isfinite(means).all(axis=1))
  if not finite.all():
    raise ValueError(
      f"Manifold {finite.argmin()} has a point that is not finite; look for NaN"
      " or overflow in what gave the points."
    )


def project_points(
  key: Key[Array, ""],
  points: Float[Array | np.ndarray, "*b N"],
  num_features: int,
  *,
  block_size: int = 4096,
) -> Float[Array, "*b d"]:
  """Random projection of points to d features, the habit of the field.

  The d rows of the matrix are Gaussian and of unit norm. Not needed here for
  any N; it is for comparison with numbers that were measured so, and adds an
  error of order 1/√d.

  Args:
    key: for the matrix; the same key gives the same matrix for one N and block.
    points: any leading axes.
    num_features: d.
    block_size: features of the points at a time.
  """
  size = points.shape[-1]
  projected, squares = 0.0, 0.0
  for start in range(0, size, block_size):
    block = points[..., start : start + block_size]
    shape = (num_features, block.shape[-1])
    A = jax.random.normal(jax.random.fold_in(key, start), shape, points.dtype)
    projected += _dot("...n,dn->...d", block, A)
    squares += (A**2).sum(axis=1)
  return projected * jax.lax.rsqrt(squares).reshape(
    (1,) * (points.ndim - 1) + (-1,)
  )
