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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geomem.geometry import PointProducts
from geomem.geometry.linalg import matmul
from geomem.geometry.similarity import label_alignment
from geomem.measures.measure import Measure, Metric

# λ, in units of the kernel's mean eigenvalue.
STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
_FITTED, _CHOOSING = 0.6, 0.2

METRICS = (
  Metric("probe_accuracy", "linear probe accuracy"),
  Metric("label_alignment", "alignment with the labels"),
)


def compute(key, products, options):
  """Fits and scores the probe; NaN for fewer than three points a manifold."""
  del options
  P, M = products.mask.shape
  dead = ~products.has_spread
  alignment = label_alignment(products)
  first, second = max(1, round(_FITTED * M)), max(1, round(_CHOOSING * M))
  if first + second >= M:
    nan = jnp.full((), jnp.nan, products.gram.dtype)
    return {"accuracy": nan, "stderr": nan, "alignment": alignment}
  # Masked points are distributed over the parts like all others.
  order = jax.random.permutation(
    key, jnp.tile(jnp.arange(M), (P, 1)), axis=1, independent=True
  )
  positions = order + M * jnp.arange(P)[:, None]
  parts = [
    part.reshape(-1)
    for part in jnp.split(positions, [first, first + second], axis=1)
  ]
  fitted, choosing, held_out = parts
  strengths = jnp.asarray(STRENGTHS, products.gram.dtype)
  system = _system(products, fitted, choosing)
  errors = jax.lax.map(lambda strength: _scores(system, strength)[0], strengths)
  # The error of a numerically singular system is not finite.
  best = jnp.where(jnp.isfinite(errors), errors, jnp.inf).argmin()
  system = _system(products, jnp.concatenate([fitted, choosing]), held_out)
  _, accuracy, count = _scores(system, strengths[best])
  # Of a mean over points: 0 / 0, NaN, for a single one.
  stderr = jnp.sqrt(accuracy * (1 - accuracy) / (count - 1))
  return {
    "accuracy": jnp.where(dead, jnp.nan, accuracy),
    "stderr": jnp.where(dead, jnp.nan, stderr),
    "alignment": alignment,
  }


class _System(NamedTuple):
  """The fitted points and the new ones, independent of λ.

  Attributes:
    K: products of the fitted points, about their mean.
    across: products of the fitted points with the new ones, about that mean.
    Y: labels of the fitted points, about their mean.
    bias: the mean of these labels.
    truth: manifolds of the new points, or P for masked ones.
    count: number of fitted points.
  """

  K: Float[Array, "f f"]
  across: Float[Array, "f v"]
  Y: Float[Array, "f P"]
  bias: Float[Array, " P"]
  truth: Int[Array, " v"]
  count: Int[Array, ""]


def _system(products: PointProducts, fitted, new) -> _System:
  """Makes the system from the indices of the fitted and the new points."""
  P, M = products.mask.shape
  present = products.mask.reshape(-1)
  dtype = products.gram.dtype
  weight = present[fitted].astype(dtype) / present[fitted].sum()
  rows = products.gram[fitted]
  K, across = rows[:, fitted], rows[:, new]
  # Centre the points about the mean of the fitted ones.
  offset = matmul(K, weight)
  square = matmul(offset, weight)
  across = across - offset[:, None] - matmul(weight, across)[None] + square
  K = K - offset[:, None] - offset[None] + square
  keep = present[fitted][:, None]
  labels = jnp.arange(P * M) // M
  Y = jax.nn.one_hot(labels[fitted], P, dtype=dtype)
  bias = matmul(weight, Y)
  return _System(
    jnp.where(keep & keep.T, K, 0),
    jnp.where(keep, across, 0),
    jnp.where(keep, Y - bias[None], 0),
    bias,
    jnp.where(present[new], labels[new], P),
    present[fitted].sum(),
  )


def _scores(system: _System, strength) -> tuple[Array, Array, Array]:
  """Returns the mean square error, accuracy and number of new points."""
  K, across, Y, bias, truth, num_fitted = system
  ridge = strength * jnp.trace(K) / num_fitted
  factor = jax.scipy.linalg.cho_factor(
    K + ridge * jnp.eye(len(K), dtype=K.dtype), lower=True
  )
  values = matmul(across.T, jax.scipy.linalg.cho_solve(factor, Y)) + bias[None]
  present = truth < len(bias)
  count = present.sum()
  error = (values - jax.nn.one_hot(truth, len(bias), dtype=K.dtype)) ** 2
  error = jnp.where(present[:, None], error, 0).sum() / count
  right = (values.argmax(axis=1) == truth) & present
  # A system that could not be solved has no accuracy.
  accuracy = jnp.where(jnp.isfinite(error), right.sum() / count, jnp.nan)
  return error, accuracy, count


def summarize(values) -> dict:
  """Returns the metrics by name; the probe's standard error is binomial."""
  return {
    "probe_accuracy": (values["accuracy"], values["stderr"]),
    "label_alignment": (values["alignment"], None),
  }


PROBE = Measure("probe", METRICS, compute, summarize, statistic="points")
