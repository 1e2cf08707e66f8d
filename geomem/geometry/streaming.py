"""Points that do not fit in memory: manifold by manifold, or projected first.

Points in blocks of features need none of this: their statistics add up, see
`sum_statistics`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from geomem.geometry import checks
from geomem.geometry.arrays import (
  DLPackArray,
  as_array,
  as_reals,
  host_difference,
  is_wide,
)
from geomem.geometry.linalg import einsum
from geomem.geometry.points import (
  as_floats,
  as_points,
  check_distances,
  check_finite,
  unit_exponent,
)
from geomem.geometry.statistics import (
  OF_NOTHING,
  GramStatistics,
  products_about_means,
)


class _Blocks:
  """Blocks of manifolds relative to the first point, in one unit.

  Both passes share the reference, and so see the same points. The first knows
  the unit of the second only at its end, and takes one for each block.
  """

  def __init__(self, blocks: Callable[[], Iterable]):
    self._blocks = blocks
    self._reference = None
    self.exponent = 0
    self.is_zero = False

  def means(self) -> list[Array]:
    """Returns the centres of each block, and fixes the unit."""
    means, units, largest = [], [], []
    for block in self._moved_blocks():
      on_host = isinstance(block, np.ndarray)
      largest.append(float(abs(block).max()) if on_host else _largest(block))
      dtype = jnp.result_type(float) if on_host else block.dtype
      units.append(unit_exponent(largest[-1], dtype))
      means.append(_scaled(block, units[-1]).mean(axis=1))
    if not means:
      raise ValueError(
        "There are no blocks; at least one manifold was expected."
      )
    of_all = max(map(float, largest))
    check_distances(of_all)
    self.is_zero = of_all == 0
    self.exponent = int(unit_exponent(of_all, means[0].dtype))
    units = [self.exponent - unit for unit in units]
    return list(map(_scaled, means, units))

  def __iter__(self) -> Iterator[Array]:
    for block in self._moved_blocks():
      yield _scaled(block, self.exponent)

  def _moved_blocks(self) -> Iterator[Array | np.ndarray]:
    """Yields blocks relative to the first point; wide ones on the host."""
    shapes, first = set(), 0
    blocks = self._blocks()
    if not isinstance(blocks, Iterable):
      raise ValueError(
        f"A call for the blocks gave {type(blocks).__name__}; the blocks"
        " [m, M, N] of manifolds were expected, in a list or a generator."
      )
    for block in map(as_array, blocks):
      checks.known("statistics_by_manifold", block)
      shapes.add(np.shape(block)[1:])
      if len(shapes) > 1 or np.ndim(block) != 3:
        raise ValueError(
          f"A block of manifolds has shape {np.shape(block)}, after others of"
          f" {sorted(shapes)}; [m, M, N] with one M and N was expected."
        )
      block, mask = as_points(block)
      if not mask.all():
        raise ValueError(
          "A mask hides points of a block; blocks in which all points are"
          " present were expected. Leave out some points of every manifold, so"
          " that all have equally many."
        )
      check_finite(block, mask, first)
      first += len(block)
      if self._reference is None:
        self._reference = block[:1, :1]
      yield self._moved(block)

  def _moved(self, block) -> Array | np.ndarray:
    reference = self._reference
    # In one type of both, the reference could be rounded to another point.
    if is_wide(block) or block.dtype != reference.dtype:
      return host_difference(np.asarray(block), np.asarray(reference))
    # `as_floats` takes the first point as its reference.
    reference = jnp.broadcast_to(jnp.asarray(reference), (1, *block.shape[1:]))
    both = jnp.concatenate([reference, jnp.asarray(block)])
    return as_floats(both, jnp.ones(both.shape[:2], bool))[1:]


@jax.jit
def _largest(block):
  return jnp.abs(block).max()


def _scaled(block, exponent) -> Array:
  """Returns 2^−exponent times the points, on the device."""
  scale = np.ldexp if isinstance(block, np.ndarray) else jnp.ldexp
  return jnp.asarray(scale(block, -exponent))


@functools.partial(jax.jit, donate_argnums=0)
def _centered(means):
  origin = means.mean(axis=0)
  return means - origin[None], origin


@jax.jit
def _products(points, origin, centers, start):
  """Computes products, and whether the centres are still the same."""
  block_centers = jax.lax.dynamic_slice_in_dim(centers, start, points.shape[0])
  before, means = block_centers + origin[None], points.mean(axis=1)
  # A mean of M points errs by at most M ε of their size.
  size = sum(jnp.abs(x).max() for x in (points, origin, block_centers))
  rounding = (points.shape[1] + 8) * jnp.finfo(points.dtype).eps * size
  same = jnp.abs(means - before).max() <= rounding
  mask = jnp.ones(points.shape[:2], bool)
  within, cross = products_about_means(points, mask, means, centers)
  return within, cross, same


def statistics_by_manifold(
  blocks: Callable[[], Iterable[Shaped[Array | np.ndarray, "m M N"]]],
) -> GramStatistics:
  """Computes Gram statistics of manifolds that come a few at a time.

  Memory holds one block and the P centres at a time.

  Args:
    blocks: returns the blocks of manifolds, of any real dtype, in one order;
      it is called twice, for the centres and for the products.

  Raises:
    ValueError: there are no blocks, they differ in more than their length, a
      point is hidden or not finite, their distances overflow, or the second
      call returns other points; or they are traced, as their number is not
      known under jit.
  """
  if not callable(blocks):
    raise ValueError(
      f"{type(blocks).__name__} was given; a function that returns the blocks"
      " was expected, as it is called twice."
    )
  passes = _Blocks(blocks)
  means = passes.means()
  lengths = [len(x) for x in means]
  all_means = jnp.concatenate(means)
  means.clear()  # From here on, memory holds the centres once.
  centers, origin = _centered(all_means)
  parts, start = [], 0
  for block in passes:
    if [len(x) for x, _ in parts] + [len(block)] != lengths[: len(parts) + 1]:
      raise _changed(f"a block of {len(block)} manifolds came out of order")
    within, cross, same = _products(block, origin, centers, start)
    if not same:
      raise _changed("the points differ")
    parts.append((within, cross))
    start += len(block)
  if start != len(centers):
    raise _changed(f"there are {start} manifolds, not {len(centers)},")
  within, cross = (jnp.concatenate(part) for part in zip(*parts, strict=True))
  gram = einsum("pn,qn->pq", centers, centers)
  mask = jnp.ones(within.shape[:2], bool)
  exponent = OF_NOTHING if passes.is_zero else passes.exponent
  return GramStatistics(within, cross, gram, mask, jnp.int32(exponent))


def _changed(what: str) -> ValueError:
  return ValueError(
    f"The blocks changed between two calls: {what} the second time. Give a"
    " function that yields the same blocks in the same order at every call."
  )


def project_points(
  key: Key[Array, ""],
  points: Shaped[Array | np.ndarray, "*b N"] | DLPackArray,
  num_features: int,
  *,
  block_size: int = 4096,
) -> Float[Array, "*b d"]:
  """Projects points to d random directions, as is customary in the field.

  The d rows of the matrix are Gaussian and of unit norm. This
  package does not need it for any N: it is for comparison with numbers measured
  in this way, and adds an error of order 1/√d.

  Args:
    key: for the matrix; the same key gives the same matrix for one N and block.
    points: any leading axes and any real dtype. Subtract a large offset first:
      it would be projected as well, in JAX's precision.
    num_features: d.
    block_size: features of the points at a time.

  Raises:
    ValueError: d or the block is not positive, or the points are not real
      numbers, have no features, or are hidden in part.
  """
  checks.key(key)
  checks.counts(num_features=num_features, block_size=block_size)
  array = as_array(points)
  if np.ma.is_masked(array):
    raise ValueError(
      "A mask hides some of the points; leave these out, or fill in what is"
      " missing."
    )
  if isinstance(array, np.ma.MaskedArray):
    array = array.data
  points = as_reals(array, points)
  if points.ndim == 0 or points.shape[-1] == 0:
    raise ValueError(
      f"The points have shape {points.shape}; [..., N] was expected, with at"
      " least one feature."
    )
  # Half precision cannot hold sums of many products.
  dtype = jax.dtypes.canonicalize_dtype(points.dtype)
  dtype = jnp.promote_types(dtype, jnp.float32)
  size = points.shape[-1]
  projected, squares = 0.0, 0.0
  for start in range(0, size, block_size):
    block = points[..., start : start + block_size]
    if is_wide(block):  # JAX's integers may be too narrow, its floats are not.
      block = block.astype(np.float64)
    block = jnp.asarray(block, dtype)
    shape = (num_features, block.shape[-1])
    A = jax.random.normal(jax.random.fold_in(key, start), shape, dtype)
    projected += einsum("...n,dn->...d", block, A)
    squares += (A**2).sum(axis=1)
  scale = jax.lax.rsqrt(squares)
  return projected * scale.reshape((1,) * (points.ndim - 1) + (-1,))
