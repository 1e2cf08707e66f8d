"""The sufficient statistics of a network's layers, whatever their size."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from geomem import geometry
from geomem.geometry.products import product_bytes
from geomem.measures import activations
from geomem.measures.measure import STATISTICS

# Larger layers take two passes, a few manifolds at a time. On small
# accelerators a quarter of the memory leaves room for the products.
_MOST_HELD_BYTES = 2**32


def most_held_bytes() -> int:
  """Returns the bound on the bytes of one layer's activations held at once."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  limit = sum(of_device.get("bytes_limit", 0) for of_device in stats)
  limit *= jax.process_count()
  return min(_MOST_HELD_BYTES, limit // 4 or _MOST_HELD_BYTES)


def layer_statistics(
  forward: activations.Forward,
  state: Any,
  images: dict[str, Array | np.ndarray],
  layers: Sequence[str],
  *,
  kinds: Sequence[str] = ("manifolds",),
  max_bytes: int | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the statistics of layers, stacked over the subsets.

  A layer of at most `max_bytes` is held whole on the devices. For a larger one
  the network runs twice over the images: once for the centres of all manifolds,
  and once for the products, a few manifolds at a time.

  Args:
    forward: as in `activations.layer_blocks`.
    state: first argument of `forward`.
    images: `[P, M, ...]` of each subset, by its name.
    layers: names of the layers, in the order of the result.
    kinds: names in `STATISTICS`.
    max_bytes: bound on the bytes held of one layer, for all subsets together;
      by default `most_held_bytes()`.

  Yields:
    The layer's name and its statistics by kind, with a leading axis for the
    subsets.

  Raises:
    ValueError: there are no subsets, or they differ in shape; points are not
      finite, naming the layer and the subset; or the products of all points, or
      the points that they need, exceed `max_bytes`.
  """
  arrays = list(images.values())
  shapes = {name: np.shape(array) for name, array in images.items()}
  if len(set(shapes.values())) != 1:
    raise ValueError(
      f"The images have the shapes {shapes}; those of at least one subset, of"
      " one shape, were expected."
    )
  # Arrays on the host may be larger than a device's memory.
  on_host = isinstance(arrays[0], np.ndarray)
  stacked = np.stack(arrays) if on_host else jnp.stack(arrays)
  image_bytes = activations.layer_bytes(forward, state, stacked[0, 0], layers)
  count = int(np.prod(stacked.shape[:3]))
  max_bytes = most_held_bytes() if max_bytes is None else max_bytes
  if "points" in kinds:
    check_room(image_bytes, stacked.shape[:3], max_bytes)
  for fits, group in itertools.groupby(
    layers, lambda name: count * image_bytes[name] <= max_bytes
  ):
    gather = _in_one_pass if fits else _in_two_passes
    for layer, make in gather(forward, state, stacked, tuple(group), kinds):
      stats = []
      for i, name in enumerate(images):
        try:
          stats.append(make(i))
        except ValueError as error:
          raise ValueError(
            f"layer {layer}, {name} examples: {error}"
          ) from error
      yield layer, jax.tree.map(lambda *xs: jnp.stack(xs), *stats)


def check_room(
  layers: dict[str, int],
  shape: tuple[int, int, int],
  max_bytes: int | None = None,
) -> None:
  """Checks the room for statistics of the kind `points`.

  `layers` has the bytes of one image's activations, and `shape` the numbers of
  subsets, manifolds and points.

  Raises:
    ValueError: the products of all points, or a layer's points, do not fit.
  """
  num_subsets, P, M = shape
  max_bytes = most_held_bytes() if max_bytes is None else max_bytes
  needed = num_subsets * product_bytes(P, M)
  if needed > max_bytes:
    raise ValueError(
      f"The products of all {P * M:,} points with each other take"
      f" {needed / 1e9:.1f} GB for {num_subsets} subsets, more than the"
      f" {max_bytes / 1e9:.1f} GB that are held: measure fewer points of each"
      " manifold, or fewer subsets."
    )
  for name, size in layers.items():
    needed = num_subsets * P * M * size
    if needed > max_bytes:
      raise ValueError(
        f"Layer {name} takes {needed / 1e9:.1f} GB,"
        f" more than the {max_bytes / 1e9:.1f} GB that are held, and the"
        " products of all its points need it whole: name the other layers with"
        " --layers, or measure fewer points of each manifold."
      )


def _in_one_pass(forward, state, images, layers, kinds):
  """Yields layers with a function from a subset's index to its statistics."""
  flat = images.reshape(-1, *images.shape[3:])
  size = activations.feature_block()
  for layer, points in activations.layer_blocks(forward, state, flat, layers):
    # Padding features are zero, and add nothing to any product. By index, as
    # arrays that several processes share cannot be iterated over.
    points = points.reshape(*images.shape[:3], -1)
    yield (
      layer,
      lambda i, points=points: {
        kind: STATISTICS[kind](points[i], block_size=size) for kind in kinds
      },
    )


def _in_two_passes(forward, state, images, layers, kinds):
  """Yields the same; two passes give only the statistics of manifolds."""
  del kinds

  def make(layer, i):
    blocks = functools.partial(
      activations.manifold_blocks, forward, state, images[i], layer
    )
    return {"manifolds": geometry.statistics_by_manifold(blocks)}

  for layer in layers:
    yield layer, functools.partial(make, layer)
