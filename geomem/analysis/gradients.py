"""Full-set gradients, split by what depends on the labels.

An example's loss −log softmax(f)_y has the gradient Jᵀ(p − e_y), J = ∂f/∂θ.
Averaged over a set it is the sum of two parts,

  label        −⟨Jᵀe_y⟩        centred −⟨Jᵀ(e_y − 1/C)⟩
  independent   ⟨Jᵀp⟩          centred  ⟨Jᵀ(p − 1/C)⟩

A vector-Jacobian product is linear in its cotangent, so every part is a
combination of three that one forward pass serves: `BASIS`. The total is one of
them, since at the end of training it is a small difference of large parts.

Source: Stephenson et al., ICLR 2021, eq. 25 and figure A.1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from geomem import data, models

# p − e_y, 1/C − e_y and 1/C.
BASIS = ("total", "label", "mean")
BATCH_SIZE = 64


class Examples(NamedTuple):
  """Images and the labels they are trained on, in the order they are taken.

  Attributes:
    images: `[n, H, W, C]` uint8.
    labels: `[n]`.
    mean: `[C]` mean of the training pixels.
    std: `[C]` their standard deviation.
  """

  images: UInt8[np.ndarray, "n H W C"]
  labels: Int[np.ndarray, " n"]
  mean: Float[np.ndarray, " C"]
  std: Float[np.ndarray, " C"]


def balanced_order(
  labels: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
  """A random order of which every stretch has each label in its proportion.

  Labels that are shuffled among a set's examples are not quite independent: one
  taken here is missing there, and products of the gradients of different blocks
  are negative on average. In blocks of equal class counts they are not.
  """
  place = np.empty(len(labels))
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    place[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
  return np.argsort(place, kind="stable")


class BlockSums(NamedTuple):
  """Sums of the gradients over consecutive blocks of a set.

  Attributes:
    sums: `[blocks, 3, P]` by layer: `BASIS`, the layer's parameters flattened.
    counts: `[blocks]` examples in each.
  """

  sums: dict[str, Float[Array, "blocks 3 P"]]
  counts: Int[np.ndarray, " blocks"]


def basis_cotangents(
  logits: Float[Array, "n C"],
  labels: Int[Array, " n"],
  weights: Float[Array, " n"],
) -> Float[Array, "3 n C"]:
  """The cotangents of `BASIS`, weighted by example."""
  p = jax.nn.softmax(logits)
  e = jax.nn.one_hot(labels, logits.shape[1])
  level = jnp.full_like(p, 1 / logits.shape[1])
  return jnp.stack([p - e, level - e, level]) * weights[None, :, None]


def pull_back(
  network: models.Network,
  state: dict[str, Any],
  images: Float[Array, "n H W C"],
  cotangents: Callable[[Array], Float[Array, "k n C"]],
  *,
  train: bool = False,
) -> dict[str, Float[Array, "k P"]]:
  """Jᵀ applied to several cotangents of one forward pass, summed over images.

  Args:
    network: the network.
    state: its state.
    images: normalized images.
    cotangents: from the logits to the cotangents.
    train: whether batch norm uses the batch's own statistics.

  Returns:
    One row a cotangent, the parameters of each layer flattened.
  """
  parameters, statistics = network.split(state)

  def logits_of(parameters):
    merged = network.merge(parameters, statistics)
    return network.apply(merged, images, train=train).logits

  logits, pull = jax.vjp(logits_of, parameters)
  # Unrolled: vmapped, VGG16's three take half as long again on CPU.
  parts = [pull(cotangent)[0] for cotangent in cotangents(logits)]
  return {
    layer: jnp.stack([_flat(part[layer]) for part in parts])
    for layer in network.parameter_layers
  }


def _flat(tree) -> Array:
  return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


@functools.cache
def _compiled(network: models.Network, train: bool):
  def add(sums, state, images, labels, weights, mean, std):
    images = data.normalize(images, mean, std)
    found = pull_back(
      network,
      state,
      images,
      lambda logits: basis_cotangents(logits, labels, weights),
      train=train,
    )
    return jax.tree.map(jnp.add, sums, found)

  return jax.jit(add)


def padded_batch(
  examples: Examples, start: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images, labels and weights of a batch; padding has the weight zero."""
  indices = start + np.arange(batch_size)
  weights = (indices < len(examples.labels)).astype(np.float32)
  indices = np.minimum(indices, len(examples.labels) - 1)
  return examples.images[indices], examples.labels[indices], weights


def block_sums(
  network: models.Network,
  state: dict[str, Any],
  examples: Examples,
  *,
  num_blocks: int = 8,
  batch_size: int = BATCH_SIZE,
  train: bool = False,
) -> BlockSums:
  """Sums the basis gradients over blocks of a set, in float32.

  No example has a gradient of its own in memory; `num_blocks` sums are held.

  Args:
    network: the network.
    state: its state.
    examples: the set, in a balanced order where blocks shall be alike.
    num_blocks: at most as many; a block is made of whole batches.
    batch_size: examples at a time.
    train: whether batch norm uses each batch's own statistics; the remainder
      after the last full batch is then left out.

  Raises:
    ValueError: in training mode, the set is smaller than a batch.
  """
  num_examples = len(examples.labels)
  if train and num_examples < batch_size:
    raise ValueError(
      f"In training mode a batch is {batch_size} examples, and the set has"
      f" {num_examples}; train with a smaller --batch_size, or measure in"
      " evaluation mode only."
    )
  num_batches = num_examples // batch_size
  if not train and num_examples % batch_size:
    num_batches += 1
  add = _compiled(network, train)
  sizes = {
    layer: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for layer, tree in network.split(network.abstract_state)[0].items()
  }
  blocks, counts = [], []
  for batches in np.array_split(
    np.arange(num_batches), min(num_blocks, num_batches)
  ):
    sums = {n: jnp.zeros((3, sizes[n])) for n in network.parameter_layers}
    count = 0
    for batch in batches:
      taken = padded_batch(examples, batch * batch_size, batch_size)
      sums = add(sums, state, *taken, examples.mean, examples.std)
      count += int(taken[2].sum())
    blocks.append(sums)
    counts.append(count)
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *blocks)
  return BlockSums(stacked, np.array(counts))
