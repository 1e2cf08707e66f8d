"""Products of all pairs of points, from which correlations are computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from geomem.geometry import checks
from geomem.geometry.arrays import host_difference, is_wide
from geomem.geometry.double import in_double
from geomem.geometry.linalg import diagonal, matmul
from geomem.geometry.points import (
  Mask,
  Points,
  as_points,
  check_distances,
  check_finite,
  float_type,
  unit_exponent,
)
from geomem.geometry.statistics import (
  OF_NOTHING,
  feature_blocks,
  nan_unless,
  times_power,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PointProducts:
  """Inner products of n = P M points z, about their mean m and about 0.

  Products of two blocks of features add up to those of all features: `a + b`.
  They take 8 n² bytes in single precision.

  Attributes:
    gram: ⟨z_i − m, z_j − m⟩; rows of missing points are zero.
    offset: ⟨z_i − m, m⟩.
    square: ‖m‖².
    rest: what rounding took off the above, as a matrix with the mean last.
      Directions in which points hardly vary have products that single precision
      loses beside large ones, and GLUE needs them. It has no derivative.
    mask: which of the P · M points are present.
    exponent: products are in units of 4^exponent, as in `GramStatistics`.
  """

  gram: Float[Array, "*b n n"]
  offset: Float[Array, "*b n"]
  square: Float[Array, "*b"]
  rest: Float[Array, "*b n1 n1"]
  mask: Bool[Array, "*b P M"]
  exponent: Int[Array, "*b"]

  def __add__(self, other: "PointProducts") -> "PointProducts":
    """Returns the products of both blocks of features together.

    Raises:
      ValueError: their masks differ. Under jit, only shapes can be compared;
        the products become NaN.
    """
    masks = self.mask, other.mask
    same = masks[0].shape == masks[1].shape
    if not (same and (checks.is_traced(*masks) or np.array_equal(*masks))):
      raise ValueError(
        f"Products of points with masks of shapes {masks[0].shape} and"
        f" {masks[1].shape} were given; equal masks were expected, as products"
        " of the same points in other features have."
      )
    return _add(*map(in_present_type, (self, other)))

  @property
  def parts(self) -> tuple[Array, Array, Array, Array]:
    """The floating-point fields."""
    return self.gram, self.offset, self.square, self.rest

  @property
  def whole(self) -> Float[Array, "*b n1 n1"]:
    """The products of the centred points and, last, their mean."""
    return _whole(self.parts)

  def of_points(self, chosen: Int[Array, " m"], mask) -> "PointProducts":
    """Returns the products of chosen points of the n, about the same mean."""
    with_mean = jnp.append(chosen, len(self.offset))
    return dataclasses.replace(
      self,
      gram=self.gram[chosen[:, None], chosen[None]],
      offset=self.offset[chosen],
      mask=mask,
      rest=self.rest[with_mean[:, None], with_mean[None]],
    )

  @property
  def has_spread(self) -> Bool[Array, "*b"]:
    """Whether points differ from their mean by more than its rounding."""
    eps = jnp.finfo(self.gram.dtype).eps
    largest = diagonal(self.gram).max(axis=-1)
    return largest > (8 * eps) ** 2 * self.square

  @property
  def raw(self) -> Float[Array, "*b n n"]:
    """The products ⟨z_i, z_j⟩ of the uncentred points, in the same unit."""
    A = self.whole
    present = self.mask.reshape(*self.mask.shape[:-2], -1)
    K = (
      A[..., :-1, :-1] + A[..., :-1, -1:] + A[..., -1:, :-1] + A[..., -1:, -1:]
    )
    return jnp.where(present[..., :, None] & present[..., None, :], K, 0)


def product_bytes(num_manifolds: int, num_points: int) -> int:
  """Returns the bytes that the products of P M points take."""
  itemsize = jnp.dtype(jnp.result_type(float)).itemsize
  return 2 * itemsize * (num_manifolds * num_points) ** 2


def _whole(parts) -> Array:
  gram, offset, square, rest = parts
  offset = offset[..., None]
  last = jnp.concatenate([offset, square[..., None, None]], axis=-2)
  rows = jnp.concatenate([gram, offset.swapaxes(-1, -2)], axis=-2)
  return jnp.concatenate([rows, last], axis=-1) + rest


def _rounded(whole, dtype) -> tuple[Array, Array, Array, Array]:
  """Splits products into their values in a dtype and the rest."""
  near = whole.astype(dtype).astype(whole.dtype)
  rest = jax.lax.stop_gradient(whole - near)
  # Not by index, which `in_double` does not allow before JAX 0.8.
  offset = near[..., :-1, -1:].squeeze(-1)
  square = near[..., -1:, -1:].squeeze((-1, -2))
  return near[..., :-1, :-1], offset, square, rest


def in_present_type(products: PointProducts) -> PointProducts:
  """Converts products from where double precision was enabled, if it is not."""
  dtype = products.gram.dtype
  present = jax.dtypes.canonicalize_dtype(dtype)
  return products if dtype == present else _split(products, present)


@functools.partial(jax.jit, static_argnames="dtype")
def _split(products: PointProducts, dtype) -> PointProducts:
  """Splits products into their values in a dtype and the rest, as a whole."""
  split = in_double(lambda x, _: (_rounded(_whole(x), dtype), ()), dtype)
  parts, _ = split(products.parts, ())
  return PointProducts(*parts, products.mask, products.exponent)


@jax.jit
def _add(a: PointProducts, b: PointProducts) -> PointProducts:
  exponent = jnp.maximum(a.exponent, b.exponent)
  dtype = a.gram.dtype
  floats = [
    tuple(times_power(part, 2 * (x.exponent - exponent)) for part in x.parts)
    for x in (a, b)
  ]

  def add(floats, _):
    return _rounded(sum(map(_whole, floats)), dtype), ()

  parts, _ = in_double(add, dtype)(floats, ())
  same = (a.mask == b.mask).all(axis=(-2, -1))
  parts = (nan_unless(same, x) for x in parts)
  return PointProducts(*parts, a.mask, exponent)


@functools.partial(jax.jit, static_argnames="dtype")
def _products(points, origin, nothing, mask, exponent, dtype) -> PointProducts:
  """Computes the products of points given relative to an origin.

  Both are sums of parts, each too small for the digits of the one before.
  `nothing` says which points are 0 in all features.
  """
  there = mask[None, ..., None]
  z = jnp.where(there, points.astype(dtype), 0)
  largest = jnp.maximum(jnp.abs(z).max(), jnp.abs(origin).max())
  unit = jax.lax.stop_gradient(unit_exponent(largest, dtype))
  floats = [times_power(x, -unit) for x in (z, origin)]

  def multiply(floats, others):
    z, origin = (x.sum(axis=0) for x in floats)
    z = z.reshape(-1, z.shape[-1])
    there, nothing = (x.reshape(-1, 1) for x in others)
    # In double precision an offset costs no digits.
    mean = (z / there.sum()).sum(axis=0)
    middle = (mean + origin)[None]
    # Points at 0 are exactly −m, so that their own products cancel; they have
    # the derivatives of others.
    at_zero = (z - jax.lax.stop_gradient(z)) - middle
    x = jnp.where(nothing, at_zero, z - mean[None])
    x = jnp.concatenate([jnp.where(there, x, 0), middle])
    return _rounded(matmul(x, x.T), dtype), ()

  parts, _ = in_double(multiply, dtype)(floats, (mask, nothing))
  unit = jnp.where(largest > 0, exponent + unit, OF_NOTHING)
  return PointProducts(*parts, mask, unit.astype(jnp.int32))


def point_products(
  points: Points, *, mask: Mask = None, block_size: int | None = None
) -> PointProducts:
  """Computes the products of all points of P manifolds with each other.

  Exact sums over features, with (P M)² N multiply-adds in double precision and
  8 (P M)² bytes.

  Args:
    points: `[P, M, N]`, or a list of `[M_i, N]` arrays of unequal length.
    mask: which of the `[P, M]` points are present; all by default.
    block_size: features at a time, to bound the memory of the centred copy.

  Raises:
    ValueError: the points are of the wrong shape, or not finite (outside jit),
      or their distances overflow float64.
  """
  if block_size is not None:
    checks.count("block_size", block_size)
  points, mask = as_points(points, mask)
  check_finite(points, mask)
  if is_wide(points):
    size = block_size or points.shape[2]
    starts = range(0, points.shape[2], size)
    blocks = (points[:, :, start : start + size] for start in starts)
  else:
    blocks = feature_blocks(jnp.asarray(points), block_size)
  return functools.reduce(_add, (_block(block, mask) for block in blocks))


def _in_parts(points, mask, dtype) -> tuple[Array, Array]:
  """Returns points relative to an origin, which `_products` takes, in parts.

  Halves of integers fit their float where the integers do not.
  """
  if not jnp.issubdtype(points.dtype, jnp.integer) or points.dtype.itemsize < 4:
    return points[None], jnp.zeros((1, points.shape[2]), dtype)
  bits = 4 * points.dtype.itemsize
  high = (points >> bits).astype(dtype) * 2.0**bits
  low = (points & points.dtype.type(2**bits - 1)).astype(dtype)
  halves = jnp.stack([high, low])
  flat = halves.reshape(2, -1, points.shape[2])
  origin = jnp.take(flat, mask.ravel().argmax(), axis=1)
  return halves - origin[:, None, None], origin


def _block(points, mask) -> PointProducts:
  dtype = np.dtype(float_type(points))
  nothing = jnp.asarray((points == 0).all(axis=2))
  if not is_wide(points):
    mask, exponent = jnp.asarray(mask), 0
    parts = _in_parts(points, mask, dtype)
    return _products(*parts, nothing, mask, exponent, dtype)
  # Centred and scaled on the host, in float64: an offset would cost digits, and
  # so would a scale out of the range of JAX's dtype.
  mask = np.asarray(mask)
  first = points[tuple(np.argwhere(mask)[0])]
  with np.errstate(over="ignore", invalid="ignore"):
    points = np.where(mask[..., None], host_difference(points, first), 0)
    mean = (points / mask.sum()).sum(axis=(0, 1))
    points = np.where(mask[..., None], points - mean, 0)
    mean = mean + first.astype(np.float64)
  largest = float(max(np.abs(x).max() for x in (points, mean)))
  check_distances(largest)
  exponent = int(unit_exponent(largest, dtype))
  parts = []
  for x in (points, mean):
    x = np.ldexp(x, -exponent)
    near = x.astype(dtype)
    rest = [] if dtype == x.dtype else [(x - near).astype(dtype)]
    parts.append(jnp.asarray(np.stack([near, *rest])))
  return _products(*parts, nothing, jnp.asarray(mask), exponent, dtype)
