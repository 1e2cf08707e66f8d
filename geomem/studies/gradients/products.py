"""Statistics of two sets' gradients, from their inner products alone.

As with the geometry, a small array of inner products is sufficient. It gives
norms, projections, cosines and, from the products of different blocks, a
squared norm without the noise of a finite set.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from geomem.geometry.linalg import matmul
from geomem.studies.gradients.backprop import BlockSums

SUBSETS = ("unpermuted", "permuted")
# (part, labels) -> coefficients in `BASIS`.
_TOTAL = ("total", None)
PARTS = {
  _TOTAL: (1, 0, 0, 0),
  ("label", "raw"): (0, 1, -1, 0),
  ("label", "centered"): (0, 1, 0, 0),
  ("independent", "raw"): (1, -1, 1, 0),
  ("independent", "centered"): (1, -1, 0, 0),
}
# −⟨Jᵀ(e_y − ē)⟩, ē the class frequencies of each block.
COVARIANCE = (0, 1, 0, 1)


class Products(NamedTuple):
  """Inner products of the block sums of both sets.

  Attributes:
    products: `[2, K, 4, 2, K, 4]` set, block and basis vector, twice.
    counts: `[2, K]` number of examples by set and block.
  """

  products: Float[np.ndarray, "2 K 4 2 K 4"]
  counts: Int[np.ndarray, "2 K"]


@jax.jit
def _gram(unpermuted, permuted):
  rows = jnp.stack([unpermuted, permuted])
  rows = rows.reshape(-1, rows.shape[-1])
  return matmul(rows, rows.T)


def inner_products(
  unpermuted: BlockSums, permuted: BlockSums, layers: Sequence[str]
) -> dict[str | None, Products]:
  """Computes the products of each layer, in order; None is the whole network.

  Both sets must have the same number of blocks.
  """
  counts = np.stack([unpermuted.counts, permuted.counts])
  num_blocks = counts.shape[1]
  by_layer = {}
  for layer in layers:
    gram = _gram(unpermuted.sums[layer], permuted.sums[layer])
    gram = np.asarray(gram, np.float64)
    shape = (2, num_blocks, 4, 2, num_blocks, 4)
    by_layer[layer] = Products(gram.reshape(shape), counts)
  total = sum(p.products for p in by_layer.values())
  return by_layer | {None: Products(total, counts)}


def unbiased_square(
  products: Float[np.ndarray, "K K"], counts: Int[np.ndarray, " K"]
) -> tuple[float, float]:
  """Estimates ‖Cov(J, e_y)‖² from products of blocks, with its error.

  The mean label part of a set has the expected squared norm ‖E ·‖² plus its
  variance over n, which is never near zero for few examples. The products of
  different blocks' parts S_a = −Σ Jᵀ(e_y − ē_a) contain no variance, so that

    Σ_{a≠b} ⟨S_a, S_b⟩ / Σ_{a≠b} (n_a − 1)(n_b − 1)

  is an unbiased estimator; it may be negative. Each block is centred on its own
  class frequencies. Labels shuffled within the set therefore also give zero on
  average, although they are not quite independent (a label in one block is
  missing from the others). The error is from a jackknife over the blocks; NaN
  for fewer than three.
  """

  def estimate(kept):
    p, n = products[np.ix_(kept, kept)], counts[kept] - 1.0
    return (p.sum() - np.trace(p)) / (n.sum() ** 2 - (n**2).sum())

  num_blocks, error = len(counts), np.nan
  blocks = np.arange(num_blocks)
  if num_blocks > 2:
    left_out = np.array([estimate(np.delete(blocks, k)) for k in blocks])
    spread = ((left_out - left_out.mean()) ** 2).sum()
    error = np.sqrt((num_blocks - 1) / num_blocks * spread)
  value = estimate(blocks) if num_blocks > 1 else np.nan
  return float(value), float(error)


def signed_root(square: float) -> float:
  """Computes sign(x) √|x|, the norm for a squared norm of either sign."""
  return float(np.sign(square) * np.sqrt(abs(square)))


def _divide(a: float, b: float) -> float:
  return a / b if b else float("nan")


class _Layer:
  """Inner products and norms of one layer, by set and part."""

  def __init__(self, products: Products):
    self.products = products
    totals = products.counts.sum(axis=1).astype(float)
    means = products.products.sum(axis=(1, 4))
    self.means = means / (totals[:, None, None, None] * totals[:, None])

  def product(self, s: int, a, t: int, b) -> float:
    """Computes ⟨part a of set s, part b of set t⟩ of the mean gradients."""
    return float(np.array(PARTS[a]) @ self.means[s, :, t] @ PARTS[b])

  def norm(self, s: int, part) -> float:
    return float(np.sqrt(max(self.product(s, part, s, part), 0)))

  def unbiased(self, s: int) -> tuple[float, float]:
    c = np.array(COVARIANCE)
    blocks = np.einsum("kilj,i,j->kl", self.products.products[s, :, :, s], c, c)
    return unbiased_square(blocks, self.products.counts[s])


def _set_rows(layer: _Layer, s: int) -> list[dict]:
  """Makes the rows of one set: norms, projections and cancellation."""
  subset, rows, total = {"subset": SUBSETS[s]}, [], layer.norm(s, _TOTAL)
  for part in PARTS:
    columns = subset | {"part": part[0], "labels": part[1]}
    norm = layer.norm(s, part)
    rows.append(columns | {"metric": "norm", "value": norm})
    if part != _TOTAL:
      value = _divide(layer.product(s, part, s, _TOTAL), total)
      rows.append(columns | {"metric": "projection", "value": value})
  square, error = layer.unbiased(s)
  columns = subset | {"part": "label", "labels": "centered"}
  squared = {"value": square, "stderr": error}
  rows.append(columns | {"metric": "squared_norm_unbiased"} | squared)
  root = signed_root(square)
  rows.append(columns | {"metric": "norm_unbiased", "value": root})
  for labels in ("raw", "centered"):
    parts = sum(layer.norm(s, (p, labels)) for p in ("label", "independent"))
    columns = {"labels": labels, "metric": "cancellation"}
    rows.append(subset | columns | {"value": 1 - _divide(total, parts)})
  return rows


def _pair_rows(layer: _Layer) -> list[dict]:
  """Makes the rows of both sets together: their cosine and ratio."""
  rows = []
  for part in PARTS:
    norms = [layer.norm(s, part) for s in range(2)]
    product = layer.product(0, part, 1, part)
    values = {
      "cosine": _divide(product, norms[0] * norms[1]),
      "ratio": _divide(norms[1], norms[0]),
    }
    if part == ("label", "centered"):
      squares = [layer.unbiased(s)[0] for s in range(2)]
      # The ratio is NaN where the estimate for unpermuted is not positive.
      base = max(squares[0], 0.0)
      values["ratio_unbiased"] = signed_root(_divide(squares[1], base))
    columns = {"part": part[0], "labels": part[1]}
    rows += [columns | {"metric": m, "value": v} for m, v in values.items()]
  return rows


def measure(products: Products) -> list[dict]:
  """Makes the rows of one layer: of each set, and of both together.

  `norm` of each part's mean gradient; signed `projection` of a part on the
  direction of the total (the two parts' projections add up to the total's
  norm); `cancellation` 1 − ‖total‖ / (‖label‖ + ‖independent‖);
  `squared_norm_unbiased` of the label part (see `unbiased_square`), and its
  signed root `norm_unbiased`; `cosine`, `ratio` and `ratio_unbiased` of
  permuted to unpermuted. Undefined values are NaN.
  """
  layer = _Layer(products)
  return [*_set_rows(layer, 0), *_set_rows(layer, 1), *_pair_rows(layer)]
