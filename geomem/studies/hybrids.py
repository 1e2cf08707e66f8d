"""Hybrid networks: some layers of one epoch, the others of the last.

Networks that agree in their first layers share the work there: run in the
order of a tree of their layers, each node costs one layer. Layers run one by
one through the same programs in every hybrid, so equal layers give equal bits.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from geomem import data, models, parallel, training

# Of each layer in order, the input not among them: is it the other epoch's?
# That of a network's first layers names a node of the tree.
Mask = tuple[bool, ...]


class Hybrids(NamedTuple):
  """Everything of which hybrids are made.

  Attributes:
    network: the network.
    last: the state that they have in common.
    other: the layers that take the place of those of `last`.
    statistics: batch statistics in place of a layer's own, by node.
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
  """Returns the mask under which these layers are replaced."""
  return tuple(name in layers for name in network.layer_names[1:])


def mixed_layers(network: models.Network, mask: Mask) -> list[str]:
  """Lists the layers that have layers of both epochs below them."""
  names, mixed, flags = network.layer_names[1:], [], set()
  for name, flag in zip(names, mask, strict=True):
    if name in network.parameter_layers:
      flags.add(flag)
    if len(flags) == 2:
      mixed.append(name)
  return mixed


def _walk(
  masks: Sequence[Mask], run_layer: Callable[[Mask, Array], Array], x: Array
) -> Iterator[tuple[Mask, Array]]:
  """Runs every network from `x`, shared layers once; yields outputs."""
  held, previous = [x], ()
  for mask in sorted(masks):
    shared = 0
    while mask[: shared + 1] == previous[: shared + 1] and shared < len(mask):
      shared += 1
    del held[shared + 1 :]
    for depth in range(shared, len(mask)):
      held.append(run_layer(mask[: depth + 1], held[-1]))
    yield mask, held[-1]
    previous = mask


@functools.cache
def _evaluate_layer(network: models.Network, name: str):
  return jax.jit(lambda state, x: network.apply_layer(name, state, x)[0])


@functools.cache
def _fit_layer(network: models.Network, name: str):
  """Compiles a layer's output and its own batch statistics."""

  def fit(state, x):
    x = parallel.share(x)
    output, new = network.apply_layer(name, state, x, train=True, momentum=0.0)
    return output, network.split({name: new})[1] if new else {}

  return jax.jit(fit)


_normalize = jax.jit(data.normalize)


def hybrid_logits(
  hybrids: Hybrids,
  masks: Sequence[Mask],
  images: UInt8[data.Images, "n H W C"],
  mean: Float[np.ndarray, " C"],
  std: Float[np.ndarray, " C"],
) -> Iterator[tuple[Mask, Float[Array, "b classes"]]]:
  """Yields the logits of every hybrid, block by block of images in order.

  Args:
    hybrids: what they are made of.
    masks: which.
    images: all of them.
    mean: of the pixels.
    std: of the pixels.

  Yields:
    The mask, and the logits of the next images, on every device.
  """
  names = hybrids.network.layer_names

  def run_layer(node, x):
    layer = _evaluate_layer(hybrids.network, names[len(node)])
    return layer(hybrids.layer_state(node), x)

  for count, block in training.padded_blocks(images):
    x = _normalize(block, mean, std)
    for mask, logits in _walk(masks, run_layer, x):
      yield mask, parallel.gather(logits.astype(jnp.float32))[:count]


def reestimate(
  hybrids: Hybrids,
  masks: Sequence[Mask],
  images: UInt8[data.Images, "n H W C"],
  mean: Float[np.ndarray, " C"],
  std: Float[np.ndarray, " C"],
) -> Hybrids:
  """Returns the hybrids with batch statistics of their own.

  Every layer's are over what the layers below make of the images under
  statistics that are re-estimated already, all images as one batch.
  """
  names = hybrids.network.layer_names
  statistics = {}

  def run_layer(node, x):
    fit = _fit_layer(hybrids.network, names[len(node)])
    output, found = fit(hybrids.layer_state(node), x)
    if found:
      statistics[node] = found
    return output

  for _ in _walk(masks, run_layer, _normalize(jnp.asarray(images), mean, std)):
    pass
  return hybrids._replace(statistics=statistics)
