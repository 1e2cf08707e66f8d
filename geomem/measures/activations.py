"""Activations of every layer over many images, in blocks of bounded memory.

Layers that fit in memory are collected on the devices, several from one pass
over the images. A layer that does not fit is computed a few manifolds at a time
and never collected.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geomem import compilation, parallel
from geomem.geometry import checks

_FEATURE_BLOCK = 8192
# (state, images) -> activations by layer name.
Forward = Callable[[Any, Array], dict[str, Array]]


@functools.lru_cache(maxsize=256)
def _compiled(forward: Forward, layers: tuple[str, ...]):
  """Compiles what writes a block's activations into rows of donated arrays.

  These are sharded by features; jit drops all layers that are not asked for.
  """

  def run(held, state, images, start):
    activations = forward(state, images)
    for name in layers:
      count, width = held[name].shape
      values = activations[name].reshape(len(images), -1)[:count]
      values = values.astype(jnp.float32)
      values = jnp.pad(values, ((0, 0), (0, width - values.shape[1])))
      held[name] = jax.lax.dynamic_update_slice_in_dim(
        held[name], values, start, 0
      )
    return held

  return compilation.jit(run, donate_argnums=0, out_shardings=parallel.along(1))


@functools.lru_cache(maxsize=256)
def _compiled_manifolds(forward: Forward, layer: str, shape: tuple[int, int]):
  """Compiles images `[m M, ...]` to points `[m, M, N]`, sharded by features."""

  def run(state, images):
    # Up to here sharded by images, as the network's layers are.
    points = parallel.share(forward(state, images)[layer])
    points = points.reshape(len(images), -1)
    # Padding images are dropped; features of zeros add nothing to any product.
    points = points[: shape[0] * shape[1]].astype(jnp.float32)
    padding = parallel.missing(points.shape[1])
    return jnp.pad(points, ((0, 0), (0, padding))).reshape(*shape, -1)

  return compilation.jit(run, out_shardings=parallel.along(2))


def feature_block() -> int | None:
  """Returns how many features the statistics take at a time; None for all."""
  # Blocks let one program serve layers of all widths on an accelerator.
  if jax.default_backend() == "cpu" or parallel.mesh().size > 1:
    return None
  return _FEATURE_BLOCK


def layer_bytes(
  forward: Forward,
  state: Any,
  images: np.ndarray | Array,
  layers: Sequence[str],
) -> dict[str, int]:
  """Returns the bytes of one image's float32 activations, by layer.

  Raises:
    ValueError: `forward` returns no layers, or not these.
  """
  image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
  shapes = jax.eval_shape(forward, state, image)
  if not isinstance(shapes, dict):
    raise ValueError(
      f"forward returns {type(shapes).__name__}; a dict of activations by the"
      " names of the layers was expected."
    )
  for name in layers:
    if name not in shapes:
      raise ValueError(
        f"There is no layer {name!r} among the activations; choose from"
        f" {', '.join(shapes)}."
      )
  return {name: 4 * shapes[name].size for name in layers}


def group_layers(sizes: dict[str, int], max_size: int) -> list[tuple[str, ...]]:
  """Groups consecutive layers of at most `max_size` in all, or single ones."""
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
) -> Iterator[tuple[str, Float[Array, "n N"]]]:
  """Yields each layer's activations, flattened, in the given order.

  One pass over the images computes as many layers as fit `max_bytes`.

  Args:
    forward: a pure function `(state, images) -> {layer: [n, ...]}`. Pass the
      same function in all calls: programs are compiled once for each function.
    state: first argument of `forward`.
    images: `[n, ...]`.
    layers: names of the layers, in the order of the result.
    batch_size: images per device in a batch.
    max_bytes: bound on the activations held at once; one layer at least.

  Yields:
    The layer's name and its `[n, N]` float32 activations, sharded over the
    devices by features and possibly padded with features of zeros.

  Raises:
    ValueError: there are no images, a layer is unknown, or a bound is not a
      positive whole number.
  """
  num_images = len(images)
  if not num_images:
    raise ValueError("There are no images; at least one was expected.")
  checks.counts(batch_size=batch_size, max_bytes=max_bytes)
  batch_size = min(batch_size * parallel.mesh().size, num_images)
  image_bytes = layer_bytes(forward, state, images, layers)
  step = feature_block() or parallel.mesh().size
  widths = {n: step * -(-size // (4 * step)) for n, size in image_bytes.items()}
  sizes = {name: 4 * num_images * width for name, width in widths.items()}
  for group in group_layers(sizes, max_bytes):
    run = _compiled(forward, group)
    held = {
      name: jnp.zeros(
        (num_images, widths[name]), jnp.float32, device=parallel.along(1)
      )
      for name in group
    }
    for start in range(0, num_images, batch_size):
      # The last batch ends at the last image, and may repeat earlier ones.
      start = min(start, num_images - batch_size)
      block = parallel.shard(images[start : start + batch_size])
      held = run(held, state, block, start)
    for name in group:
      yield name, held.pop(name)


def manifold_blocks(
  forward: Forward,
  state: Any,
  images: np.ndarray | Array,
  layer: str,
  *,
  batch_size: int = 512,
  max_bytes: int = 2**28,
) -> Iterator[Float[Array, "m M N"]]:
  """Yields one layer's activations, a few manifolds at a time.

  Takes the images `[P, M, ...]` of one layer, and otherwise what `layer_blocks`
  takes; `max_bytes` bounds a batch's activations on each device. A batch has at
  least one manifold. Points are sharded and padded likewise.
  """
  num_manifolds, num_points = images.shape[:2]
  each = layer_bytes(forward, state, images[0], [layer])[layer]
  most = min(batch_size, max_bytes // each) * parallel.mesh().size // num_points
  # A divisor of P, so that one program serves all blocks.
  divisors = (m for m in range(1, num_manifolds + 1) if num_manifolds % m == 0)
  size = max(m for m in divisors if m <= max(most, 1))
  run = _compiled_manifolds(forward, layer, (size, num_points))
  for start in range(0, num_manifolds, size):
    block = images[start : start + size].reshape(-1, *images.shape[2:])
    yield run(state, parallel.shard(block))
