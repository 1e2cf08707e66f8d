"""Logits over a whole set, and the scores of a subset of it."""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from geomem import parallel
from geomem.data import normalize
from geomem.models import Network


@functools.cache
def _compiled_logits(network: Network):
  def logits(state, images, mean, std):
    return network.apply(state, normalize(images, mean, std)).logits

  return jax.jit(logits)


def padded_blocks(
  images, batch_size: int = 512
) -> Iterator[tuple[int, UInt8[Array, "b H W C"]]]:
  """Yields images in blocks of one size: one program serves all.

  Args:
    images: all of them.
    batch_size: images at a time on each device.

  Yields:
    How many images the block holds, and the block, shared out over the
    devices; the last image fills up the last block.
  """
  num_images = len(images)
  batch_size = min(batch_size * parallel.mesh().size, num_images)
  for start in range(0, num_images, batch_size):
    chosen = np.minimum(start + np.arange(batch_size), num_images - 1)
    count = min(batch_size, num_images - start)
    yield count, parallel.shard(images[chosen])


def predict_logits(
  network: Network,
  state: dict,
  images,
  mean: Float[Array | np.ndarray, " C"],
  std: Float[Array | np.ndarray, " C"],
  *,
  batch_size: int = 512,
) -> Float[np.ndarray, "n classes"]:
  """Computes logits of uint8 images in evaluation mode, on the host."""
  forward = _compiled_logits(network)
  outputs = [
    parallel.fetch(forward(state, block, mean, std))[:count]
    for count, block in padded_blocks(images, batch_size)
  ]
  return np.concatenate(outputs)


def scores(
  logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> dict[str, tuple[float, float]]:
  """Computes accuracy and cross-entropy, with standard errors.

  Args:
    logits: one row an example.
    labels: the labels to score by.

  Returns:
    `{"accuracy": (value, stderr), "loss": (value, stderr)}`; the error is that
    of a mean over independent examples.
  """
  logits = np.asarray(logits, np.float64)
  top = logits.max(axis=1)
  log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
  chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  per_example = {
    "accuracy": (logits.argmax(axis=1) == labels).astype(float),
    "loss": log_total - chosen,
  }
  return {
    name: (float(x.mean()), float(x.std() / np.sqrt(len(x))))
    for name, x in per_example.items()
  }
