"""The linear probe of a layer: ridge regression on its points.

A new readout is fitted to three fifths of each manifold's points (least squares
to one-hot labels, with a bias). Its regularization strength is the one with the
least error on another fifth; refitted to both, it is scored on the last fifth.
In kernel form, with K the products of the centred training points, its values
are K_new (K + λI)⁻¹ Y, so that it needs only the products of points.

The measure also gives the alignment of the layer's kernel with the labels.

The trained probe of recent literature (AdamW, 200 epochs, weight decay 1)
detects less than ridge regression does, and is not offered.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from geomem import runs
from geomem.geometry import PointProducts
from geomem.geometry.linalg import matmul
from geomem.geometry.similarity import label_alignment
from geomem.measures.measure import Measure, Metric

# λ, in units of the kernel's mean eigenvalue.
STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
_FITTED, _CHOOSING = 0.6, 0.2

METRICS = (
  Metric("probe_accuracy", "linear probe accuracy", chance="chance_accuracy"),
  Metric("label_alignment", "alignment with the labels"),
)


def compute(key, products, options):
  """Fits and scores the probe; NaN for fewer than three points a manifold."""
  del options
  P, M = products.mask.shape
  dead = ~products.has_spread
  alignment = label_alignment(products)
  second = max(1, round(_CHOOSING * M))
  first = max(1, min(round(_FITTED * M), M - second - 1))
  if first + second >= M:
    nan = jnp.full((), jnp.nan, products.gram.dtype)
    return {"accuracy": nan, "stderr": nan, "alignment": alignment}
  # Masked points are distributed over the parts like all others.
  order = jax.random.permutation(
    key, jnp.tile(jnp.arange(M), (P, 1)), axis=1, independent=True
  )
  positions = order + M * jnp.arange(P)[:, None]
  fitted, choosing, held_out = (
    part.reshape(-1)
    for part in jnp.split(positions, [first, first + second], axis=1)
  )
  strengths = jnp.asarray(STRENGTHS, products.gram.dtype)
  scores = _fitted(products, fitted, choosing)
  errors = jax.lax.map(lambda strength: scores(strength)[0], strengths)
  # The error of a numerically singular system is not finite.
  best = jnp.where(jnp.isfinite(errors), errors, jnp.inf).argmin()
  scores = _fitted(products, jnp.concatenate([fitted, choosing]), held_out)
  _, accuracy, count = scores(strengths[best])
  stderr = runs.error_of_share(accuracy, count)
  return {
    "accuracy": jnp.where(dead, jnp.nan, accuracy),
    "stderr": jnp.where(dead, jnp.nan, stderr),
    "alignment": alignment,
  }


def _fitted(products: PointProducts, fitted: Array, new: Array):
  """Prepares the fit to some points, given by their indices, for all λ.

  Returns:
    A function of λ: the mean square error, accuracy and number of new points.
  """
  P, M = products.mask.shape
  present = products.mask.reshape(-1)
  dtype = products.gram.dtype
  num_fitted = present[fitted].sum()
  weight = present[fitted].astype(dtype) / num_fitted
  rows = products.gram[fitted]
  K, across = rows[:, fitted], rows[:, new]
  # Centre the points about the mean of the fitted ones.
  offset = matmul(K, weight)
  square = matmul(offset, weight)
  across = across - offset[:, None] - matmul(weight, across)[None] + square
  K = K - offset[:, None] - offset[None] + square
  labels = jnp.arange(P * M) // M
  Y = jax.nn.one_hot(labels[fitted], P, dtype=dtype)
  bias = matmul(weight, Y)
  # Masked points do not fit, and belong to no manifold.
  keep = present[fitted][:, None]
  K = jnp.where(keep & keep.T, K, 0)
  across, Y = jnp.where(keep, across, 0), jnp.where(keep, Y - bias[None], 0)
  truth = jnp.where(present[new], labels[new], P)

  def scores(strength) -> tuple[Array, Array, Array]:
    ridge = strength * jnp.trace(K) / num_fitted
    factor = jax.scipy.linalg.cho_factor(
      K + ridge * jnp.eye(len(K), dtype=dtype), lower=True
    )
    solution = jax.scipy.linalg.cho_solve(factor, Y)
    values = matmul(across.T, solution) + bias[None]
    counts = truth < P
    count = counts.sum()
    error = (values - jax.nn.one_hot(truth, P, dtype=dtype)) ** 2
    error = jnp.where(counts[:, None], error, 0).sum() / count
    right = (values.argmax(axis=1) == truth) & counts
    # A system that could not be solved has no accuracy.
    accuracy = jnp.where(jnp.isfinite(error), right.sum() / count, jnp.nan)
    return error, accuracy, count

  return scores


def summarize(values) -> dict:
  """Returns the metrics by name; see `runs.error_of_share` for the error."""
  return {
    "probe_accuracy": (values["accuracy"], values["stderr"]),
    "label_alignment": (values["alignment"], None),
  }


PROBE = Measure("probe", METRICS, compute, summarize, statistic="points")
