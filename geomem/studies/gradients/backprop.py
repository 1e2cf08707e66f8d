"""Full-set gradients, split into a label part and a label-independent part.

An example's loss −log softmax(f)_y has the gradient Jᵀ(p − e_y), J = ∂f/∂θ.
Averaged over a set it is the sum of two parts,

  label        −⟨Jᵀe_y⟩        centred −⟨Jᵀ(e_y − 1/C)⟩
  independent   ⟨Jᵀp⟩          centred  ⟨Jᵀ(p − 1/C)⟩

A vector-Jacobian product is linear in its cotangent, so every part is a linear
combination of four products after one forward pass: `BASIS`. The total is one
of them, since at the end of training it is a small difference of large parts.

With ē the class frequencies of the set, −⟨Jᵀ(e_y − ē)⟩ is the covariance of the
one-hot labels with J, which is zero where labels do not depend on the images.

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

# p − e_y, 1/C − e_y, 1/C, and ē − 1/C for the class frequencies ē of a block.
BASIS = ("total", "label", "mean", "frequencies")
BATCH_SIZE = 64


class Examples(NamedTuple):
  """Images and their training labels, in the order of the batches.

  Attributes:
    images: `[n, H, W, C]` uint8.
    labels: `[n]`.
    mean: `[C]` mean of the training pixels.
    std: `[C]` standard deviation of the training pixels.
  """

  images: UInt8[data.Images, "n H W C"]
  labels: Int[np.ndarray, " n"]
  mean: Float[np.ndarray, " C"]
  std: Float[np.ndarray, " C"]


class BlockSums(NamedTuple):
  """Gradient sums over consecutive blocks of a set.

  Attributes:
    sums: `[blocks, 4, P]` by layer: block, `BASIS`, flattened parameters.
    counts: `[blocks]` number of examples in each block.
  """

  sums: dict[str, Float[Array, "blocks 4 P"]]
  counts: Int[np.ndarray, " blocks"]


def basis_cotangents(
  logits: Float[Array, "n C"],
  labels: Int[Array, " n"],
  weights: Float[Array, " n"],
  frequencies: Float[Array, " C"],
) -> Float[Array, "4 n C"]:
  """Computes the cotangents of `BASIS`, weighted by example."""
  p = jax.nn.softmax(logits)
  e = jax.nn.one_hot(labels, logits.shape[1])
  level = jnp.full_like(p, 1 / logits.shape[1])
  uneven = jnp.broadcast_to(frequencies, p.shape) - level
  return jnp.stack([p - e, level - e, level, uneven]) * weights[None, :, None]


def pull_back(
  network: models.Network,
  state: dict[str, Any],
  images: Float[Array, "n H W C"],
  cotangents: Callable[[Array], Float[Array, "k n C"]],
  *,
  train: bool = False,
) -> dict[str, Float[Array, "k P"]]:
  """Applies Jᵀ to several cotangents of one forward pass.

  Args:
    network: the network.
    state: its state.
    images: normalized images.
    cotangents: maps the logits to the cotangents.
    train: whether batch norm uses the batch's own statistics.

  Returns:
    By layer, one row per cotangent with the parameters flattened.
  """
  parameters, statistics = network.split(state)

  def logits_of(parameters):
    merged = network.merge(parameters, statistics)
    return network.apply(merged, images, train=train).logits

  logits, pull = jax.vjp(logits_of, parameters)
  # Unrolled: with vmap, VGG16 takes half as long again on CPU.
  parts = [pull(cotangent)[0] for cotangent in cotangents(logits)]
  return {
    layer: jnp.stack([_flat(part[layer]) for part in parts])
    for layer in network.parameter_layers
  }


def _flat(tree) -> Array:
  return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


@functools.cache
def _compiled(network: models.Network, train: bool):
  def add(sums, state, images, labels, weights, frequencies, mean, std):
    gradients = pull_back(
      network,
      state,
      data.normalize(images, mean, std),
      lambda logits: basis_cotangents(logits, labels, weights, frequencies),
      train=train,
    )
    return jax.tree.map(jnp.add, sums, gradients)

  return jax.jit(add)


def padded_batch(
  examples: Examples, start: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns images, labels and weights of a batch; padding has weight 0."""
  indices = start + np.arange(batch_size)
  weights = (indices < len(examples.labels)).astype(np.float32)
  indices = np.minimum(indices, len(examples.labels) - 1)
  images = np.asarray(examples.images[indices])
  return images, examples.labels[indices], weights


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

  Memory holds at most `num_blocks` sums, and no gradients of single examples.

  Args:
    network: the network.
    state: its state.
    examples: the set, in random order where blocks must be exchangeable.
    num_blocks: upper bound on the blocks; each consists of whole batches.
    batch_size: examples per batch.
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
  if not train:
    num_batches = -(-num_examples // batch_size)
  batches = np.arange(num_batches)
  blocks, counts = [], []
  for block in np.array_split(batches, min(num_blocks, num_batches)):
    starts = batch_size * block
    stop = min(starts[-1] + batch_size, num_examples)
    sums = _block_sum(network, state, examples, starts, stop, batch_size, train)
    blocks.append(sums)
    counts.append(int(stop - starts[0]))
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *blocks)
  return BlockSums(stacked, np.array(counts))


def _block_sum(network, state, examples, starts, stop, batch_size, train):
  """Sums the basis gradients of one block, `[4, P]` by layer."""
  add = _compiled(network, train)
  num_classes = jax.tree.leaves(network.abstract_state["logits"])[0].shape[-1]
  labels = examples.labels[starts[0] : stop]
  counts = np.bincount(labels, minlength=num_classes)
  frequencies = (counts / len(labels)).astype(np.float32)
  parameters, _ = network.split(network.abstract_state)
  sums = {
    layer: jnp.zeros((len(BASIS), sum(x.size for x in jax.tree.leaves(tree))))
    for layer, tree in parameters.items()
  }
  for start in starts.tolist():
    batch = padded_batch(examples, start, batch_size)
    sums = add(sums, state, *batch, frequencies, examples.mean, examples.std)
  return sums
