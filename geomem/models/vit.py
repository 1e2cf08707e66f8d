"""Vision transformers."""

import jax
import jax.numpy as jnp
from flax import nnx

from geomem.models.network import LayerSpec
from geomem.models.spec import ModelSpec, layer, logits

PATCH = 4
DEPTH = 4
_HEAD_SIZE = 16  # Features of an attention head, if the width has as many.
_PATCH_LARGE = 16


class Patches(nnx.Module):
  """A linear map of each patch of the image, plus a learnt position."""

  def __init__(self, shape, width: int, patch: int, *, rngs, dtype):
    self.conv = nnx.Conv(
      shape[-1],
      width,
      (patch, patch),
      strides=(patch, patch),
      padding="VALID",
      dtype=dtype,
      rngs=rngs,
    )
    count = (shape[0] // patch) * (shape[1] // patch)
    noise = jax.random.normal(rngs.params(), (count, width))
    self.position = nnx.Param(0.02 * noise)

  def __call__(self, x, *, train: bool):
    del train
    x = self.conv(x)
    return x.reshape(x.shape[0], -1, x.shape[-1]) + self.position[...][None]


class Attention(nnx.Module):
  """Self-attention of the normalized tokens, added to them."""

  def __init__(self, width: int, *, rngs, dtype):
    self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      num_heads=max(1, width // _HEAD_SIZE),
      in_features=width,
      decode=False,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, x, *, train: bool):
    return x + self.attention(self.norm(x), deterministic=not train)


class Mlp(nnx.Module):
  """Two dense layers with GELU on each normalized token, added to it."""

  def __init__(self, width: int, *, rngs, dtype):
    self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
    self.expand = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
    self.project = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

  def __call__(self, x, *, train: bool):
    del train
    return x + self.project(nnx.gelu(self.expand(self.norm(x))))


class Pool(nnx.Module):
  """The mean of the normalized tokens."""

  def __init__(self, width: int, *, rngs, dtype):
    self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)

  def __call__(self, x, *, train: bool):
    del train
    return jnp.mean(self.norm(x), axis=1)


def vit(spec: ModelSpec) -> list[LayerSpec]:
  """Lists the layers of a ViT: patches, pre-norm blocks, the mean, logits.

  The attention and the MLP of each block are separate layers, each with its
  shortcut. Patches have 4 x 4 pixels, or 16 x 16 for large images; heads have
  16 features. There is no dropout and no class token.
  Source: Dosovitskiy et al., ICLR 2021; pooling as in Beyer et al., "Better
  plain ViT baselines for ImageNet-1k", 2022.

  Raises:
    ValueError: the width is not a multiple of the heads' size, or the images do
      not divide into patches.
  """
  patch = _PATCH_LARGE if spec.is_large else PATCH
  if any(side % patch for side in spec.image_shape[:2]):
    raise ValueError(
      f"The images have {spec.image_shape[0]} x {spec.image_shape[1]} pixels; a"
      f" vit takes sides that are multiples of its patches' {patch}."
    )
  if spec.width > _HEAD_SIZE and spec.width % _HEAD_SIZE:
    raise ValueError(
      f"width is {spec.width}; for a vit a multiple of {_HEAD_SIZE} was"
      f" expected, or at most {_HEAD_SIZE}."
    )

  def patches(shape, rngs):
    return Patches(shape, spec.width, patch, rngs=rngs, dtype=spec.dtype)

  blocks = [
    layer(f"{name}{index}", kind, dtype=spec.dtype)
    for index in range(1, DEPTH + 1)
    for name, kind in (("attention", Attention), ("mlp", Mlp))
  ]
  pool = layer("pool", Pool, dtype=spec.dtype)
  return [("patches", patches), *blocks, pool, logits(spec)]
