"""Layers with their nonlinearities: the units that are measured and rewound."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from geomem.models.kernels import convolve

_HE = nnx.initializers.he_normal()


class Conv(nnx.Module):
  """Convolution, batch norm if asked for, and ReLU."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    rngs: nnx.Rngs,
    size: int = 3,
    stride: int = 1,
    norm: bool = False,
    relu: bool = True,
    dtype=jnp.float32,
  ):
    self.conv = nnx.Conv(
      inputs,
      outputs,
      (size, size),
      strides=(stride, stride),
      # The usual symmetric padding; SAME pads strided inputs on one side only.
      padding=[(size // 2, size // 2)] * 2,
      use_bias=not norm,
      kernel_init=_HE,
      conv_general_dilated=convolve,
      dtype=dtype,
      rngs=rngs,
    )
    if norm:
      self.norm = nnx.BatchNorm(outputs, momentum=0.9, dtype=dtype, rngs=rngs)
    self.has_norm = norm
    self.relu = relu

  def __call__(self, x, *, train: bool):
    x = self.conv(x)
    if self.has_norm:
      x = self.norm(x, use_running_average=not train)
    return nnx.relu(x) if self.relu else x


class Dense(nnx.Module):
  """Flattening, a dense layer, and ReLU unless the outputs are logits."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    *,
    rngs: nnx.Rngs,
    relu: bool = True,
    dtype=jnp.float32,
  ):
    init = _HE if relu else nnx.initializers.lecun_normal()
    self.dense = nnx.Linear(
      inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs
    )
    self.relu = relu

  def __call__(self, x, *, train: bool):
    del train
    x = self.dense(x.reshape(x.shape[0], -1))
    return nnx.relu(x) if self.relu else x


class Function(nnx.Module):
  """A layer without state, such as pooling."""

  def __init__(self, function: Callable[[jax.Array], jax.Array]):
    self.function = function

  def __call__(self, x, *, train: bool):
    del train
    return self.function(x)


def stem_pool(x: jax.Array) -> jax.Array:
  """Pools 3 x 3 pixels in steps of two, after a stem."""
  return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def mean_pool(x: jax.Array) -> jax.Array:
  """Averages over all positions: `[n, H, W, C]` to `[n, C]`."""
  return x.mean(axis=(1, 2))


class Block(nnx.Module):
  """A residual block: two or three convolutions and a shortcut.

  The basic block has two 3 x 3 convolutions. A bottleneck has one between two
  1 x 1 convolutions, the last with four times the channels; its stride is that
  of the 3 x 3 convolution. Where the shape changes, the shortcut is a 1 x 1
  convolution with batch norm.
  Source: He et al., "Deep residual learning", CVPR 2016.
  """

  def __init__(
    self,
    inputs: int,
    channels: int,
    *,
    stride: int,
    bottleneck: bool = False,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
  ):
    options = {"norm": True, "rngs": rngs, "dtype": dtype}
    outputs = 4 * channels if bottleneck else channels
    if bottleneck:
      self.conv1 = Conv(inputs, channels, size=1, **options)
      self.conv2 = Conv(channels, channels, stride=stride, **options)
      self.conv3 = Conv(channels, outputs, size=1, relu=False, **options)
    else:
      self.conv1 = Conv(inputs, channels, stride=stride, **options)
      self.conv2 = Conv(channels, channels, relu=False, **options)
    self.bottleneck = bottleneck
    self.projects = stride != 1 or inputs != outputs
    if self.projects:
      self.shortcut = Conv(
        inputs, outputs, size=1, stride=stride, relu=False, **options
      )

  def __call__(self, x, *, train: bool):
    y = self.conv2(self.conv1(x, train=train), train=train)
    if self.bottleneck:
      y = self.conv3(y, train=train)
    if self.projects:
      x = self.shortcut(x, train=train)
    return nnx.relu(x + y)
