"""Where GLUE has no answer: points that are lost, or whose anchors are many."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from geomem.geometry.fields import shifted_root
from geomem.geometry.linalg import diagonal, einsum, matmul
from geomem.geometry.products import PointProducts
from geomem.geometry.qp.growing_set import value
from geomem.geometry.qp.projected_cg import product

# Least square of a length beside those it is computed from, in units of ε.
_LEAST_LEFT = 1e4
# In units of a probe's standard deviation along a point, or of the spread.
_NO_SLACK = 1e-3
# Share of ‖t‖² that F may lack where it is ‖t‖².
_NO_REST = 1e-5
# The same of single points. Those without slack were measured to have less than
# 1e-7, and of random points one in three million has as little.
_TOUCHING = 1e-6
# Relative square of a distance that counts as none is 100 times this, which
# keeps the matrix of dependent points positive.
_RIDGE = 1e-10
# Most active points of the manifolds in question; of more, none is explained.
_SLOTS = 256
# A point is dependent where its squared distance from the span of those before
# it is below this many times the shift of their root.
_DEPENDENT = 1e3
# Squared distance from a ray that counts as none, in units of the square of the
# spread, and of ε of the point's own square.
_ON_RAY, _ROUNDING_ON_RAY = 1e-12, 64
# In these units, by how much points of one manifold must differ along a ray.
_ALONG_RAY = 1e4


def is_lost(products: PointProducts, K: Float[Array, "n n"]) -> Bool[Array, ""]:
  """Tells whether rounding has taken the spread of the points, or a point.

  Far from the origin their spread is lost beside their mean; near it, points
  are lost beside a mean that is far. A point at the origin is exactly 0 in K.
  """
  squares, lengths = jnp.diagonal(products.gram), jnp.diagonal(K)
  least = _LEAST_LEFT * jnp.finfo(K.dtype).eps * (squares + products.square)
  tiny = (lengths != 0) & (lengths < least)
  return tiny.any() | (squares < least).all()


def in_other_manifolds(mask: Bool[Array, "P M"]) -> Bool[Array, "n n"]:
  """Tells which pairs of points are of two manifolds."""
  manifold = jnp.arange(mask.size) // mask.shape[1]
  return manifold[:, None] != manifold[None]


def _slack(products, K, b, lam, signs) -> tuple[Array, Array, Array]:
  """Returns the points' norms, their slack, and its unit: infinite for none."""
  lengths = jnp.diagonal(K)
  present = lengths > 0
  norms = jnp.where(present, jnp.sqrt(jnp.abs(lengths)), 1)
  # Far from the origin, any v is nearly orthogonal to all points.
  spread = jnp.sqrt(jnp.diagonal(products.gram).max())
  unit = jnp.where(present, jnp.minimum(norms, spread), jnp.inf)
  return norms, b - product(K, lam, signs), unit


def surrounds_origin(
  products: PointProducts,
  K: Float[Array, "n n"],
  b: Float[Array, "T n"],
  lam: Float[Array, "T n"],
  signs: Float[Array, "T n"],
) -> Bool[Array, " T"]:
  """Tells in which samples F is ‖t‖² though the points are dependent.

  Independent points may all be active, with no slack, but determine λ.
  """
  norms, slack, unit = _slack(products, K, b, lam, signs)
  present = jnp.isfinite(unit)
  touching = jnp.abs(slack / unit[None]).max(axis=1) < _NO_SLACK

  def surrounded():
    missing = jnp.diag(jnp.where(present, 0, 1).astype(K.dtype))
    root, shift = shifted_root(K / (norms[:, None] * norms[None]) + missing)
    dependent = (jnp.diagonal(root) ** 2).min() < _DEPENDENT * shift
    fields = jnp.where(present[None], signs * b / norms[None], 0)
    t = jax.scipy.linalg.solve_triangular(root, fields.T, lower=True)
    whole = value(lam, slack, b) >= (1 - _NO_REST) * (t**2).sum(axis=0)
    return touching & whole & dependent

  return jax.lax.cond(touching.any(), surrounded, lambda: touching)


