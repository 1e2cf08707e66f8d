"""What will not fit the memory, said before any work."""

import math
import os

import jax
import jax.numpy as jnp

_FLOAT = 4
# Arrays of the size of the probes that are held at once when measuring.
_PER_PROBE = 6
# Parameters, their gradient, what the optimiser keeps of them, and copies on
# their way to the disk.
_PER_PARAMETER = 8
# Activations and their gradients.
_PER_ACTIVATION = 2


def available_bytes() -> int:
  """Returns the memory of the device that computes, or the host's."""
  stats = jax.local_devices()[0].memory_stats() or {}
  host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return stats.get("bytes_limit", host)


def check_memory(config, network, num_classes: int) -> None:
  """Raises ValueError for what no machine of this size can hold."""
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
  """Numbers that the layers give for one example."""
  image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
  output = jax.eval_shape(network.apply, network.abstract_state, image)
  return sum(math.prod(x.shape) for x in output.activations.values())


def _expect_room(needed: int, what: str, advice: str) -> None:
  there = available_bytes()
  if needed > there:
    raise ValueError(
      f"{what} take {needed / 1e9:,.0f} GB of memory, and there are"
      f" {there / 1e9:,.0f} GB; lower {advice}."
    )
