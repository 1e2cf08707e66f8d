"""The sufficient statistics of a network's layers, whatever their size."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from geomem import geometry, parallel, shares
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
    ValueError: points are not finite, naming the layer and the subset; or the
      products of all points, or the points that they need, exceed `max_bytes`.
  """
  names, arrays = list(images), list(images.values())
  # Arrays on the host may be larger than a device's memory.
  on_host = isinstance(arrays[0], np.ndarray)
  stacked = np.stack(arrays) if on_host else jnp.stack(arrays)
  image_bytes = activations.layer_bytes(forward, state, stacked[0, 0])
  count = int(np.prod(stacked.shape[:3]))
  max_bytes = most_held_bytes() if max_bytes is None else max_bytes
  if "points" in kinds:
    _check_room(image_bytes, layers, stacked.shape, max_bytes)
  for fits, group in itertools.groupby(
    layers, lambda name: count * image_bytes[name] <= max_bytes
  ):
    gather = _in_one_pass if fits else _in_two_passes
    yield from gather(forward, state, stacked, tuple(group), kinds, names)


def _check_room(each, layers, shape, max_bytes: int) -> None:
  """Raises if the products of all points, or a layer's points, do not fit."""
  num_subsets, P, M = shape[:3]
  needed = num_subsets * product_bytes(P, M)
  if needed > max_bytes:
    raise ValueError(
      f"The products of all {P * M:,} points with each other take"
      f" {needed / 1e9:.1f} GB for {num_subsets} subsets, more than the"
      f" {max_bytes / 1e9:.1f} GB that are held: measure fewer points of each"
      " manifold, or fewer subsets."
    )
  for name in layers:
    if num_subsets * P * M * each[name] > max_bytes:
      raise ValueError(
        f"Layer {name} takes {num_subsets * P * M * each[name] / 1e9:.1f} GB,"
        f" more than the {max_bytes / 1e9:.1f} GB that are held, and the"
        " products of all its points need it whole: name the other layers with"
        " --layers, or measure fewer points of each manifold."
      )


def _stacked(makers, layer: str, names: Sequence[str]) -> dict[str, Any]:
  """Calls the function of each subset and stacks the results."""
  results = []
  for make, name in zip(makers, names, strict=True):
    try:
      results.append(make())
    except ValueError as error:
      raise ValueError(f"layer {layer}, {name} examples: {error}") from error
  return jax.tree.map(lambda *xs: jnp.stack(xs), *results)


def _in_one_pass(forward, state, images, layers, kinds, names):
  size = activations.feature_block()

  def make(points):
    return {kind: STATISTICS[kind](points, block_size=size) for kind in kinds}

  flat = images.reshape(-1, *images.shape[3:])
  for layer, points in activations.layer_blocks(forward, state, flat, layers):
    # Padding features are zero and add nothing to any product.
    points = points.reshape(*images.shape[:3], -1)
    devices = shares.devices_for(points)
    if devices != parallel.mesh():
      placed = shares.place(points, devices)
      stats, is_finite = _on_cores(kinds, len(points), devices, placed)
      if np.asarray(is_finite).all():
        yield layer, stats
        continue
      # The other path raises an error that says what is not finite.
    # By index: arrays that several processes share cannot be iterated over.
    makers = [functools.partial(make, points[i]) for i in range(len(points))]
    yield layer, _stacked(makers, layer, names)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _on_cores(kinds, num_subsets, devices, points):
  """Computes the statistics of the subsets and whether they are finite."""

  def of_subset(points):
    stats = {kind: STATISTICS[kind](points) for kind in kinds}
    finite = [jnp.isfinite(x).all() for x in (points, *jax.tree.leaves(stats))]
    return stats, jnp.stack(finite).all()

  results = shares.map_over(of_subset, points, devices)
  return jax.tree.map(lambda x: x[:num_subsets], results)


def _in_two_passes(forward, state, images, layers, kinds, names):
  del kinds  # Two passes give only the statistics of manifolds.

  def make(subset, layer):
    blocks = functools.partial(
      activations.manifold_blocks, forward, state, subset, layer
    )
    return {"manifolds": geometry.statistics_by_manifold(blocks)}

  for layer in layers:
    makers = [functools.partial(make, x, layer) for x in images]
    yield layer, _stacked(makers, layer, names)
