"""The n^-1/2 law: how the label part's norm falls with the number of examples.

With labels independent of the images and of each other, −⟨Jᵀ(e_y − 1/C)⟩ over n
examples has mean zero and a norm that falls as n^-1/2; with true labels it has
a mean, to which it tends. Source: Stephenson et al., ICLR 2021, eq. 25.

One pass over a set measures every n = 64, 128, 256, …: sums of 64 are merged in
pairs, pairs in pairs, and what is held is one sum for each doubling. One
forward pass serves all draws of the labels.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geomem import data, models
from geomem.studies.gradients.backprop import (
  BATCH_SIZE,
  Examples,
  padded_batch,
  pull_back,
)

# What is measured of each sum, [2, draws]: raw labels, then centred ones.
LABELS = ("raw", "centered")
Sums = dict[str, Float[Array, "k P"]]


def draw_labels(
  labels: Int[np.ndarray, " n"],
  num_classes: int,
  num_draws: int,
  rng: np.random.Generator,
) -> dict[str, Int[np.ndarray, "draws n"]]:
  """Draws labels that do not depend on the images, in two ways.

  `independent` ones are drawn each for itself, uniformly over the classes: the
  case of the law. `shuffled` ones are, as in a run, the given labels in another
  order (as they are in the first draw): a set of all of them has exactly the
  class counts of the whole, which no independent draw has, and the more of them
  are taken the more the norm falls below the law.
  """
  shuffled = [rng.permutation(labels) for _ in range(num_draws - 1)]
  shape = (num_draws, len(labels))
  return {
    "independent": rng.integers(num_classes, size=shape, dtype=np.int32),
    "shuffled": np.stack([np.asarray(labels), *shuffled]),
  }


@functools.cache
def _compiled(network: models.Network):
  def sums(state, images, labels, weights, mean, std):
    """Sums the centred label part of each draw, and the mean of J last."""

    def cotangents(logits):
      level = jnp.full((1, *logits.shape), 1 / logits.shape[1])
      e = jax.nn.one_hot(labels, logits.shape[1])
      stacked = jnp.concatenate([level - e, level])
      return stacked * weights[None, :, None]

    images = data.normalize(images, mean, std)
    return pull_back(network, state, images, cotangents)

  return jax.jit(sums)


def batch_sums(
  network: models.Network, state: dict, examples: Examples, draws
) -> Iterator[tuple[Sums, int]]:
  """Yields each batch's sums of gradients under every draw."""
  compiled = _compiled(network)
  for start in range(0, len(examples.labels), BATCH_SIZE):
    images, _, weights = padded_batch(examples, start, BATCH_SIZE)
    ahead = np.minimum(start + np.arange(BATCH_SIZE), draws.shape[1] - 1)
    found = compiled(
      state, images, draws[:, ahead], weights, examples.mean, examples.std
    )
    yield found, int(weights.sum())


@jax.jit
def _products(a: Sums, b: Sums) -> dict[str, Float[Array, "2 draws"]]:
  """Computes ⟨a, b⟩ of the label parts by layer."""

  def of_layer(x, y):
    raw = ((x[:-1] - x[-1:]) * (y[:-1] - y[-1:])).sum(axis=1)
    return jnp.stack([raw, (x[:-1] * y[:-1]).sum(axis=1)])

  return jax.tree.map(of_layer, a, b)


def merge_doubling(
  batches: Iterable[tuple[Sums, int]],
) -> Iterator[tuple[int, Sums, tuple[Sums, Sums] | None]]:
  """Merges sums of equal size in pairs, as a binary counter carries.

  Yields:
    The number of examples of a sum, the sum, and the two halves it was merged
    from, or None; at last the sum of all.
  """
  waiting: dict[int, Sums] = {}
  rest, total = [], 0
  for sums, count in batches:
    total += count
    if count < BATCH_SIZE:
      rest.append(sums)
      continue
    yield count, sums, None
    while count in waiting:
      halves = waiting.pop(count), sums
      sums, count = jax.tree.map(jnp.add, *halves), 2 * count
      yield count, sums, halves
    waiting[count] = sums
  parts = [*waiting.values(), *rest]
  if len(parts) > 1:
    whole = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)
    yield total, whole, None


