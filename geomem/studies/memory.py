"""Checks that a config fits in memory, before any work."""

import math
import os

import jax
import jax.numpy as jnp

_FLOAT = 4
# Arrays of the size of the probes that are in memory at once when measuring.
_PER_PROBE = 6
# Numbers for each parameter: its value and gradient, the optimiser's state, and
# copies being written to disk.
_PER_PARAMETER = 8
# Numbers for each activation: its value and gradient.
_PER_ACTIVATION = 2


def available_bytes() -> int:
  """Returns the memory of the first device, or of the host if unknown."""
  stats = jax.local_devices()[0].memory_stats() or {}
  host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return stats.get("bytes_limit", host)


def check_memory(config, network, num_classes: int) -> None:
  """Raises ValueError if probes or training exceed the available memory."""
  measure, recipe = config.measure, config.training
  shape = (num_classes, measure.num_probes, measure.manifold_points + 1)
  _expect_room(
    _PER_PROBE * _FLOAT * math.prod(shape),
    f"{measure.num_probes:,} probes of {num_classes} manifolds of"
    f" {measure.manifold_points} points",
    "num_probes or manifold_points",
  )
  numbers = _PER_PARAMETER * network.num_parameters
  numbers += _PER_ACTIVATION * recipe.batch_size * _num_activations(network)
  _expect_room(
    _FLOAT * numbers * recipe.num_seeds,
    f"{recipe.num_seeds} network(s) of {network.num_parameters:,} parameters"
    f" trained on batches of {recipe.batch_size} examples",
    "width, batch_size or num_seeds",
  )


def _num_activations(network) -> int:
  """Returns the number of activations of all layers for one example."""
  image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
  output = jax.eval_shape(network.apply, network.abstract_state, image)
  return sum(math.prod(x.shape) for x in output.activations.values())


def _expect_room(needed: int, what: str, advice: str) -> None:
  available = available_bytes()
  if needed > available:
    raise ValueError(
      f"{what} take {needed / 1e9:,.0f} GB of memory, and there are"
      f" {available / 1e9:,.0f} GB; lower {advice}."
    )
