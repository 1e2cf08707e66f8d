"""Logits over a whole set, and the scores of a subset of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geomem.data import normalize
from geomem.models import Network


@functools.cache
def _compiled_logits(network: Network):
  def logits(state, images, mean, std):
    return network.apply(state, normalize(images, mean, std)).logits

  return jax.jit(logits)


def predict_logits(
  network: Network,
  state: dict,
  images,
  mean: Float[Array | np.ndarray, " C"],
  std: Float[Array | np.ndarray, " C"],
  *,
  batch_size: int = 512,
) -> Float[np.ndarray, "n classes"]:
  """Logits of `[n, H, W, C]` uint8 images, in evaluation mode, on the host.

  The last batch is padded, so that one program serves all.
  """
  forward = _compiled_logits(network)
  num_images = len(images)
  batch_size = min(batch_size, num_images)
  outputs = []
  for start in range(0, num_images, batch_size):
    block = jnp.asarray(images[start : start + batch_size])
    padding = [(0, batch_size - len(block))] + [(0, 0)] * (block.ndim - 1)
    outputs.append(forward(state, jnp.pad(block, padding), mean, std))
  return np.concatenate([np.asarray(o) for o in outputs])[:num_images]


def scores(
  logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> dict[str, tuple[float, float]]:
  """Accuracy and cross-entropy, each with its standard error.

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