def norms_by_size(
  network: models.Network, state: dict, examples: Examples, draws
) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray | None]]]:
  """Computes squared norms of the mean label part over n examples.

  Args:
    network: the network.
    state: its state.
    examples: in random order.
    draws: `[draws, n]` labels.

  Returns:
    By layer and number of examples: `[2, draws]` mean over the disjoint sums of
    that many of ‖·‖² (raw, centred), and of ⟨·, ·⟩ between their halves, which
    estimates ‖E ·‖² without bias (None where nothing was merged).
  """
  squares = defaultdict(lambda: defaultdict(list))
  crossed = defaultdict(lambda: defaultdict(list))
  batches = batch_sums(network, state, examples, draws)
  for count, sums, halves in merge_doubling(batches):
    for layer, found in _products(sums, sums).items():
      squares[layer][count].append(np.float64(found) / count**2)
    if halves:
      for layer, found in _products(*halves).items():
        crossed[layer][count].append(4 * np.float64(found) / count**2)
  mean = functools.partial(np.mean, axis=0)
  return {
    layer: {
      n: (mean(squares[layer][n]), _mean_or_none(crossed[layer].get(n)))
      for n in sorted(squares[layer])
    }
    for layer in network.parameter_layers
  }


def _mean_or_none(values):
  return None if values is None else np.mean(values, axis=0)


def fit_slope(
  sizes: Int[np.ndarray, " k"], squares: Float[np.ndarray, "draws k"]
) -> tuple[float, float]:
  """Fits the log of the root mean square over draws to log n.

  Returns:
    The slope and its standard error: the jackknife's over the draws; of one
    draw, that of the fit's residuals.
  """
  x = np.log(sizes) - np.log(sizes).mean()

  def slope(chosen):
    return np.log(chosen.mean(axis=0)) @ x / (2 * x @ x)

  num_draws = len(squares)
  if num_draws > 1:
    left_out = [slope(np.delete(squares, i, 0)) for i in range(num_draws)]
    error = np.std(left_out) * np.sqrt(num_draws - 1)
    return float(slope(squares)), float(error)
  if len(sizes) < 3:
    return float(slope(squares)), float("nan")
  y = np.log(squares[0]) / 2
  residuals = y - y.mean() - slope(squares) * x
  error = np.sqrt(residuals @ residuals / (len(sizes) - 2) / (x @ x))
  return float(slope(squares)), float(error)


def _whole_network(found: dict) -> dict:
  """Adds up squared norms and products of the layers."""
  layers = list(found.values())
  return {
    n: tuple(
      None if part is None else sum(layer[n][i] for layer in layers)
      for i, part in enumerate(layers[0][n])
    )
    for n in layers[0]
  }


def law_rows(found: dict, subset: str, drawn: str) -> list[dict]:
  """Makes rows of the whole network, and slopes of every layer.

  Args:
    found: from `norms_by_size`.
    subset: whose images.
    drawn: how the labels were drawn.

  Returns:
    Rows of `law_norm`, `law_squared_norm_unbiased` and, fitted, `law_slope`.
  """
  columns = {"subset": subset, "part": "label", "drawn": drawn}
  whole = _whole_network(found)
  rows = []
  for n, (square, crossed) in whole.items():
    values = {"law_norm": np.sqrt(square)}
    if crossed is not None:
      values["law_squared_norm_unbiased"] = crossed
    rows += [
      columns
      | {"labels": labels, "num_examples": n, "draw": draw}
      | {"metric": metric, "value": value}
      for metric, grid in values.items()
      for labels, of_draws in zip(LABELS, grid, strict=True)
      for draw, value in enumerate(of_draws)
    ]
  for layer, by_size in [*found.items(), (None, whole)]:
    squares = np.stack([square for square, _ in by_size.values()], axis=-1)
    for labels, of_draws in zip(LABELS, squares, strict=True):
      slope, error = fit_slope(np.array(list(by_size)), of_draws)
      rows.append(
        columns
        | {"layer": layer, "labels": labels}
        | {"metric": "law_slope", "value": slope, "stderr": error}
      )
  return rows