def share_rays(
  products: PointProducts,
  K: Float[Array, "n n"],
  lam: Float[Array, "T n"],
  signs: Float[Array, "T n"],
) -> Bool[Array, " T"]:
  """Tells in which samples a point is active on a ray that it shares.

  With a point of another manifold, like equal points in two manifolds of equal
  labels, or points at z and −z in two of opposite labels; or with one of its
  own, of another length. Their multipliers can be exchanged, and move anchors.
  """
  lengths = jnp.diagonal(K)
  squares = jnp.where(lengths > 0, lengths, jnp.inf)
  distances = lengths[:, None] - K * (K / squares[None])
  least = jnp.maximum(
    _ON_RAY * jnp.diagonal(products.gram).max(),
    _ROUNDING_ON_RAY * jnp.finfo(K.dtype).eps * lengths,
  )
  on_line = (distances < least[:, None]) & (K != 0)
  norms = jnp.sqrt(jnp.maximum(lengths, 0))
  along = (norms[:, None] - norms[None]) ** 2 > _ALONG_RAY * least[:, None]
  on_line &= along | in_other_manifolds(products.mask)

  def shared():
    towards = jnp.where(on_line, jnp.sign(K), 0)
    # Twice the number of points on the line that have the same direction.
    of_either = jnp.abs(towards).sum(axis=1)
    count = of_either[None] + signs * matmul(signs, towards.T)
    return ((lam > 0) & (count > 0)).any(axis=1)

  return jax.lax.cond(on_line.any(), shared, lambda: jnp.zeros(len(lam), bool))


def share_faces(
  products: PointProducts,
  K: Float[Array, "n n"],
  b: Float[Array, "T n"],
  lam: Float[Array, "T n"],
  signs: Float[Array, "T n"],
) -> Bool[Array, " T"]:
  """Tells in which samples a point without λ could have some of that of others.

  For a random probe, a point has no slack only if it depends on the active ones
  (λ > 0): some of their λ can be moved to it. The anchors stay where they are
  if it is an affine combination of the active points of its own manifold.
  """
  _, slack, unit = _slack(products, K, b, lam, signs)
  # By the least unit: where some manifolds are far, theirs hides the slack.
  touching = jnp.abs(slack) < _TOUCHING * unit.min()
  idle = touching & (lam <= 0) & jnp.isfinite(unit)[None]
  (P, M), T = products.mask.shape, len(lam)
  ridge = max(_RIDGE, 8 * float(jnp.finfo(K.dtype).eps))

  def examined():
    each = jnp.arange(P, dtype=jnp.int32)
    own, rest = (
      x.reshape(P, M, P, M)[each, :, each]
      for x in (products.gram, products.rest[:-1, :-1])
    )
    # Of points (z, spread), so that linear combinations are affine ones.
    own = own + rest + jnp.diagonal(products.gram).max()
    # One combination of the idle points, without a pattern, stands for all.
    weights = jnp.cos(jnp.arange(P * M, dtype=K.dtype))
    weights = jnp.where(idle, weights[None], 0).reshape(T, P, M)
    fields = einsum("tpm,pmk->tpk", weights, own)
    square = (fields * weights).sum(axis=(1, 2))
    size = (weights**2 * diagonal(own)[None]).sum(axis=(1, 2))
    concerned = idle.reshape(T, P, M).any(axis=2, keepdims=True)
    active = (lam > 0).reshape(T, P, M) & concerned
    active, fields = active.reshape(T, -1), fields.reshape(T, -1)

    def explained(active, field):
      """Computes the square of the part in the span of active points."""
      slots = min(_SLOTS, P * M)
      here, i = jax.lax.top_k(active.astype(jnp.float32), slots)
      p, m = i // M, i % M
      G = own[p[:, None], m[:, None], m[None]]
      pairs = (here[:, None] * here[None] > 0) & (p[:, None] == p[None])
      G = jnp.where(pairs, G, 0)
      unit = jnp.where(here > 0, ridge * jnp.diagonal(G), 1)
      root = jax.scipy.linalg.cholesky(G + jnp.diag(unit), lower=True)
      field = jnp.where(here > 0, field[i], 0)
      x = jax.scipy.linalg.solve_triangular(root, field, lower=True)
      return (x**2).sum()

    def of_one(sample):
      zero = jnp.zeros((), K.dtype)
      there = sample[0].any()
      return jax.lax.cond(there, lambda: explained(*sample), lambda: zero)

    part = jax.lax.map(of_one, (active, fields))
    return square - part > 100 * ridge * size

  return jax.lax.cond(idle.any(), examined, lambda: jnp.zeros(T, bool))
