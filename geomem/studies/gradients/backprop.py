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
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from geomem import compilation, data, models

# p − e_y, 1/C − e_y, 1/C, and ē − 1/C for the class frequencies ē of a block.
BASIS = ("total", "label", "mean", "frequencies")
BATCH_SIZE = 64
# Upper bound on the blocks of a set.
_NUM_BLOCKS = 8


class Examples(NamedTuple):
  """Images and labels in the order of the batches; moments of all pixels."""

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
  """Applies Jᵀ to several cotangents, which depend on the logits.

  Returns, by layer, one row per cotangent with the parameters flattened. With
  `train`, batch norm uses the batch's own statistics.
  """
  parameters, statistics = network.split(state)

  def logits_of(parameters):
    merged = network.merge(parameters, statistics)
    return network.apply(merged, images, train=train).logits

  logits, pull = jax.vjp(logits_of, parameters)
  # Unrolled: with vmap, VGG16 takes half as long again on CPU.
  parts = [pull(cotangent)[0] for cotangent in cotangents(logits)]

  def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

  return {
    layer: jnp.stack([flat(part[layer]) for part in parts])
    for layer in network.parameter_layers
  }


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

  return compilation.jit(add)


def padded_batches(
  examples: Examples, starts: Iterable[int], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields images, indices and weights of batches; padding has weight 0."""
  last = len(examples.labels) - 1
  for start in starts:
    indices = start + np.arange(batch_size)
    weights = (indices <= last).astype(np.float32)
    indices = np.minimum(indices, last)
    yield np.asarray(examples.images[indices]), indices, weights


def block_sums(
  network: models.Network,
  state: dict[str, Any],
  examples: Examples,
  *,
  batch_size: int = BATCH_SIZE,
  train: bool = False,
) -> BlockSums:
  """Sums the basis gradients over blocks of a set, in float32.

  Each block consists of whole batches; memory holds the sums of all blocks, and
  no gradients of single examples. Blocks are exchangeable if the examples are
  in random order. With `train`, batch norm uses each batch's own statistics,
  and the remainder after the last full batch is left out.

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
  starts = np.arange(0, num_examples, batch_size)
  if train:
    starts = starts[: num_examples // batch_size]
  sums, counts = [], []
  for of_block in np.array_split(starts, min(_NUM_BLOCKS, len(starts))):
    stop = min(of_block[-1] + batch_size, num_examples)
    labels = examples.labels[of_block[0] : stop]
    batches = padded_batches(examples, of_block.tolist(), batch_size)
    sums.append(_block_sum(network, state, examples, labels, batches, train))
    counts.append(len(labels))
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *sums)
  return BlockSums(stacked, np.array(counts))


def _block_sum(network, state, examples, labels, batches, train):
  """Sums the basis gradients of one block, `[4, P]` by layer."""
  add = _compiled(network, train)
  num_classes = jax.tree.leaves(network.abstract_state["logits"])[0].shape[-1]
  counts = np.bincount(labels, minlength=num_classes)
  frequencies = (counts / len(labels)).astype(np.float32)
  parameters, _ = network.split(network.abstract_state)
  sums = {
    layer: jnp.zeros((len(BASIS), sum(x.size for x in jax.tree.leaves(tree))))
    for layer, tree in parameters.items()
  }
  moments = examples.mean, examples.std
  for images, indices, weights in batches:
    batch = images, examples.labels[indices], weights
    sums = add(sums, state, *batch, frequencies, *moments)
  return sums
