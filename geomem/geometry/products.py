"""Products of all points with each other: what correlations are made of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from geomem.geometry.linalg import matmul
from geomem.geometry.points import (
  Mask,
  Points,
  as_points,
  check_finite,
  is_wide,
  unit_exponent,
)
from geomem.geometry.statistics import (
  OF_NOTHING,
  feature_blocks,
  times_power,
)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["gram", "offset", "square", "mask", "exponent"],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class PointProducts:
  """Inner products of n = P M points z, about their mean m and as they are.

  Those of two blocks of features add up to those of all: `a + b`. They take
  4 n² bytes.

  Attributes:
    gram: ⟨z_i − m, z_j − m⟩; rows of points that are missing are zero.
    offset: ⟨z_i − m, m⟩.
    square: ‖m‖².
    mask: which of the P · M points are there.
    exponent: products are in units of 4^exponent, as in `GramStatistics`.
  """

  gram: Float[Array, "*b n n"]
  offset: Float[Array, "*b n"]
  square: Float[Array, "*b"]
  mask: Bool[Array, "*b P M"]
  exponent: Int[Array, "*b"]

  def __add__(self, other: "PointProducts") -> "PointProducts":
    """Returns the products of both blocks of features together."""
    exponent = jnp.maximum(self.exponent, other.exponent)
    a, b = (2 * (x.exponent - exponent) for x in (self, other))
    sums = {
      name: times_power(getattr(self, name), a)
      + times_power(getattr(other, name), b)
      for name in ("gram", "offset", "square")
    }
    return dataclasses.replace(self, **sums, exponent=exponent)

  @property
  def has_spread(self) -> Bool[Array, "*b"]:
    """Whether points differ from their mean by more than its rounding."""
    eps = jnp.finfo(self.gram.dtype).eps
    largest = jnp.diagonal(self.gram, axis1=-2, axis2=-1).max(axis=-1)
    return largest > (8 * eps) ** 2 * self.square

  @property
  def raw(self) -> Float[Array, "*b n n"]:
    """The products ⟨z_i, z_j⟩ of the points as they are, in the same unit."""
    there = self.mask.reshape(*self.mask.shape[:-2], -1)
    K = (
      self.gram
      + self.offset[..., :, None]
      + self.offset[..., None, :]
      + self.square[..., None, None]
    )
    return jnp.where(there[..., :, None] & there[..., None, :], K, 0)


def product_bytes(num_manifolds: int, num_points: int) -> int:
  """Returns the bytes that the products of P · M points take."""
  itemsize = jnp.dtype(jnp.result_type(float)).itemsize
  return itemsize * (num_manifolds * num_points) ** 2


@jax.jit
def _products(centered, mean, mask, exponent) -> PointProducts:
  there = mask.reshape(-1)[:, None]
  x = jnp.where(there, centered.reshape(len(there), -1), 0)
  largest = jnp.maximum(jnp.abs(x).max(), jnp.abs(mean).max())
  unit = jax.lax.stop_gradient(unit_exponent(largest, x.dtype))
  x, mean = times_power(x, -unit), times_power(mean, -unit)
  return PointProducts(
    gram=matmul(x, x.T),
    offset=matmul(x, mean),
    square=matmul(mean, mean),
    mask=mask,
    exponent=jnp.where(largest > 0, exponent + unit, OF_NOTHING),
  )


@jax.jit
def _centered(points, mask):
  dtype = jnp.promote_types(points.dtype, jnp.float32)
  if not jnp.issubdtype(dtype, jnp.floating):
    dtype = jnp.result_type(float)
  points = jnp.where(mask[..., None], points.astype(dtype), 0)
  mean = (points / mask.sum()).sum(axis=(0, 1))
  return points - mean[None, None], mean


def point_products(
  points: Points,
  *,
  mask: Mask = None,
  block_size: int | None = None,
) -> PointProducts:
  """Computes the products of all points of P manifolds with each other.

  Exact sums over features, at (P M)² N multiply-adds and 4 (P M)² bytes.

  Args:
    points: `[P, M, N]`, or a list of `[M_i, N]` arrays of unequal length.
    mask: which of the `[P, M]` points are there; all by default.
    block_size: features at a time, to bound the memory of the centred copy.

  Raises:
    ValueError: the points are of the wrong shape, or not finite (outside jit).
  """
  if block_size is not None and block_size < 1:
    raise ValueError(f"block_size is {block_size}; 1 at least was expected.")
  points, mask = as_points(points, mask)
  check_finite(points, mask)
  size = points.shape[2] if block_size is None else block_size
  if is_wide(points):
    starts = range(0, points.shape[2], size)
    blocks = (points[:, :, start : start + size] for start in starts)
  else:
    blocks = feature_blocks(jnp.asarray(points), size)
  parts = (_block(block, mask) for block in blocks)
  return functools.reduce(lambda a, b: a + b, parts)


def _block(points, mask) -> PointProducts:
  if not is_wide(points):
    mask = jnp.asarray(mask)
    return _products(*_centered(points, mask), mask, 0)
  # On the host, in float64: an offset would cost digits, and so would a scale
  # that JAX's type does not have.
  there = np.where(mask[..., None], points.astype(np.float64), 0)
  mean = (there / mask.sum()).sum(axis=(0, 1))
  kind = jnp.result_type(float)
  exponent = int(unit_exponent(float(np.abs(there).max()), kind))
  arrays = (
    jnp.asarray(np.ldexp(x, -exponent).astype(kind))
    for x in (there - mean, mean)
  )
  return _products(*arrays, jnp.asarray(mask), exponent)


def draw_fields(
  key: Key[Array, ""], products: PointProducts, num_probes: int
) -> Float[Array, "T n"]:
  """Draws Z t of probes t ~ N(0, I): normal, of covariance K, in their unit.

  With C the correlations of the centred points and their mean, and L Lᵀ =
  C + εI, these are C (L Lᵀ)⁻¹ C L⁻ᵀ x of standard normal x: in the span of the
  points whatever their rank, and short of the covariance by 3 ε at most. ε is
  as small as the factorization allows.
  """
  dtype = products.gram.dtype
  A = jnp.block(
    [
      [products.gram, products.offset[:, None]],
      [products.offset[None], products.square[None, None]],
    ]
  )
  diagonal = jnp.diagonal(A)
  scale = jnp.where(diagonal > 0, jnp.sqrt(jnp.abs(diagonal)), 1)
  C = A / (scale[:, None] * scale[None])
  eye = jnp.eye(len(C), dtype=dtype)
  norm = jnp.maximum(jnp.abs(C).sum(axis=1).max(), 1)
  start = 8 * jnp.finfo(dtype).eps * norm

  def factor(epsilon):
    return jnp.linalg.cholesky(C + epsilon * eye)

  epsilon = jax.lax.while_loop(
    # NaN ends it, too.
    lambda epsilon: ~jnp.isfinite(factor(epsilon)[-1, -1]) & (epsilon < 1),
    lambda epsilon: 4 * epsilon,
    jax.lax.stop_gradient(start),
  )
  x = jax.random.normal(key, (len(C), num_probes), dtype)
  # C = L Lᵀ − εI: in this form little is lost to rounding.
  L = factor(epsilon)
  back = jax.scipy.linalg.solve_triangular(L, x, lower=True, trans=1)
  h = matmul(L, x) - epsilon * back
  # What rounding left outside the span no multipliers could ever fit: where
  # points surround the origin, they would grow without end.
  h = h - epsilon * jax.scipy.linalg.cho_solve((L, True), h)
  h = (scale[:, None] * h).T
  there = products.mask.reshape(-1)
  return jnp.where(there[None], h[:, :-1] + h[:, -1:], 0)
