"""Neural collapse of a layer: NC1, NC2, CDNV, nearest-class-mean accuracy.

They are computed from Gram statistics. With C the Gram matrix of the centres
about their mean and x the products of a centred point with all centres,

  NC1  = tr(Σ_W Σ_B⁺) / P = Σ xᵀ (C²)⁺ x / (P M),
  CDNV = mean over pairs of (v_μ + v_ν) / (2 ‖c_μ − c_ν‖²), v = tr(within) / M.

As is customary, the pseudo-inverse in NC1 leaves out the directions in which
the centres vary less than a thousandth of the most. Of many classes these may
hold most of the trace, and NC1 jumps where a direction passes this bound; the
other numbers leave out nothing.

Sources: Papyan, Han and Donoho, PNAS 2020; Galanti, György and Hutter, ICLR
2022.
"""

import jax.numpy as jnp

from geomem.geometry.frames import center_gram, points_error
from geomem.geometry.linalg import (
  diagonal,
  einsum,
  mean_off_diagonal,
  squared_distances,
)
from geomem.geometry.representation import rounding_floor
from geomem.measures.measure import Measure, Metric

# In units of C's largest eigenvalue.
_TRUNCATED = 1e-3
_FEWEST_KNOWN = 0.95

METRICS = (
  Metric("nc1", "NC1, within over between", "log"),
  Metric("nc2_norms", "NC2, spread of the norms"),
  Metric("nc2_angles", "NC2, cosines off a simplex"),
  Metric("cdnv", "CDNV", "log"),
  Metric(
    "ncm_accuracy", "nearest-class-mean accuracy", chance="chance_accuracy"
  ),
)


def compute(key, stats, options):
  """Computes the metrics of one subset; NaN where they are not defined.

  The mean of a point's own class is taken without the point, which makes its
  distance to that mean M/(M − 1) times as large. A manifold of one point has no
  variance, and so no CDNV and no accuracy; NC1 pools the points of all. Where
  points of a manifold differ by rounding alone, NC1 and CDNV are not known; nor
  is CDNV where centres do; nor the angles where a centre is near the mean of
  all; nor the accuracy where rounding decides it for more
  than one point in twenty, and fewer are left out.
  """
  del key, options
  counts = stats.mask.sum(-1).astype(stats.within.dtype)
  num_manifolds = len(counts)
  # About the unweighted mean of the centres, even if manifolds differ in size.
  C = center_gram(stats.centers)
  # LAPACK may not terminate on NaN; all is unknown then.
  C = jnp.where(jnp.isfinite(C).all(), C, 0)
  x = stats.cross - stats.cross.mean(-1, keepdims=True)
  values, vectors = jnp.linalg.eigh(C)
  kept = values > _TRUNCATED * values[-1]
  inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
  projected = einsum("pmq,qk->pmk", x, vectors)
  nc1 = ((projected * inverse[None, None]) ** 2).sum() / counts.sum()
  # Centres that all coincide, as in a dead layer, separate no classes.
  has_centers = values[-1] / num_manifolds > rounding_floor(stats)

  squares = jnp.diagonal(C)
  # Rounding takes the products of centres near the mean of all.
  angles_known = (squares > 4 * jnp.finfo(C.dtype).eps * squares.max()).all()
  norms = jnp.sqrt(jnp.maximum(squares, 0))
  cosines = C / (norms[:, None] * norms[None])
  angles = jnp.abs(cosines + 1 / max(1, num_manifolds - 1))

  all_vary = counts.min() > 1
  distances = squared_distances(C)
  far = jnp.where(jnp.eye(num_manifolds, dtype=bool), jnp.inf, distances)
  sizes = jnp.diagonal(stats.centers)
  rounding = 8 * jnp.finfo(C.dtype).eps * (sizes[:, None] + sizes[None])
  # Near each other, centres may be lost in their distance from all others.
  cdnv_known = all_vary & (far > 8 * rounding).all()

  def mean_cdnv(v):
    return mean_off_diagonal((v[:, None] + v[None]) / (2 * far))

  v = jnp.trace(stats.within, axis1=-2, axis2=-1) / counts
  # A variance below this may have more than a 64th from rounding.
  floor = 64 * points_error(stats)
  cdnv, least_cdnv = mean_cdnv(v), mean_cdnv(floor)

  margins = _margins(stats, far, counts / (counts - 1))
  doubt = rounding[:, None]
  is_right = (margins > doubt).all(-1) & stats.mask
  is_wrong = (margins < -doubt).any(-1) & stats.mask
  num_known = (is_right | is_wrong).sum()
  ncm_known = all_vary & (num_known >= _FEWEST_KNOWN * counts.sum())
  nc1_known = (counts * v).sum() >= (counts * floor).sum()
  nc1_known &= counts.max() > 1
  metrics = {
    "nc1": jnp.where(nc1_known, nc1, jnp.nan),
    "nc2_norms": jnp.std(norms) / jnp.mean(norms),
    "nc2_angles": jnp.where(angles_known, mean_off_diagonal(angles), jnp.nan),
    "cdnv": jnp.where(cdnv_known & (cdnv >= least_cdnv), cdnv, jnp.nan),
    "ncm_accuracy": jnp.where(ncm_known, is_right.sum() / num_known, jnp.nan),
  }
  return {k: jnp.where(has_centers, v, jnp.nan) for k, v in metrics.items()}


def _margins(stats, distances, scale):
  """Computes by how much farther points are from other means than their own.

  `distances` are those of the centres, squared, infinite on the diagonal; that
  of a point to its own is larger without the point, by the `scale` of its
  manifold.
  """
  r = diagonal(stats.within)
  to_own = jnp.diagonal(stats.cross, axis1=0, axis2=2).T[..., None]
  to_others = r[..., None] + distances[:, None] + 2 * (to_own - stats.cross)
  return to_others - (r * scale[:, None] ** 2)[..., None]


COLLAPSE = Measure("collapse", METRICS, compute)
