"""Convolution and pooling are those of the library, on whatever device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from geomem.models import kernels, layers
from tests.fakes import also_long


def draw(seed, shape):
  return jnp.asarray(
    np.random.default_rng(seed).standard_normal(shape), jnp.float32
  )


def value_and_gradients(function, *arguments):
  def total(*arguments):
    # Weights that no symmetry of the sum hides a mistake behind.
    found = function(*arguments)
    return (found * draw(9, found.shape)).sum()

  gradients = jax.grad(total, argnums=tuple(range(len(arguments))))
  return jax.jit(lambda *a: (function(*a), *gradients(*a)))(*arguments)


def library_convolution(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize(
  "side",
  [1, 2, 5, *also_long(3, 4)],
)
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_the_library_s(side, size, stride):
  x, kernel = draw(0, (4, side, side + 1, 3)), draw(1, (size, size, 3, 5))
  options = ((stride, stride), [(size // 2, size // 2)] * 2)
  expected = value_and_gradients(
    lambda x, k: library_convolution(x, k, *options), x, kernel
  )
  found = value_and_gradients(
    lambda x, k: kernels.convolve(
      x, k, *options, dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    x,
    kernel,
  )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def library_pool(x):
  return nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
def test_pooling_is_the_library_s_where_pixels_are_equal_too(side):
  # Integers: many are equal, and all of the gradient goes to the first.
  x = jnp.round(draw(2, (5, side, side + 1, 4)))
  expected = value_and_gradients(library_pool, x)
  found = value_and_gradients(kernels.max_pool, x)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_pooling_hides_no_nan(place):
  x = jnp.ones((1, 2, 2, 1)).at[0, *place, 0].set(jnp.nan)
  assert jnp.isnan(kernels.max_pool(x)).all()


def test_small_outputs_are_no_convolution_on_cpu():
  """XLA's is a hundred times slower than its arithmetic there."""

  def has_convolution(side):
    conv = layers.Conv(8, 8, rngs=nnx.Rngs(0))
    x = jnp.zeros((2, side, side, 8))
    program = jax.make_jaxpr(lambda x: conv(x, train=False))(x)
    return "conv_general_dilated" in str(program)

  assert not has_convolution(2)
  assert has_convolution(8)
