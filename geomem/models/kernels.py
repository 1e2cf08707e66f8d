"""Convolution and pooling: the library's, or faster forms on CPU.

XLA's CPU back end is slow in two cases. A convolution whose output is smaller
than its kernel takes up to a hundred times as long as its arithmetic (3 x 3 on
images of 2 x 2 with 512 channels: 570 ms forward and 530 ms backward for a
batch of 64, but 7 ms and 15 ms as one product of patches). And the gradient of
max pooling is a scatter (64 images of 32 x 32 x 64: 55 ms, but 3 ms for the
same choice by comparison). Measured on two cores with jaxlib 0.10; on larger
images XLA is faster than either form.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_products = contextvars.ContextVar("products", default=False)


@contextlib.contextmanager
def products() -> Iterator[None]:
  """Traces convolutions in the context as sums of matrix products.

  A sum has one product for each pixel of the kernel. Under `vmap` over kernels
  these are batched products, where the library has grouped convolutions.
  """
  token = _products.set(True)
  try:
    yield
  finally:
    _products.reset(token)


def convolve(
  x: Float[Array, "n H W C"],
  kernel: Float[Array, "h w C O"],
  strides: tuple[int, int],
  padding: Sequence[tuple[int, int]],
  **options,
) -> Float[Array, "n h2 w2 O"]:
  """Convolves, as `jax.lax.conv_general_dilated` does for `nnx.Conv`.

  There is no dilation, and there are no groups.
  """
  sides = [
    (x.shape[1 + i] + sum(padding[i]) - kernel.shape[i]) // strides[i] + 1
    for i in range(2)
  ]
  if _products.get():
    shifted = _shifted(x, kernel, strides, padding, sides)
    filters = kernel.reshape(-1, *kernel.shape[2:])
    return sum(a @ b for a, b in zip(shifted, filters, strict=True))
  is_small = any(sides[i] < kernel.shape[i] for i in range(2))
  if jax.default_backend() == "cpu" and is_small:
    shifted = _shifted(x, kernel, strides, padding, sides)
    patches = jnp.concatenate(shifted, axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _shifted(x, kernel, strides, padding, sides) -> list[Array]:
  """Lists the inputs that each pixel of the kernel multiplies."""
  x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
  height, width = kernel.shape[:2]
  ends = [strides[i] * (sides[i] - 1) + 1 for i in range(2)]
  return [
    x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
    for i in range(height)
    for j in range(width)
  ]


def max_pool(x: Float[Array, "n H W C"]) -> Float[Array, "n h w C"]:
  """Pools 2 x 2 pixels; a side of one pixel stays as it is."""
  if jax.default_backend() == "cpu":
    return _larger_of_pairs(_larger_of_pairs(x, 2), 1)
  return nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")


def _larger_of_pairs(x: Array, axis: int) -> Array:
  """Returns the larger of each two neighbours; the first if they are equal.

  As in XLA's pooling, the chosen one gets the whole gradient. NaN stays NaN.
  """
  if x.shape[axis] == 1:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, x.shape[axis] % 2)
  x = jnp.pad(x, widths, constant_values=-jnp.inf)
  a = jax.lax.slice_in_dim(x, 0, None, 2, axis)
  b = jax.lax.slice_in_dim(x, 1, None, 2, axis)
  return jnp.where((a >= b) | jnp.isnan(a), a, b)
