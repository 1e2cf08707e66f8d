"""The steps from uint8 images to the input of a network, under jit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from geomem.data.streamed import Images, streams

MOMENTS_SAMPLE = 4096  # The mean is then known to 0.02 standard deviations.
_BLOCK = 512


def epoch_order(key: Key[Array, ""], num_examples: int) -> Int[Array, " n"]:
  """Draws the order of the examples in one epoch."""
  return jax.random.permutation(key, num_examples)


def pixel_moments(
  images: UInt8[Images, "n H W C"],
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
  """Computes the mean and standard deviation of each channel, 0 to 255.

  From streamed images it reads a sample, which is always the same.
  """
  if streams(images) and len(images) > MOMENTS_SAMPLE:
    rng = np.random.default_rng(0)
    images = images[rng.choice(len(images), MOMENTS_SAMPLE, replace=False)]
  # Integer histograms are exact and need no large float copy of the images.
  counts = sum(
    _histograms(np.asarray(images[start : start + _BLOCK]))
    for start in range(0, len(images), _BLOCK)
  )
  levels = np.arange(256)
  total = counts.sum(axis=1)
  mean = counts @ levels / total
  variance = counts @ levels**2 / total - mean**2
  std = np.sqrt(np.maximum(variance, 1e-6))
  return mean.astype(np.float32), std.astype(np.float32)


def _histograms(images: np.ndarray) -> Int[np.ndarray, "C 256"]:
  return np.stack(
    [
      np.bincount(images[..., c].ravel(), minlength=256)
      for c in range(images.shape[-1])
    ]
  )


def normalize(
  images: UInt8[Array, "n H W C"],
  mean: Float[Array | np.ndarray, " C"],
  std: Float[Array | np.ndarray, " C"],
) -> Float[Array, "n H W C"]:
  """Scales images to zero mean and unit variance by channel."""
  shape = (1, 1, 1, -1)
  return (images - mean.reshape(shape)) / std.reshape(shape)


def augment(
  key: Key[Array, ""],
  images: UInt8[Array, "n H W C"],
  *,
  crop: int = 0,
  flip: bool = False,
) -> UInt8[Array, "n H W C"]:
  """Crops padded images at random and mirrors half of them.

  Args:
    key: determines an independent draw for every image.
    images: the batch.
    crop: pixels of zero padding on each side; 0 crops nothing.
    flip: whether half of the images are mirrored left to right.
  """
  num_images, height, width, channels = images.shape
  crop_key, flip_key = jax.random.split(key)
  if crop:
    margin = (crop, crop)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))
    corners = jax.random.randint(crop_key, (num_images, 2), 0, 2 * crop + 1)
    cut = jax.vmap(
      lambda image, corner: jax.lax.dynamic_slice(
        image, (corner[0], corner[1], 0), (height, width, channels)
      )
    )
    images = cut(padded, corners)
  if flip:
    mirrored = jax.random.bernoulli(flip_key, shape=(num_images, 1, 1, 1))
    images = jnp.where(mirrored, images[:, :, ::-1], images)
  return images
