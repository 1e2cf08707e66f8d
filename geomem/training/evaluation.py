"""Logits of whole image sets, and the scores of their subsets."""

import functools
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from geomem import compilation, parallel, runs
from geomem.data import normalize
from geomem.models import Network


@functools.cache
def _compiled_logits(network: Network):
  def logits(state, images, mean, std):
    return network.apply(state, normalize(images, mean, std)).logits

  return compilation.jit(logits, out_shardings=parallel.everywhere())


def padded_blocks(
  images, batch_size: int | None = None
) -> Iterator[tuple[int, UInt8[Array, "b H W C"]]]:
  """Yields images in blocks of equal size, so that one program serves all.

  Args:
    images: all images.
    batch_size: images per device in a block; by default a number that suits a
      core's cache or an accelerator's memory.

  Yields:
    The number of images in the block, and the block, sharded over the devices;
    copies of the last image pad the last block.
  """
  num_images = len(images)
  if batch_size is None:
    # Larger blocks of wide layers leave a core's cache: a tenth slower.
    batch_size = 128 if jax.default_backend() == "cpu" else 4096
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
  batch_size: int | None = None,
) -> Float[Array, "n classes"]:
  """Computes the logits of uint8 images in evaluation mode, on every device.

  Args:
    network: the network.
    state: its state.
    images: `[n, H, W, C]` uint8.
    mean: mean of the pixels, by channel.
    std: standard deviation of the pixels, by channel.
    batch_size: as in `padded_blocks`.
  """
  forward = _compiled_logits(network)
  return jnp.concatenate(
    [
      forward(state, block, mean, std)[:count]
      for count, block in padded_blocks(images, batch_size)
    ]
  )


@jax.jit
def _statistics(logits, labels) -> dict[str, Array]:
  """Counts hits and computes mean and deviation of the cross-entropy.

  With z the logits minus that of the label, and m the largest of them and 0,
  the loss is m + log1p(e^-m - 1 + Σ e^(z - m)), the sum over the other classes.
  This form is equally exact for examples that are fitted and that are not.
  """
  logits = logits.astype(jnp.float32)
  is_other = jnp.arange(logits.shape[1])[None] != labels[:, None]
  z = logits - jnp.take_along_axis(logits, labels[:, None], axis=1)
  m = jnp.maximum(z.max(axis=1), 0)
  other_sum = jnp.where(is_other, jnp.exp(z - m[:, None]), 0).sum(axis=1)
  losses = m + jnp.log1p(jnp.expm1(-m) + other_sum)
  hits = (logits.argmax(axis=1) == labels).sum()
  # The largest of several values with NaN is not a decision.
  known = jnp.isfinite(logits).all()
  return {
    "hits": hits,
    "known": known,
    "mean": losses.mean(),
    "deviation": losses.std(ddof=1),
  }


def scores(
  subsets: Mapping[
    str,
    tuple[
      Float[Array | np.ndarray, "n classes"], Int[Array | np.ndarray, " n"]
    ],
  ],
) -> dict[str, dict[str, tuple[float, float]]]:
  """Computes accuracy and cross-entropy of subsets, with standard errors.

  Args:
    subsets: by name, the logits, one row an example, and the labels to score.

  Returns:
    By name, `{"accuracy": (value, stderr), "loss": (value, stderr)}`; see
    `runs.error_of_share` for the accuracy's error; the loss's is that of a mean
    over independent examples, NaN for one. The accuracy is NaN where a logit is
    not finite.
  """
  statistics = jax.device_get(
    {name: _statistics(*pair) for name, pair in subsets.items()}
  )
  result = {}
  for name, of_subset in statistics.items():
    count = len(subsets[name][1])
    accuracy = (
      int(of_subset["hits"]) / count if of_subset["known"] else math.nan
    )
    deviation = float(of_subset["deviation"])
    result[name] = {
      "accuracy": (accuracy, runs.error_of_share(accuracy, count)),
      "loss": (float(of_subset["mean"]), deviation / math.sqrt(count)),
    }
  return result
