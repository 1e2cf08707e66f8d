"""The Gram statistics of a network's layers, whatever their size."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from geomem import geometry
from geomem.measures import activations

# Layers that take more than this are gone over twice, manifold by manifold.
MAX_HELD_BYTES = 2**32


def layer_statistics(
  forward: activations.Forward,
  state: Any,
  images: dict[str, Array | np.ndarray],
  layers: Sequence[str],
  *,
  max_bytes: int = MAX_HELD_BYTES,
) -> Iterator[tuple[str, geometry.GramStatistics]]:
  """Computes the statistics of layers, those of the subsets stacked.

  A layer of at most `max_bytes` is held whole, on the devices. For a larger one
  the network runs twice over the images: once for the centres of all manifolds,
  and once for the products, a few manifolds at a time.

  Args:
    forward: as in `activations.layer_blocks`.
    state: its first argument.
    images: `[P, M, ...]` of each subset, by its name.
    layers: names of the layers, in the order wanted.
    max_bytes: bound on the activations of one layer, all subsets together.

  Yields:
    The layer's name, and statistics with a leading axis for the subsets.

  Raises:
    ValueError: points are not finite; it names the layer and the subset.
  """
  names, stacked = list(images), jnp.stack(list(images.values()))
  each = activations.layer_bytes(forward, state, stacked[0, 0])
  count = int(np.prod(stacked.shape[:3]))
  for fits, group in itertools.groupby(
    layers, lambda name: count * each[name] <= max_bytes
  ):
    gather = _in_one_pass if fits else _in_two_passes
    for layer, makers in gather(forward, state, stacked, tuple(group)):
      found = [
        _made(make, layer, name)
        for make, name in zip(makers, names, strict=True)
      ]
      yield layer, jax.tree.map(lambda *xs: jnp.stack(xs), *found)


def _made(make, layer: str, name: str) -> geometry.GramStatistics:
  try:
    return make()
  except ValueError as error:
    raise ValueError(f"layer {layer}, {name} examples: {error}") from error


def _in_one_pass(forward, state, images, layers):
  flat = images.reshape(-1, *images.shape[3:])
  for layer, points in activations.layer_blocks(forward, state, flat, layers):
    points = points.reshape(*images.shape[:3], -1)
    # Features that fill up are zero, and add nothing to any product.
    yield (
      layer,
      [
        functools.partial(
          geometry.gram_statistics,
          points[subset],
          block_size=activations.feature_block(),
        )
        for subset in range(len(points))
      ],
    )


def _in_two_passes(forward, state, images, layers):
  for layer in layers:
    yield (
      layer,
      [
        functools.partial(
          geometry.statistics_by_manifold,
          functools.partial(
            activations.manifold_blocks, forward, state, subset, layer
          ),
        )
        for subset in images
      ],
    )
