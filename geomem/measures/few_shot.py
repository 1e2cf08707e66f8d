"""Few-shot learning: how well prototypes of two classes tell them apart.

With Δ = c_a − c_b the centres' difference, Σ the covariance within a manifold
and V = tr Σ, a new point of a is nearer to the mean of m examples of a than to
the mean of m examples of b with signal-to-noise ratio

  SNR = ½ (‖Δ‖² + (V_b − V_a)/m)
        / √(tr Σ_a²/m + ΔᵀΣ_bΔ/m + ΔᵀΣ_aΔ + tr Σ_aΣ_b/m),

and the error is ½ erfc(SNR/√2). Σ is estimated from M points: unless M is many
times the dimension, tr Σ² is overestimated, and so is the error.

Source: Sorscher, Ganguli and Sompolinsky, PNAS 2022, equation 3.
"""

import jax
import jax.numpy as jnp

from geomem.geometry.linalg import einsum, mean_off_diagonal, squared_distances
from geomem.geometry.representation import unit_free
from geomem.measures.measure import Measure, Metric

SHOTS = (1, 5)

METRICS = tuple(
  metric
  for m in SHOTS
  for metric in (
    Metric(f"snr_{m}_shot", f"signal to noise, {m}-shot"),
    Metric(f"error_{m}_shot", f"error, {m}-shot"),
  )
)


def compute(key, products, options):
  """Computes the averages over all ordered pairs of manifolds.

  They are NaN where a manifold has one point, which tells no covariance. Where
  the noise is that of rounding, the SNR is NaN, but the error may be known: 0.
  """
  del key, options
  mask = products.mask.astype(products.gram.dtype)
  P, M = mask.shape
  counts = mask.sum(axis=1)
  G = unit_free(products.gram, 2).reshape(P, M, P, M)
  weights = mask / counts[:, None]
  # Products of the centres with the points, and of the centres; X those of the
  # points' deviations from their centres.
  rows = einsum("pm,pmqk->pqk", weights, G)
  centers = einsum("pqk,qk->pq", rows, weights)
  columns = rows.transpose(1, 2, 0)
  to_centers = columns - centers[:, None]  # x_qk · c_p
  X = G - rows[:, None] - columns[..., None] + centers[:, None, :, None]
  X = X * mask[:, :, None, None] * mask[None, None]
  overlap = (X**2).sum(axis=(1, 3)) / (counts[:, None] * counts[None])
  V = einsum("pmpm->p", X) / counts
  distance = squared_distances(centers)
  # Δ·x for each deviation x of a and each b, with Δ = c_a − c_b.
  to_own = jnp.diagonal(to_centers, axis1=0, axis2=2).T
  along = (to_own[:, :, None] - to_centers) * mask[:, :, None]
  spread = (along**2).sum(axis=1) / counts[:, None]
  is_pair = ~jnp.eye(P, dtype=bool)
  # The deviation of a product by rounding is about an eighth of this.
  floor = (8 * jnp.finfo(G.dtype).eps * jnp.abs(G).max()) ** 2
  averages = {}
  for m in SHOTS:
    signal = (distance + (V[None] - V[:, None]) / m) / 2
    noise = jnp.diagonal(overlap)[:, None] / m + spread.T / m
    noise = noise + spread + overlap / m
    snr = signal / jnp.sqrt(jnp.where(is_pair, noise, 1))
    error = jax.scipy.special.erfc(snr / jnp.sqrt(2.0)) / 2
    lost = (noise < floor) & is_pair
    snr = jnp.where(lost, jnp.nan, snr)
    error = jnp.where(lost & (error > 0), jnp.nan, error)
    averages[f"snr_{m}_shot"] = mean_off_diagonal(snr)
    averages[f"error_{m}_shot"] = mean_off_diagonal(error)
  return {
    name: jnp.where(counts.min() > 1, average, jnp.nan)
    for name, average in averages.items()
  }


FEW_SHOT = Measure("few_shot", METRICS, compute, statistic="points")
