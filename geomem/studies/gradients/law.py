"""The n^-1/2 law: how the label part's norm falls with the number of examples.

With labels independent of the images and of each other, −⟨Jᵀ(e_y − 1/C)⟩ over n
examples has mean zero and a norm that falls as n^-1/2; with true labels it has
a nonzero mean, its limit. Source: Stephenson et al., ICLR 2021, eq. 25.

One pass over a set measures every n = 64, 128, 256, …: sums over 64 examples
are merged in pairs, the results again in pairs, and so on. Only one sum for
each doubling is kept. One forward pass serves all draws of the labels.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geomem import compilation, data, models
from geomem.studies.gradients.backprop import (
  BATCH_SIZE,
  Examples,
  padded_batches,
  pull_back,
)

# The rows of each sum's `[2, draws]` products.
LABELS = ("raw", "centered")
Sums = dict[str, Float[Array, "k P"]]


def draw_labels(
  labels: Int[np.ndarray, " n"],
  num_classes: int,
  num_draws: int,
  rng: np.random.Generator,
) -> dict[str, Int[np.ndarray, "draws n"]]:
  """Draws labels that do not depend on the images, in two ways.

  `independent` labels are drawn one by one, uniformly over the classes: the
  case of the law. `shuffled` labels are, as in a run, the given labels permuted
  (the first draw keeps their order). Unlike independent draws, all of them
  together have exactly the class counts of the set, so the more of them are
  taken, the further the norm falls below the law.
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
    """Sums the centred label part of each draw; the last row is Jᵀ(1/C)."""

    def cotangents(logits):
      level = jnp.full((1, *logits.shape), 1 / logits.shape[1])
      e = jax.nn.one_hot(labels, logits.shape[1])
      stacked = jnp.concatenate([level - e, level])
      return stacked * weights[None, :, None]

    images = data.normalize(images, mean, std)
    return pull_back(network, state, images, cotangents)

  return compilation.jit(sums)


def batch_sums(
  network: models.Network, state: dict, examples: Examples, draws
) -> Iterator[tuple[Sums, int]]:
  """Yields each batch's gradient sums under every draw, and its size."""
  starts = range(0, len(examples.labels), BATCH_SIZE)
  for images, indices, weights in padded_batches(examples, starts, BATCH_SIZE):
    sums = _compiled(network)(
      state, images, draws[:, indices], weights, examples.mean, examples.std
    )
    yield sums, int(weights.sum())


@jax.jit
def _products(a: Sums, b: Sums) -> dict[str, Float[Array, "2 draws"]]:
  """Computes ⟨a, b⟩ of the raw and centred label parts, by layer."""

  def of_layer(x, y):
    raw = ((x[:-1] - x[-1:]) * (y[:-1] - y[-1:])).sum(axis=1)
    return jnp.stack([raw, (x[:-1] * y[:-1]).sum(axis=1)])

  return jax.tree.map(of_layer, a, b)


def merge_doubling(
  batches: Iterable[tuple[Sums, int]],
) -> Iterator[tuple[int, Sums, tuple[Sums, Sums] | None]]:
  """Merges sums of equal size in pairs, like the carries of a binary counter.

  Yields:
    The number of examples in a sum, the sum, and the two halves it was merged
    from (None for one batch, or a total of unequal parts); the total is last.
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
    merged = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)
    yield total, merged, None


def norms_by_size(
  network: models.Network, state: dict, examples: Examples, draws
) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray | None]]]:
  """Computes squared norms of the mean label part over n examples.

  The examples are in random order, and `draws` are their `[draws, n]` labels.

  Returns:
    By layer and n, two `[2, draws]` means over the disjoint sums of n examples
    (raw, centred): of ‖·‖², and of ⟨·, ·⟩ between the halves of a sum, which is
    an unbiased estimator of ‖E ·‖² (None where nothing was merged).
  """
  squares = defaultdict(lambda: defaultdict(list))
  crossed = defaultdict(lambda: defaultdict(list))
  batches = batch_sums(network, state, examples, draws)
  for count, sums, halves in merge_doubling(batches):
    for layer, products in _products(sums, sums).items():
      squares[layer][count].append(np.float64(products) / count**2)
    if halves:
      for layer, products in _products(*halves).items():
        crossed[layer][count].append(4 * np.float64(products) / count**2)

  def mean(products):
    return np.mean(products, axis=0) if products else None

  return {
    layer: {
      n: (mean(squares[layer][n]), mean(crossed[layer][n]))
      for n in sorted(squares[layer])
    }
    for layer in network.parameter_layers
  }


def fit_slope(
  sizes: Int[np.ndarray, " k"], squares: Float[np.ndarray, "draws k"]
) -> tuple[float, float]:
  """Fits the slope of the log root mean square over draws against log n.

  Returns:
    The slope and its standard error, by a jackknife over the draws. For one
    draw it comes from the fit's residuals (NaN for fewer than three sizes).
  """
  x = np.log(sizes) - np.log(sizes).mean()

  def slope(chosen):
    return np.log(chosen.mean(axis=0)) @ x / (2 * x @ x)

  num_draws, error = len(squares), np.nan
  if num_draws > 1:
    left_out = [slope(np.delete(squares, i, 0)) for i in range(num_draws)]
    error = np.std(left_out) * np.sqrt(num_draws - 1)
  elif len(sizes) > 2:
    y = np.log(squares[0]) / 2
    residuals = y - y.mean() - slope(squares) * x
    error = np.sqrt(residuals @ residuals / (len(sizes) - 2) / (x @ x))
  return float(slope(squares)), float(error)


def law_rows(norms: dict, subset: str, drawn: str) -> list[dict]:
  """Makes the rows of the whole network, and the slopes of every layer.

  They are `law_norm`, `law_squared_norm_unbiased` and the fitted `law_slope` of
  the result of `norms_by_size`.
  """
  columns, rows = {"subset": subset, "part": "label", "drawn": drawn}, []
  layers = list(norms.values())
  of_network = {
    n: tuple(
      None if part is None else sum(layer[n][i] for layer in layers)
      for i, part in enumerate(parts)
    )
    for n, parts in layers[0].items()
  }
  for n, (square, crossed) in of_network.items():
    values = {"law_norm": np.sqrt(square)}
    if crossed is not None:
      values["law_squared_norm_unbiased"] = crossed
    rows += [
      columns
      | {"labels": labels, "num_examples": n, "draw": draw}
      | {"metric": metric, "value": value}
      for metric, grid in values.items()
      for labels, by_draw in zip(LABELS, grid, strict=True)
      for draw, value in enumerate(by_draw)
    ]
  for layer, by_size in [*norms.items(), (None, of_network)]:
    squares = np.stack([square for square, _ in by_size.values()], axis=-1)
    for labels, by_draw in zip(LABELS, squares, strict=True):
      slope, error = fit_slope(np.array(list(by_size)), by_draw)
      rows.append(
        columns
        | {"layer": layer, "labels": labels}
        | {"metric": "law_slope", "value": slope, "stderr": error}
      )
  return rows
