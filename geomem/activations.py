"""Every layer of a network over many images, in blocks of bounded memory."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# (state, images) -> activations by layer name.
Forward = Callable[[Any, Array], dict[str, Array]]


@functools.lru_cache(maxsize=256)
def _compiled(forward: Forward, layers: tuple[str, ...]):
  """One program a group of layers; jit drops what the others need."""

  def run(state, images):
    activations = forward(state, images)
    return {
      name: activations[name].reshape(images.shape[0], -1).astype(jnp.float32)
      for name in layers
    }

  return jax.jit(run)


def group_layers(sizes: dict[str, int], max_size: int) -> list[tuple[str, ...]]:
  """Consecutive layers whose sizes add up to at most `max_size`.

  A layer that is larger than that makes a group of its own.
  """
  groups, total = [], 0
  for name, size in sizes.items():
    if not groups or total + size > max_size:
      groups.append([])
      total = 0
    groups[-1].append(name)
    total += size
  return [tuple(group) for group in groups]


def layer_blocks(
  forward: Forward,
  state: Any,
  images: np.ndarray | Array,
  layers: Sequence[str],
  *,
  batch_size: int = 512,
  max_bytes: int = 2**30,
) -> Iterator[tuple[str, Float[np.ndarray, "n N"]]]:
  """Hands on each layer's activations, flattened, in the order asked for.

  As many layers as fit `max_bytes` come from one pass over the images.

  Args:
    forward: a pure function `(state, images) -> {layer: [n, ...]}`. Keep one
      function for all calls: programs are compiled once for each.
    state: its first argument.
    images: `[n, ...]`.
    layers: names of the layers, in the order wanted.
    batch_size: images at a time.
    max_bytes: bound on the activations held at once; one layer at least.

  Yields:
    The layer's name and its `[n, N]` float32 activations.
  """
  num_images = len(images)
  batch_size = min(batch_size, num_images)
  batch = jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), images.dtype)
  shapes = jax.eval_shape(forward, state, batch)
  sizes = {
    name: 4 * num_images * (shapes[name].size // batch_size) for name in layers
  }
  for group in group_layers(sizes, max_bytes):
    run = _compiled(forward, group)
    held = {
      name: np.empty((num_images, sizes[name] // (4 * num_images)), np.float32)
      for name in group
    }
    for start in range(0, num_images, batch_size):
      # The last batch ends at the last image, and repeats some before it.
      start = min(start, num_images - batch_size)
      block = run(state, jnp.asarray(images[start : start + batch_size]))
      for name, values in block.items():
        held[name][start : start + batch_size] = values
    for name in group:
      yield name, held.pop(name)
