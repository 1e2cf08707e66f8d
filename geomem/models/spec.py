"""The specification of architectures, and the makers of their layers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from geomem.models.layers import Conv, Dense, Function
from geomem.models.network import LayerSpec

LARGE = 64  # From this side on, images get ImageNet's stems and heads.


class ModelSpec(NamedTuple):
  """The specification that an architecture is built from.

  Attributes:
    num_classes: units of the last layer.
    width: channels of the first stage (units for `mlp`).
    dtype: type of the computation; parameters are float32.
    image_shape: `(H, W, C)`.
  """

  num_classes: int
  width: int
  dtype: Any
  image_shape: tuple[int, int, int]

  @property
  def is_large(self) -> bool:
    """Whether networks take their ImageNet form."""
    return min(self.image_shape[:2]) >= LARGE


def layer(name: str, kind: type[nnx.Module], *args, **options) -> LayerSpec:
  """Makes a layer of a kind whose first argument is the number of channels."""
  return name, lambda shape, rngs: kind(shape[-1], *args, rngs=rngs, **options)


def conv(name: str, outputs: int, **options) -> LayerSpec:
  """Makes a convolution; see `layers.Conv`."""
  return layer(name, Conv, outputs, **options)


def dense(name: str, outputs: int, **options) -> LayerSpec:
  """Makes a dense layer; see `layers.Dense`."""
  return name, lambda shape, rngs: Dense(
    math.prod(shape), outputs, rngs=rngs, **options
  )


def function(name: str, apply: Callable) -> LayerSpec:
  """Makes a layer without state."""
  return name, lambda shape, rngs: Function(apply)


def logits(spec: ModelSpec) -> LayerSpec:
  """Makes the last layer."""
  return dense("logits", spec.num_classes, relu=False, dtype=spec.dtype)
