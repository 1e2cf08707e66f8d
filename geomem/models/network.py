"""A network: pure functions of a state that is keyed by layer name."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

# Makes a layer from the shape of its input, without the batch axis, and the
# generators of its parameters.
LayerMaker = Callable[[tuple[int, ...], nnx.Rngs], nnx.Module]
LayerSpec = tuple[str, LayerMaker]

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def dtype_named(name: str):
  """Returns the dtype that a network computes in, by name."""
  if name not in _DTYPES:
    raise ValueError(
      f"dtype {name!r} is not known; choose one of {', '.join(_DTYPES)}."
    )
  return _DTYPES[name]


class Output(NamedTuple):
  """The output of a network.

  Attributes:
    logits: `[n, classes]` float32.
    activations: `[n, ...]` by layer name, in order, from `input` to `logits`;
      jit drops unused ones.
    state: the network's state, with updated batch statistics in training.
  """

  logits: Float[Array, "n classes"]
  activations: dict[str, Array]
  state: dict[str, Any]


def _make_layers(
  specs: tuple[LayerSpec, ...], image_shape: tuple[int, ...], key
) -> dict[str, nnx.Module]:
  """Makes the layers in order, each for the output shape of the previous."""
  layers, shape = {}, (1, *image_shape)
  for index, (name, make) in enumerate(specs):
    layers[name] = make(shape[1:], nnx.Rngs(jax.random.fold_in(key, index)))
    shape = nnx.eval_shape(
      functools.partial(layers[name], train=False),
      jax.ShapeDtypeStruct(shape, jnp.float32),
    ).shape
  return layers


class Network:
  """An ordered list of named layers.

  The state is a plain nested dict keyed by layer name. An entry holds both the
  parameters and the batch statistics of a layer; replacing it rewinds that one.

  Attributes:
    name: name of the architecture.
    layer_names: every layer in order, including `input` and `logits`.
    parameter_layers: the layers that have a state, in order.
  """

  def __init__(
    self, name: str, specs: tuple[LayerSpec, ...], image_shape: tuple[int, ...]
  ):
    """Builds the network's abstract form; nothing is allocated."""
    self.name = name
    self.image_shape = tuple(image_shape)
    self.layer_names = ("input", *(layer for layer, _ in specs))
    self._make = lambda key: _make_layers(specs, self.image_shape, key)
    abstract = nnx.eval_shape(self._make, jax.random.key(0))
    self._layers = {name: nnx.split(abstract[name]) for name, _ in specs}
    states = {name: state for name, (_, state) in self._layers.items() if state}
    self._parameter_paths = {
      (name, *path)
      for name, state in states.items()
      for path, variable in nnx.to_flat_state(state)
      if isinstance(variable, nnx.Param)
    }
    self._abstract = {n: nnx.to_pure_dict(state) for n, state in states.items()}
    self.parameter_layers = tuple(states)

  def init(self, key: Key[Array, ""]) -> dict[str, Any]:
    """Draws the initial state; a layer's depends on the key and its index."""
    layers = self._make(key)
    return {
      name: nnx.to_pure_dict(nnx.state(layers[name]))
      for name in self.parameter_layers
    }

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
      train: whether batch norm uses the batch's statistics and tracks them.
    """
    x, activations, new_state = images, {"input": images}, {}
    for name in self._layers:
      x, new = self.apply_layer(name, state.get(name, {}), x, train=train)
      activations[name] = x
      if new:
        new_state[name] = new
    logits = x.astype(jnp.float32)
    return Output(
      logits, activations | {"logits": logits}, new_state if train else state
    )

  def apply_layer(
    self,
    name: str,
    state: dict[str, Any],
    x: Float[Array, "n ..."],
    *,
    train: bool = False,
    momentum: float | None = None,
  ) -> tuple[Float[Array, "n ..."], dict[str, Any]]:
    """Runs a single layer.

    Args:
      name: one of `layer_names` except `input`.
      state: the layer's entry of the network's state; empty if it has none.
      x: the layer's input.
      train: as in `apply`.
      momentum: overrides the layer's momentum of the batch statistics; with 0
        the new statistics are those of `x` alone.

    Returns:
      Its output and its state, with updated batch statistics in training.
    """
    graph, abstract = self._layers[name]
    typed = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(typed, state)
    layer = nnx.merge(graph, typed)
    if momentum is not None:
      # Flax 0.11 has no `iter_modules`.
      for _, module in nnx.iter_graph(layer):
        if isinstance(module, nnx.BatchNorm):
          module.momentum = momentum
    output = layer(x, train=train)
    return output, nnx.to_pure_dict(nnx.state(layer)) if train else state

  def split(self, state: dict[str, Any]) -> tuple[dict, dict]:
    """Splits a state into its parameters and its batch statistics."""
    flat = nnx.traversals.flatten_mapping(state)
    parts = [{}, {}]
    for path, leaf in flat.items():
      parts[path not in self._parameter_paths][path] = leaf
    return tuple(nnx.traversals.unflatten_mapping(part) for part in parts)

  def merge(self, parameters: dict, statistics: dict) -> dict[str, Any]:
    """Merges the two parts that `split` returns."""
    flatten = nnx.traversals.flatten_mapping
    flat = flatten(parameters) | flatten(statistics)
    return nnx.traversals.unflatten_mapping(flat)

  @property
  def abstract_state(self) -> dict[str, Any]:
    """The shapes and types of a state."""
    return jax.tree.map(lambda leaf: leaf, self._abstract)

  @property
  def num_parameters(self) -> int:
    """The number of trainable parameters, without batch statistics."""
    parameters, _ = self.split(self.abstract_state)
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(parameters))
