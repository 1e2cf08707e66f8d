"""The training set, and the windows into which an epoch splits it."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from geomem import parallel
from geomem.data import Images, StreamedImages, read_ahead, streams

# Bytes of the images of a window. At most six windows are in memory at any
# time: two being read, two ready, and two on the device.
_WINDOW_BYTES = 2**26


class TrainingData(NamedTuple):
  """A training set, on the device or with images that are streamed to it.

  Attributes:
    images: `[n, H, W, C]` uint8.
    labels: `[n]` labels to train on; `[seeds, n]` for several networks.
    mean: `[C]` mean of the pixels, in units of 0 to 255.
    std: `[C]` their standard deviation.
  """

  images: UInt8[Array | StreamedImages, "n H W C"]
  labels: Int[Array, "*seeds n"]
  mean: Float[Array, " C"]
  std: Float[Array, " C"]


def on_devices(
  images: UInt8[Images, "n H W C"],
) -> UInt8[Images, "n H W C"]:
  """Copies images to every device, unless they are streamed."""
  return images if streams(images) else parallel.replicate(images)


def windows(
  data: TrainingData,
  batches: Int[Array, "steps seeds batch"],
  keys: Key[Array, "steps seeds"],
  epoch_steps: int,
) -> Iterator[tuple[TrainingData, Array, Array]]:
  """Yields the windows of an epoch, whose images fit in memory.

  A set in memory is one window with all steps. A window of a streamed set is a
  small training set of its own: the images of a few steps, in the order in
  which the steps use them. Both run the same program on the same numbers.

  Args:
    data: the training data, with labels `[seeds, n]`.
    batches: indices of the examples of each step; those of a window index its
      own data.
    keys: key of each step's augmentation.
    epoch_steps: steps of the whole epoch, of which these may be the rest.
  """
  if not streams(data.images):
    yield data, batches, keys
    return
  batches = parallel.fetch(batches)
  num_steps = len(batches)
  # It divides both, so that the rest has the windows of the whole epoch.
  divided = math.gcd(epoch_steps, num_steps)
  size = _steps_in_window(divided, data.images[batches[0]].nbytes)
  rows = batches.reshape(num_steps // size, -1)
  within = np.arange(rows.shape[1]).reshape(size, *batches.shape[1:])
  within = parallel.replicate(within)
  # Padded, so that every device, and so every host, gets an equal share.
  rows = np.pad(rows, ((0, 0), (0, parallel.missing(rows.shape[1]))), "edge")
  ahead = read_ahead(data.images, rows, parallel.shard)
  for i, images in enumerate(ahead):
    window = data._replace(images=images, labels=data.labels[:, rows[i]])
    yield window, within, keys[i * size : (i + 1) * size]


def _steps_in_window(num_steps: int, bytes_per_step: int) -> int:
  """Returns the most steps that fit in memory and divide the epoch."""
  largest = min(max(1, _WINDOW_BYTES // bytes_per_step), num_steps)
  return max(n for n in range(1, largest + 1) if num_steps % n == 0)
