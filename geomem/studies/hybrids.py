"""Hybrid networks: some layers from another epoch, the rest from the last.

Hybrids that agree in their first layers share the computation of these layers:
the layers form a tree, and each node costs one layer. All nodes of a depth that
take their layer from the same network run in one vmapped call, so the program
is as large as that of two networks, however many hybrids there are.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from geomem import compilation, data, models, parallel, training
from geomem.studies.experiment import shapes_of

# Whether each layer in order, without the input, is from the other epoch. The
# mask of a network's first layers identifies a node of the tree.
Mask = tuple[bool, ...]


class Hybrids(NamedTuple):
  """The parts that hybrids are assembled from.

  Attributes:
    network: the network.
    last: the state that all hybrids start from.
    other: the states of the layers that replace those of `last`.
    statistics: batch statistics that replace a layer's own, by node.
  """

  network: models.Network
  last: dict[str, Any]
  other: dict[str, Any]
  statistics: dict[Mask, dict[str, Any]]

  def layer_state(self, node: Mask) -> dict[str, Any]:
    """Returns the state of a node's last layer; empty if it has none."""
    name = self.network.layer_names[len(node)]
    source = self.other if node[-1] else self.last
    if name not in source:
      return {}
    state = {name: source[name]}
    if node in self.statistics:
      parameters, _ = self.network.split(state)
      state = self.network.merge(parameters, self.statistics[node])
    return state[name]

  def state(self, mask: Mask) -> dict[str, Any]:
    """Returns the state of a whole hybrid."""
    names = self.network.layer_names
    return {
      names[depth]: self.layer_state(mask[:depth])
      for depth in range(1, len(names))
      if names[depth] in self.last
    }


def mask_of(network: models.Network, layers: Sequence[str]) -> Mask:
  """Returns the mask that replaces the given layers."""
  return tuple(name in layers for name in network.layer_names[1:])


def mixed_layers(network: models.Network, mask: Mask) -> list[str]:
  """Lists the layers whose output depends on layers of both epochs."""
  names, mixed, flags = network.layer_names[1:], [], set()
  for name, flag in zip(names, mask, strict=True):
    if name in network.parameter_layers:
      flags.add(flag)
    if len(flags) == 2:
      mixed.append(name)
  return mixed


def _run_nodes(network, nodes, source, statistics, inputs, fit):
  """Runs one layer at several nodes; returns outputs and fits by node."""
  name = network.layer_names[len(nodes[0])]

  def layer(parameters, own, x):
    state = network.merge(parameters, own).get(name, {})
    options = {"train": True, "momentum": 0.0} if fit else {}
    output, new = network.apply_layer(name, state, x, **options)
    return output, network.split({name: new})[1] if fit and new else {}

  state = {name: source[name]} if name in source else {}
  (parameters, stats), axis = network.split(state), None
  if nodes[0] in statistics:
    each = [statistics[node] for node in nodes]
    stats, axis = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), 0
  outputs, stacked = jax.vmap(layer, (None, axis, 0))(
    parameters, stats, jnp.stack(inputs)
  )
  at = range(len(nodes))
  fits = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in at]
  return dict(zip(nodes, outputs, strict=True)), dict(
    zip(nodes, fits, strict=True)
  )


def _run(network, masks, parts, x, fit=False):
  """Runs all hybrids; returns outputs by mask and fitted statistics by node."""
  last, other, statistics = parts
  outputs, fitted = {(): x}, {}
  for depth in range(1, len(network.layer_names)):
    before, outputs = outputs, {}
    level = sorted({mask[:depth] for mask in masks})
    for source, flag in ((last, False), (other, True)):
      nodes = [node for node in level if node[-1] == flag]
      if nodes:
        inputs = [before[node[:-1]] for node in nodes]
        results = _run_nodes(network, nodes, source, statistics, inputs, fit)
        outputs |= results[0]
        fitted |= {node: new for node, new in results[1].items() if new}
  return outputs, fitted


@functools.cache
def _compiled_logits(network: models.Network, masks: tuple[Mask, ...]):
  """Compiles the `[masks, n, classes]` logits of images that are sharded."""

  def run(parts, images, mean, std):
    x = data.normalize(images, mean, std)
    outputs, _ = _run(network, masks, parts, x)
    return jnp.stack([outputs[mask] for mask in masks]).astype(jnp.float32)

  return compilation.jit(parallel.by_examples(run, argument=1, axis=1))


@functools.cache
def _compiled_fit(network: models.Network, masks: tuple[Mask, ...]):
  """Compiles the batch statistics by node, over all images as one batch."""

  def run(parts, images, mean, std):
    x = parallel.share(data.normalize(images, mean, std))
    return _run(network, masks, parts, x, fit=True)[1]

  return compilation.jit(run)


def _block_size(network: models.Network, masks: Sequence[Mask]) -> int:
  """Returns the images per device for which the widest level fits."""
  sizes = [x.size * x.dtype.itemsize for x in shapes_of(network).values()]
  widest = max(
    size * len({mask[:depth] for mask in masks})
    for depth, size in zip(range(len(masks[0]) + 1), sizes, strict=False)
  )
  # Measured: on a CPU, a level should fit in the cache of a core.
  on_cpu = jax.default_backend() == "cpu"
  budget, largest = (2**24, 512) if on_cpu else (2**32, 4096)
  return min(max(32, budget // widest), largest)


def hybrid_logits(
  hybrids: Hybrids,
  masks: Sequence[Mask],
  images: UInt8[data.Images, "n H W C"],
  mean: Float[np.ndarray, " C"],
  std: Float[np.ndarray, " C"],
) -> Iterator[Float[Array, "masks b classes"]]:
  """Yields the logits of hybrids for successive blocks of images.

  They are replicated on every device. The moments are those of the pixels, by
  channel.
  """
  masks = tuple(masks)
  run = _compiled_logits(hybrids.network, masks)
  size = _block_size(hybrids.network, masks)
  for count, block in training.padded_blocks(images, size):
    yield parallel.gather(run(hybrids[1:], block, mean, std))[:, :count]


def reestimate(
  hybrids: Hybrids,
  masks: Sequence[Mask],
  images: UInt8[data.Images, "n H W C"],
  mean: Float[np.ndarray, " C"],
  std: Float[np.ndarray, " C"],
) -> Hybrids:
  """Returns the hybrids with re-estimated batch statistics.

  The statistics of a layer are taken over its input, which the layers below
  compute with re-estimated statistics, all images as one batch.
  """
  fit = _compiled_fit(hybrids.network, tuple(masks))
  parts = hybrids[1:3]
  statistics = fit((*parts, {}), jnp.asarray(images), mean, std)
  return hybrids._replace(statistics=statistics)
