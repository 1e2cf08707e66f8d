"""A network: pure functions of a state that is keyed by layer name."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

# The parts of a layer in the making: from `(features, rngs)` of its input to
# the layer itself.
LayerMaker = Callable[[tuple[int, ...], nnx.Rngs], nnx.Module]
LayerSpec = tuple[str, LayerMaker]


class Output(NamedTuple):
  """What a network gives.

  Attributes:
    logits: `[n, classes]` float32.
    activations: `[n, ...]` by layer name, in order, from `input` to `logits`;
      jit drops those that nobody uses.
    state: the network's state, with updated batch statistics in training.
  """

  logits: Float[Array, "n classes"]
  activations: dict[str, Array]
  state: dict[str, Any]


class _Layers(nnx.Module):
  """The layers as attributes, in order; each sees the shape before it."""

  def __init__(self, specs: tuple[LayerSpec, ...], image_shape, key):
    shape = (1, *image_shape)
    self.names = tuple(name for name, _ in specs)
    for index, (name, make) in enumerate(specs):
      layer = make(shape[1:], nnx.Rngs(jax.random.fold_in(key, index)))
      setattr(self, name, layer)
      shape = nnx.eval_shape(
        functools.partial(layer, train=False),
        jax.ShapeDtypeStruct(shape, jnp.float32),
      ).shape

  def __call__(self, x, *, train: bool):
    activations = {"input": x}
    for name in self.names:
      x = getattr(self, name)(x, train=train)
      activations[name] = x
    return activations


class Network:
  """An ordered list of named layers.

  The state is a plain nested dict keyed by layer name, the parameters and the
  batch statistics of a layer together; replacing one entry rewinds one layer.

  Attributes:
    name: the architecture.
    layer_names: every layer in order, `input` and `logits` included.
    parameter_layers: those with a state, in order.
  """

  def __init__(
    self, name: str, specs: tuple[LayerSpec, ...], image_shape: tuple[int, ...]
  ):
    """Builds the network's abstract form; nothing is allocated."""
    self.name = name
    self.image_shape = tuple(image_shape)
    self.layer_names = ("input", *(layer for layer, _ in specs))
    self._make = lambda key: _Layers(specs, self.image_shape, key)
    abstract = nnx.eval_shape(self._make, jax.random.key(0))
    self._graph, self._abstract = nnx.split(abstract)
    self._parameter_paths = {
      path
      for path, variable in nnx.to_flat_state(self._abstract)
      if isinstance(variable, nnx.Param)
    }
    state = nnx.to_pure_dict(self._abstract)
    self.parameter_layers = tuple(n for n in self.layer_names if n in state)

  def init(self, key: Key[Array, ""]) -> dict[str, Any]:
    """The initial state; a layer's depends on the key and its place."""
    return nnx.to_pure_dict(nnx.state(self._make(key)))

  def apply(
    self,
    state: dict[str, Any],
    images: Float[Array, "n H W C"],
    *,
    train: bool = False,
  ) -> Output:
    """Runs the network.

    Args:
      state: as from `init`.
      images: normalized images.
      train: whether batch norm uses, and updates by, the batch's statistics.
    """
    typed = jax.tree.map(lambda x: x, self._abstract)
    nnx.replace_by_pure_dict(typed, state)
    module = nnx.merge(self._graph, typed)
    activations = module(images, train=train)
    new_state = nnx.to_pure_dict(nnx.state(module)) if train else state
    logits = activations["logits"].astype(jnp.float32)
    return Output(logits, activations | {"logits": logits}, new_state)

  def split(self, state: dict[str, Any]) -> tuple[dict, dict]:
    """Parts a state into its parameters and its batch statistics."""
    flat = nnx.traversals.flatten_mapping(state)
    parts = [{}, {}]
    for path, leaf in flat.items():
      parts[path not in self._parameter_paths][path] = leaf
    return tuple(nnx.traversals.unflatten_mapping(part) for part in parts)

  def merge(self, parameters: dict, statistics: dict) -> dict[str, Any]:
    """Undoes `split`."""
    flatten = nnx.traversals.flatten_mapping
    flat = flatten(parameters) | flatten(statistics)
    return nnx.traversals.unflatten_mapping(flat)

  @property
  def abstract_state(self) -> dict[str, Any]:
    """Shapes and types of a state."""
    return nnx.to_pure_dict(self._abstract)

  @property
  def num_parameters(self) -> int:
    """Trainable parameters; batch statistics do not count."""
    parameters, _ = self.split(self.abstract_state)
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(parameters))
