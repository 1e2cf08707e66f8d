"""The architectures, as lists of named layers."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp

from geomem.models.layers import (
  Block,
  Conv,
  Dense,
  Function,
  max_pool,
  mean_pool,
  stem_pool,
)
from geomem.models.network import LayerSpec, Network

LARGE = 64  # Sides from which on images are large: ImageNet's stems and heads.


def _conv(name: str, outputs: int, **options) -> LayerSpec:
  def make(shape, rngs):
    return Conv(shape[-1], outputs, rngs=rngs, **options)

  return name, make


def _dense(name: str, outputs: int, **options) -> LayerSpec:
  def make(shape, rngs):
    return Dense(math.prod(shape), outputs, rngs=rngs, **options)

  return name, make


def _block(name: str, channels: int, stride: int, **options) -> LayerSpec:
  def make(shape, rngs):
    return Block(shape[-1], channels, stride=stride, rngs=rngs, **options)

  return name, make


def _function(name: str, function: Callable) -> LayerSpec:
  return name, lambda shape, rngs: Function(function)


def mlp(num_classes: int, width: int, dtype, depth: int = 3) -> list[LayerSpec]:
  """Hidden layers of `width` units, three unless said otherwise."""
  return [
    *(_dense(f"fc{i + 1}", width, dtype=dtype) for i in range(depth)),
    _dense("logits", num_classes, relu=False, dtype=dtype),
  ]


def deep_linear(num_classes: int, width: int, dtype) -> list[LayerSpec]:
  """The same without nonlinearities, for what has a closed form there."""
  return [
    *(_dense(f"fc{i}", width, relu=False, dtype=dtype) for i in (1, 2, 3)),
    _dense("logits", num_classes, relu=False, dtype=dtype),
  ]


def convnet(num_classes: int, width: int, dtype) -> list[LayerSpec]:
  """Four 3 x 3 convolutions and two dense layers, for small images."""
  conv = functools.partial(_conv, dtype=dtype)
  return [
    conv("conv1", width),
    conv("conv2", width),
    _function("pool1", max_pool),
    conv("conv3", 2 * width),
    conv("conv4", 2 * width),
    _function("pool2", max_pool),
    _dense("fc1", 8 * width, dtype=dtype),
    _dense("fc2", 8 * width, dtype=dtype),
    _dense("logits", num_classes, relu=False, dtype=dtype),
  ]


def vgg16(
  num_classes: int,
  width: int,
  dtype,
  *,
  norm: bool = False,
  large: bool = False,
) -> list[LayerSpec]:
  """VGG16: 13 convolutions, two dense layers, logits.

  Source: Simonyan and Zisserman, ICLR 2015. For large images the two hidden
  dense layers have 64 `width` units, as there; for small ones 8 `width`, the
  usual choice for images of 32 x 32. There is no dropout.
  """
  layers = []
  for stage, (depth, scale) in enumerate(
    [(2, 1), (2, 2), (3, 4), (3, 8), (3, 8)], start=1
  ):
    for index in range(1, depth + 1):
      name = f"conv{stage}_{index}"
      layers.append(_conv(name, scale * width, norm=norm, dtype=dtype))
    layers.append(_function(f"pool{stage}", max_pool))
  units = width * (64 if large else 8)
  return [
    *layers,
    _dense("fc1", units, dtype=dtype),
    _dense("fc2", units, dtype=dtype),
    _dense("logits", num_classes, relu=False, dtype=dtype),
  ]


def alexnet(num_classes: int, width: int, dtype) -> list[LayerSpec]:
  """AlexNet for small images: unit strides, 5 x 5 and 3 x 3 filters.

  Source: Krizhevsky et al., NeurIPS 2012; channels in the ratios 1, 3, 6, 4, 4,
  hidden dense layers of 16 `width` units.
  """
  conv = functools.partial(_conv, dtype=dtype)
  return [
    conv("conv1", width, size=5),
    _function("pool1", max_pool),
    conv("conv2", 3 * width, size=5),
    _function("pool2", max_pool),
    conv("conv3", 6 * width),
    conv("conv4", 4 * width),
    conv("conv5", 4 * width),
    _function("pool5", max_pool),
    _dense("fc1", 16 * width, dtype=dtype),
    _dense("fc2", 16 * width, dtype=dtype),
    _dense("logits", num_classes, relu=False, dtype=dtype),
  ]


def resnet(
  num_classes: int,
  width: int,
  dtype,
  *,
  depths: tuple[int, ...],
  bottleneck: bool = False,
  large: bool = False,
) -> list[LayerSpec]:
  """Residual networks; stages of k, 2k, 4k and 8k channels.

  Source: He et al., CVPR 2016. For large images the stem is a 7 x 7
  convolution and pooling, each in steps of two, as there; for small ones a
  3 x 3 convolution, with widths as in Nakkiran et al., "Deep double descent",
  ICLR 2020.

  Args:
    num_classes: units of the last layer.
    width: k.
    dtype: of the computation.
    depths: blocks of each stage.
    bottleneck: the kind of the blocks.
    large: the kind of the stem.
  """
  stem = {"size": 7, "stride": 2} if large else {}
  layers = [_conv("stem", width, norm=True, dtype=dtype, **stem)]
  if large:
    layers.append(_function("stem_pool", stem_pool))
  for stage, depth in enumerate(depths):
    for index in range(depth):
      layers.append(
        _block(
          f"block{stage + 1}_{index + 1}",
          width * 2**stage,
          2 if stage and not index else 1,
          bottleneck=bottleneck,
          dtype=dtype,
        )
      )
  return [
    *layers,
    _function("pool", mean_pool),
    _dense("logits", num_classes, relu=False, dtype=dtype),
  ]


resnet18 = functools.partial(resnet, depths=(2, 2, 2, 2))
resnet50 = functools.partial(resnet, depths=(3, 4, 6, 3), bottleneck=True)

# Name -> (layers, the width that is standard).
MODELS = {
  "mlp": (mlp, 256),
  "deep_linear": (deep_linear, 64),
  "mlp1": (functools.partial(mlp, depth=1), 256),
  "convnet": (convnet, 32),
  "vgg16": (vgg16, 64),
  "vgg16_bn": (functools.partial(vgg16, norm=True), 64),
  "alexnet": (alexnet, 64),
  "resnet18": (resnet18, 64),
  "resnet50": (resnet50, 64),
}
# Those that take another form for large images.
_SIZED = ("vgg16", "vgg16_bn", "resnet18", "resnet50")


@functools.cache
def build(
  name: str,
  *,
  num_classes: int,
  image_shape: tuple[int, int, int],
  width: int | None = None,
  dtype=jnp.float32,
) -> Network:
  """Builds a network by name.

  Args:
    name: one of `MODELS`.
    num_classes: units of the last layer.
    image_shape: `(H, W, C)`; sides of `LARGE` and more give VGG16 and the
      residual networks the form that they have for ImageNet.
    width: channels of the first stage (units for `mlp`), which scales all
      layers; the architecture's own by default.
    dtype: type of the computation; parameters are float32.

  Raises:
    ValueError: the name is not known, or the width not positive.
  """
  if name not in MODELS:
    raise ValueError(
      f"model {name!r} is not known; choose one of {', '.join(MODELS)}."
    )
  layers, standard_width = MODELS[name]
  width = standard_width if width is None else width
  if width < 1:
    raise ValueError(f"width is {width}; it must be positive.")
  if name in _SIZED and min(image_shape[:2]) >= LARGE:
    layers = functools.partial(layers, large=True)
  specs = tuple(layers(num_classes, width, dtype))
  return Network(name, specs, image_shape)
