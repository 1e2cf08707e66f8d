"""Measures of a network's layers: activations, statistics, rows."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from geomem import parallel, shares
from geomem.measures.activations import Forward
from geomem.measures.measure import Measure, Options
from geomem.measures.statistics import layer_statistics


def measure_layers(
  key: Key[Array, ""],
  measures: Sequence[Measure],
  options: Options,
  forward: Forward,
  state: Any,
  images: dict[str, UInt8[Any, "P M H W C"]],
  layers: Sequence[str],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
  """Yields the rows of a network's layers.

  All layers share one key and so the same probes: differences are due to the
  layers alone.

  Args:
    key: determines the probes.
    measures: the measures of each layer.
    options: their options.
    forward: `(state, images) -> {layer: activations}`.
    state: first argument of `forward`.
    images: images of the manifolds, by subset; all have the same shape.
    layers: names of the layers, in the network's order.

  Yields:
    A layer's name and its rows, without the columns that name the layer;
    nothing of no layers.

  Raises:
    ValueError: there are no measures or subsets; a layer is unknown;
      activations are not finite, naming the layer and the subset; or what a
      measure needs does not fit in memory.
  """
  if not (measures and images):
    raise ValueError(
      f"{len(measures)} measures of {len(images)} subsets were asked for; at"
      " least one of each was expected."
    )
  subsets = list(images)
  kinds = tuple(dict.fromkeys(one.statistic for one in measures))
  num_layers = max(1, shares.entries_at_once() // len(subsets))
  # The products of all points are large, so they are held for one layer only.
  num_layers = 1 if "points" in kinds else min(num_layers, len(layers))
  statistics = layer_statistics(forward, state, images, layers, kinds=kinds)
  while group := list(itertools.islice(statistics, num_layers)):
    stats = stack_layers([stats for _, stats in group], num_layers)
    measured = measure(key, tuple(measures), stats, options)
    for i, (layer, _) in enumerate(group):
      rows = []
      for one in measures:
        of_layer = jax.tree.map(lambda x, i=i: x[i], measured[one.name])
        rows += one.rows(of_layer, subsets)
      yield layer, rows


def stack_layers(
  stats: list[dict[str, Any]], num_layers: int
) -> dict[str, Any]:
  """Stacks the statistics of layers, repeating the last up to `num_layers`."""
  stats = stats + stats[-1:] * (num_layers - len(stats))
  return jax.tree.map(lambda *xs: jnp.stack(xs), *stats)


def measure(
  key: Key[Array, ""],
  measures: tuple[Measure, ...],
  stats: dict[str, Any],
  options: Options,
) -> dict[str, Any]:
  """Computes measures from `[layers, subsets, ...]` statistics by kind.

  Returns by the name of each measure what its `summarize` gives, of the same
  leading shape, on the host. Nothing else leaves the devices.
  """
  leading = jax.tree.leaves(stats)[0].shape[:2]
  entries = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stats)
  devices = shares.devices_for(entries)
  # A margin is traced: another one runs the same program.
  static = options._replace(kappa=None)
  placed = shares.place(entries, devices)
  results = _measure(measures, devices, static, key, placed, options.kappa)
  count = leading[0] * leading[1]
  return jax.tree.map(
    lambda x: x[:count].reshape(leading), parallel.fetch(results)
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _measure(measures, devices, options, key, entries, kappa):
  """Computes the measures, with the entries divided among the devices."""
  options = options._replace(kappa=kappa)

  # Each device averages its own entries: any number of cores rounds alike.
  def measure_set(entry):
    return {
      one.name: one.summarize(one.compute(key, entry[one.statistic], options))
      for one in measures
    }

  return shares.map_over(measure_set, entries, devices)
