"""Convolutional networks without shortcuts."""

import functools

from geomem.models.kernels import max_pool
from geomem.models.network import LayerSpec
from geomem.models.spec import ModelSpec, conv, dense, function, logits


def convnet(spec: ModelSpec) -> list[LayerSpec]:
  """Lists four 3 x 3 convolutions and two dense layers, for small images."""
  width, dtype = spec.width, spec.dtype
  return [
    conv("conv1", width, dtype=dtype),
    conv("conv2", width, dtype=dtype),
    function("pool1", max_pool),
    conv("conv3", 2 * width, dtype=dtype),
    conv("conv4", 2 * width, dtype=dtype),
    function("pool2", max_pool),
    dense("fc1", 8 * width, dtype=dtype),
    dense("fc2", 8 * width, dtype=dtype),
    logits(spec),
  ]


def vgg16(spec: ModelSpec, *, norm: bool = False) -> list[LayerSpec]:
  """Lists the layers of VGG16: 13 convolutions, two dense layers, logits.

  Source: Simonyan and Zisserman, ICLR 2015. For large images the two hidden
  dense layers have 64 `width` units, as in the source; for small ones 8
  `width`, the usual choice for images of 32 x 32. There is no dropout.
  """
  layers = []
  for stage, (depth, scale) in enumerate(
    [(2, 1), (2, 2), (3, 4), (3, 8), (3, 8)], start=1
  ):
    for index in range(1, depth + 1):
      channels, name = scale * spec.width, f"conv{stage}_{index}"
      layers.append(conv(name, channels, norm=norm, dtype=spec.dtype))
    layers.append(function(f"pool{stage}", max_pool))
  units = spec.width * (64 if spec.is_large else 8)
  return [
    *layers,
    dense("fc1", units, dtype=spec.dtype),
    dense("fc2", units, dtype=spec.dtype),
    logits(spec),
  ]


def alexnet(spec: ModelSpec) -> list[LayerSpec]:
  """Lists AlexNet for small images: unit strides, 5 x 5 and 3 x 3 filters.

  Source: Krizhevsky et al., NeurIPS 2012; channels in the ratios 1, 3, 6, 4, 4,
  hidden dense layers of 16 `width` units.
  """
  width = spec.width
  small = functools.partial(conv, dtype=spec.dtype)
  return [
    small("conv1", width, size=5),
    function("pool1", max_pool),
    small("conv2", 3 * width, size=5),
    function("pool2", max_pool),
    small("conv3", 6 * width),
    small("conv4", 4 * width),
    small("conv5", 4 * width),
    function("pool5", max_pool),
    dense("fc1", 16 * width, dtype=spec.dtype),
    dense("fc2", 16 * width, dtype=spec.dtype),
    logits(spec),
  ]
