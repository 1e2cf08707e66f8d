"""The architectures by name.

To add one, write a function from a `ModelSpec` to its named layers, in a file
of its own, and add its line to `MODELS`.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from geomem.models.convnet import alexnet, convnet, vgg16
from geomem.models.mlp import mlp
from geomem.models.network import LayerSpec, Network
from geomem.models.resnet import resnet
from geomem.models.spec import ModelSpec
from geomem.models.vit import vit

# Name -> (function that lists the layers, standard width).
MODELS: dict[str, tuple[Callable[[ModelSpec], list[LayerSpec]], int]] = {
  "mlp": (mlp, 256),
  "deep_linear": (functools.partial(mlp, relu=False), 64),
  "mlp1": (functools.partial(mlp, depth=1), 256),
  "convnet": (convnet, 32),
  "vgg16": (vgg16, 64),
  "vgg16_bn": (functools.partial(vgg16, norm=True), 64),
  "alexnet": (alexnet, 64),
  "resnet18": (functools.partial(resnet, depths=(2, 2, 2, 2)), 64),
  "resnet50": (
    functools.partial(resnet, depths=(3, 4, 6, 3), bottleneck=True),
    64,
  ),
  "vit": (vit, 64),
}


def check_known(name: str) -> None:
  """Raises ValueError unless a name is one of `MODELS`."""
  if name not in MODELS:
    raise ValueError(
      f"model {name!r} is not known; choose one of {', '.join(MODELS)}."
    )


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
    image_shape: `(H, W, C)`; sides of at least `LARGE` give VGG16, the
      residual networks and the ViT their ImageNet form.
    width: channels of the first stage (units for `mlp`), which scales all
      layers; the architecture's own by default.
    dtype: type of the computation; parameters are float32.

  Raises:
    ValueError: the name is unknown, or the width is not positive.
  """
  check_known(name)
  layers, standard_width = MODELS[name]
  width = standard_width if width is None else width
  if width < 1:
    raise ValueError(f"width is {width}; it must be positive.")
  spec = ModelSpec(num_classes, width, dtype, tuple(image_shape))
  return Network(name, tuple(layers(spec)), image_shape)
