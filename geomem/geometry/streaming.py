"""Points that do not fit memory: manifold by manifold, or projected first.

Points in blocks of features need none of this: their statistics add up, see
`sum_statistics`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from geomem.geometry.foreign import DLPackArray, as_array
from geomem.geometry.linalg import einsum, grams
from geomem.geometry.points import (
  as_floats,
  as_points,
  check_finite,
  host_difference,
  is_wide,
  unit_exponent,
)
from geomem.geometry.statistics import GramStatistics


class _Blocks:
  """Blocks of manifolds relative to the first point, in one unit.

  Both passes share the reference and the unit, and so see the same points.
  """

  def __init__(self, blocks: Callable[[], Iterable]):
    self._blocks = blocks
    self._reference = None
    self.exponent = 0

  def __iter__(self) -> Iterator[Array]:
    shapes, first = set(), 0
    for block in map(as_array, self._blocks()):
      shapes.add(np.shape(block)[1:])
      if len(shapes) > 1 or np.ndim(block) != 3:
        raise ValueError(
          f"A block of manifolds has shape {np.shape(block)}, after others of"
          f" {sorted(shapes)}; [m, M, N] with one M and N was expected."
        )
      block, mask = as_points(block)
      check_finite(block, mask, first)
      first += len(block)
      yield self._relative(block)

  def _relative(self, block) -> Array:
    if self._reference is None:
      self._reference = block[:1, :1]
      moved = self._moved(block)
      largest = float(abs(moved).max())
      self.exponent = int(unit_exponent(largest, jnp.result_type(float)))
    scale = np.ldexp if is_wide(block) else jnp.ldexp
    return jnp.asarray(scale(self._moved(block), -self.exponent))

  def _moved(self, block):
    if is_wide(block):
      return host_difference(block, np.asarray(self._reference))
    # `as_floats` takes the first point as its reference.
    reference = jnp.broadcast_to(
      jnp.asarray(self._reference), (1, *block.shape[1:])
    )
    both = jnp.concatenate([reference, jnp.asarray(block)])
    return as_floats(both, jnp.ones(both.shape[:2], bool))[1:]


@functools.partial(jax.jit, donate_argnums=0)
def _centered(means):
  origin = means.mean(axis=0)
  return means - origin[None], origin


@jax.jit
def _products(points, origin, centers, start):
  block_centers = jax.lax.dynamic_slice_in_dim(centers, start, points.shape[0])
  points = points - (block_centers + origin[None])[:, None]
  within = grams(points)
  # Zero up to rounding, unless the points differ from those of the first pass.
  drift = jnp.abs(points.mean(axis=1)).max() / jnp.abs(points).max()
  return within, einsum("pmn,qn->pmq", points, centers), drift


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
      point is not finite, or the second call returns other points.
  """
  passes = _Blocks(blocks)
  means = [block.mean(axis=1) for block in passes]
  if not means:
    raise ValueError("There are no blocks; at least one manifold was expected.")
  lengths = [len(x) for x in means]
  all_means = jnp.concatenate(means)
  means.clear()  # From here on, memory holds the centres once.
  centers, origin = _centered(all_means)
  parts, start = [], 0
  for block in passes:
    if [len(x) for x, _ in parts] + [len(block)] != lengths[: len(parts) + 1]:
      raise _changed(f"a block of {len(block)} manifolds came out of order")
    within, cross, drift = _products(block, origin, centers, start)
    if float(drift) > 1e3 * jnp.finfo(within.dtype).eps:
      raise _changed("the points differ")
    parts.append((within, cross))
    start += len(block)
  if start != len(centers):
    raise _changed(f"there are {start} manifolds, not {len(centers)},")
  within, cross = (jnp.concatenate(part) for part in zip(*parts, strict=True))
  gram = einsum("pn,qn->pq", centers, centers)
  mask = jnp.ones(within.shape[:2], bool)
  return GramStatistics(within, cross, gram, mask, jnp.int32(passes.exponent))


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
    ValueError: d or the block is not positive.
  """
  for name, value in (
    ("num_features", num_features),
    ("block_size", block_size),
  ):
    if value < 1:
      raise ValueError(f"{name} is {value}; at least 1 was expected.")
  points = as_array(points)
  size = points.shape[-1]
  projected, squares = 0.0, 0.0
  for start in range(0, size, block_size):
    block = jnp.asarray(points[..., start : start + block_size])
    # Half precision cannot hold sums of many products.
    dtype = jnp.promote_types(jnp.result_type(block, jnp.float32), jnp.float32)
    shape = (num_features, block.shape[-1])
    A = jax.random.normal(jax.random.fold_in(key, start), shape, dtype)
    projected += einsum("...n,dn->...d", block.astype(dtype), A)
    squares += (A**2).sum(axis=1)
  return projected * jax.lax.rsqrt(squares).reshape(
    (1,) * (points.ndim - 1) + (-1,)
  )
