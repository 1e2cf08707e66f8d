"""GLUE: by hand in NumPy and SciPy, closed forms, recovery, invariances."""

import functools
import importlib
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn import datasets

from geomem import geometry
from geomem.geometry import glue_numbers
from geomem.geometry.fields import draw_normal, fields_of, shifted_root
from geomem.geometry.linalg import pseudo_inverse_shares
from geomem.geometry.qp.growing_set import solved
from tests.fakes import also_long

glue_module = importlib.import_module("geomem.geometry.glue")

# Most tests measure six manifolds of eight points, by 60 or 400 probes: each
# other number of them would be a program of its own.
P, M = 6, 8
exact_fields = jax.jit(fields_of)


def known_manifolds(P, M, N, D, R, correlation=0.0, seed=0):
  """Centres and axes N(0, I/N); points R Σ s_j u_j with ‖s‖ = 1, and noise."""
  rng = np.random.default_rng(seed)
  centers = rng.normal(size=(P, N))
  if correlation:
    common = rng.normal(size=N)
    centers = np.sqrt(1 - correlation) * centers
    centers += np.sqrt(correlation) * common
  axes = rng.normal(size=(P, D, N)) / np.sqrt(N)
  s = rng.normal(size=(P, M, D))
  s /= np.linalg.norm(s, axis=2, keepdims=True)
  points = centers[:, None] / np.sqrt(N) + R * np.einsum(
    "pmd,pdn->pmn", s, axes
  )
  noise = 0.01 * rng.normal(size=points.shape) / np.sqrt(N)
  return (points + noise).astype("f4")


def by_hand(manifolds, fields, labels):
  """Computes GLUE from points, as the definition has it, in float64."""
  P, Z = len(manifolds), np.concatenate(manifolds).astype(float)
  owner = np.repeat(np.arange(P), [len(m) for m in manifolds])
  probes = fields @ np.linalg.pinv(Z).T
  anchors = np.zeros((len(probes), P, Z.shape[1]))
  strengths = np.zeros((len(probes), P))
  for t, y, S, strength in zip(probes, labels, anchors, strengths, strict=True):
    lam, _ = optimize.nnls((y[owner][:, None] * Z).T, t)
    for manifold in range(P):
      own = lam * (owner == manifold)
      strength[manifold] = y[manifold] * own.sum()
      if own.sum() > 0:
        S[manifold] = own @ Z / own.sum()
  S0 = anchors.mean(axis=0)
  a, b, c, axis, mixed, cosines = [], [], [], [], [], []
  others = ~np.eye(P, dtype=bool)

  def shares(A, r):
    return r * (np.linalg.pinv(A, rcond=1e-8, hermitian=True) @ r)

  def cosines_of(A, B):
    norms = (np.linalg.norm(x, axis=1) for x in (A, B))
    norms = np.multiply.outer(*norms)
    return (A @ B.T / np.where(norms > 0, norms, np.inf))[others].mean()

  for t, S in zip(probes, anchors, strict=True):
    S1 = S - S0
    a.append(shares(S @ S.T, S @ t))
    b.append(shares(S1 @ S1.T, S1 @ t))
    c.append(shares(S0 @ S0.T + S1 @ S1.T, S1 @ t))
    axis.append(np.abs(S1 @ S1.T)[others].mean())
    mixed.append(np.abs(S1 @ S0.T)[others].mean())
    cosines.append((cosines_of(S1, S1), cosines_of(S1, S0)))
  own = [np.mean(x, axis=0) for x in (a, b, c)]
  a, b, c = (x.sum() for x in own)
  # Σ y Λ s of mean anchors, and of what is left of each: a = ‖their sum‖².
  of_centers = strengths @ S0
  of_axes = np.einsum("tp,tpn->tn", strengths, anchors - S0)
  parts = [(x**2).sum(axis=1).mean() for x in (of_centers, of_axes)]
  return {
    "center_part": parts[0] / a,
    "axis_part": parts[1] / a,
    "center_axis_part": 2 * (of_centers * of_axes).sum(axis=1).mean() / a,
    "capacity": P / a,
    "dimension": b / P,
    "radius": np.sqrt(c / (b - c)),
    "utility": c / a,
    "critical_features": a,
    "center_alignment": np.abs(S0 @ S0.T)[others].mean(),
    "axis_alignment": np.mean(axis),
    "center_axis_alignment": np.mean(mixed),
    "center_cosine": cosines_of(S0, S0),
    "axis_cosine": np.mean(cosines, axis=0)[0],
    "center_axis_cosine": np.mean(cosines, axis=0)[1],
    "active": (np.abs(anchors).sum(axis=2) > 0).mean(axis=0),
    "manifold_capacity": 1 / own[0],
    "manifold_dimension": own[1],
    "manifold_radius": np.sqrt(own[2] / (own[1] - own[2])),
    "manifold_utility": own[2] / own[0],
  }


def draw_fields(key, products, num_probes):
  """The fields of the probes that `glue` draws, in double precision."""
  x = draw_normal(key, products, num_probes)
  with jax.enable_x64(True):
    exact = jax.tree.map(
      lambda a: a.astype(float) if a.dtype == jnp.float32 else a, (products, x)
    )
    return np.asarray(exact_fields(*exact))


def drawn(key, products, labels, num_probes):
  """The fields and labels that `glue` draws from a key."""
  probe_key, label_key = jax.random.split(key)
  fields = draw_fields(probe_key, products, num_probes)
  num_manifolds = len(products.mask)
  y = geometry.draw_labels(label_key, labels, num_probes, num_manifolds)
  return np.asarray(fields, float), np.asarray(y)


@pytest.mark.parametrize(
  ("sizes", "labels"),
  [
    ((8, 8, 8, 8, 8, 8), "balanced"),
    ((8, 3, 5, 4, 1, 7), "independent"),
    ((5, 8, 4, 8, 6, 2), "one_vs_rest"),
    ((8, 4, 8, 4, 6, 3), np.array([1, 1, -1, -1, 1, -1])),
  ],
)
def test_every_number_is_that_of_the_definition(sizes, labels):
  rng = np.random.default_rng(0)
  manifolds = [
    (rng.normal(size=(1, 30)) + 0.7 * rng.normal(size=(m, 30))).astype("f4")
    for m in sizes
  ]
  key = jax.random.key(3)
  products = geometry.point_products(manifolds)
  found, reduced = (
    geometry.glue(
      key, products, labels=labels, num_probes=60, reduce_variance=reduce
    )
    for reduce in (False, True)
  )
  assert found.converged.all()
  fields, y = drawn(key, products, labels, 60)
  there = np.asarray(products.mask).reshape(-1)
  expected = by_hand(manifolds, fields[:, there], y)
  for name, value in expected.items():
    np.testing.assert_allclose(
      getattr(found, name), value, rtol=2e-3, atol=1e-5, err_msg=name
    )
  for one in (found, reduced):
    identity = one.utility * (1 + one.radius**-2) / one.dimension
    assert float(one.capacity) == pytest.approx(float(identity), rel=1e-5)
    mean = (1 / one.manifold_capacity).mean()
    assert float(1 / one.capacity) == pytest.approx(float(mean), rel=1e-5)
    mean = one.manifold_dimension.mean()
    assert float(one.dimension) == pytest.approx(float(mean), rel=1e-5)


def test_what_is_not_separable_is_interior():
  """Of 48 points in 23 features, NNLS finds those whose cone holds t."""
  points = np.random.default_rng(0).normal(size=(P, M, 23)).astype("f4")
  key, Z = jax.random.key(3), points.reshape(P * M, 23).astype(float)
  products = geometry.point_products(points)
  found = geometry.glue(key, products, num_probes=60, reduce_variance=False)
  fields, y = drawn(key, products, "balanced", 60)
  signs, probes = np.repeat(y, M, axis=1), fields @ np.linalg.pinv(Z).T
  distances = [
    optimize.nnls((s[:, None] * Z).T, t)[1]
    for s, t in zip(signs, probes, strict=True)
  ]
  inside = np.less(distances, 1e-6)
  assert 0.2 < inside.mean() < 0.8
  assert float(found.interior) == pytest.approx(inside.mean())
  assert 0 <= found.residual < 1e-4


def test_the_fields_have_the_covariance_of_the_points():
  # More points than features: in their span to rounding, whatever the rank.
  Z = np.random.default_rng(0).normal(size=(5, 6, 11)).astype("f4") + 2
  products = geometry.point_products(Z)
  fields = draw_fields(jax.random.key(0), products, 200_000)
  flat = Z.reshape(30, 11)
  K = flat @ flat.T
  np.testing.assert_allclose(products.raw, K, rtol=1e-5, atol=1e-4)
  scale = np.sqrt(np.outer(np.diag(K), np.diag(K)))
  covariance = np.cov(np.asarray(fields, float).T)
  # 200,000 draws: errors of .0032 at most, five of them.
  assert np.abs((covariance - K) / scale).max() < 0.016
  outside = fields[:100] @ (np.eye(30) - flat @ np.linalg.pinv(flat))
  assert np.abs(outside).max() < 2e-5 * np.abs(fields[:100]).max()


def test_orthonormal_points_have_their_closed_forms():
  def measured(products, num_keys, labels):
    """Means over keys, and what they are known by."""
    found = [
      geometry.glue(jax.random.key(i), products, labels=labels, num_probes=400)
      for i in range(num_keys)
    ]
    found = jax.tree.map(lambda *each: np.stack(each), *found)
    errors = (found.capacity_stderr, found.manifold_capacity_stderr)
    return (
      jax.tree.map(lambda x: x.mean(axis=0), found),
      *(np.sqrt((x**2).mean(axis=0) / num_keys) for x in errors),
    )

  # Manifolds of one point: each is on the right side or not, by itself.
  points, mask = np.zeros((P, M, 24), "f4"), np.zeros((P, M), bool)
  points[:, 0], mask[:, 0] = np.eye(24)[:P], True
  products = geometry.point_products(points, mask=mask)
  found, error, _ = measured(products, 12, "balanced")
  assert abs(found.capacity - 2) < 4 * error
  for value in (found.dimension, found.radius, found.utility):
    assert float(value) == pytest.approx(1, abs=0.03)
  np.testing.assert_allclose(found.manifold_dimension, 1, atol=0.1)
  # F = Σ max(y z·t, 0)²: manifolds of M such points have the capacity 2 / M.
  basis, sizes = np.eye(24, dtype="f4"), np.array([1, 2, 3, 4, 6, 8])
  products = geometry.point_products(np.split(basis, np.cumsum(sizes)[:-1]))
  found, _, errors = measured(products, 10, "independent")
  z = (found.manifold_capacity - 2 / sizes) / errors
  assert np.abs(z).max() < 4
  assert (errors < 0.05 * 2 / sizes).all()


@pytest.mark.slow
@pytest.mark.parametrize(
  # Dimension, radius and centre correlation that an independent implementation
  # finds of the same ensembles (P = 2, M = 200, N = 1000, 200 probes).
  ("D", "R", "correlation", "expected"),
  [
    (2, 1.0, 0.0, (2.28, None, 0.03)),
    (10, 1.0, 0.0, (8.29, None, None)),
    (4, 0.8, 0.0, (None, 0.88, None)),
    (4, 1.0, 0.0, (4.0, 1.03, 0.03)),
    (4, 1.0, 0.4, (None, None, 0.40)),
    (4, 1.0, 0.8, (None, None, 0.81)),
  ],
)
def test_known_manifolds_are_recovered(D, R, correlation, expected):
  points = known_manifolds(2, 200, 1000, D, R, correlation)
  found = geometry.glue(jax.random.key(0), points)
  assert found.converged.all()
  dimension, radius, cosine = expected
  if dimension is not None:
    error = float(found.dimension_stderr)
    assert abs(float(found.dimension) - dimension) < 3 * error
  if radius is not None:
    assert float(found.radius) == pytest.approx(radius, abs=0.03)
  if cosine is not None:
    # The sample's own correlation scatters by 1/√N.
    assert float(found.center_cosine) == pytest.approx(cosine, abs=0.1)


@pytest.mark.parametrize(
  # In double precision also where there are more points than features.
  ("x64", "num_features", "error"),
  [
    (False, 60, 5e-4),
    pytest.param(True, 28, 1e-6, marks=pytest.mark.long),
  ],
)
def test_zeros_rotation_and_order_of_features_change_nothing(
  x64, num_features, error
):
  points = known_manifolds(P, M, num_features, 3, 1.0).astype(float)
  rng = np.random.default_rng(1)
  Q, _ = np.linalg.qr(rng.normal(size=(num_features, num_features)))
  others = {
    "padded": np.pad(points, ((0, 0), (0, 0), (0, 9))),
    "rotated": points @ Q,
    "reordered": points[..., rng.permutation(num_features)],
    "scaled": 8 * points,
  }
  key = jax.random.key(5)
  with jax.enable_x64(x64):
    found = geometry.glue(key, points, num_probes=60)
    for name, other in others.items():
      again = geometry.glue(key, other, num_probes=60)
      for field in ("capacity", "dimension", "radius", "utility"):
        np.testing.assert_allclose(
          getattr(again, field), getattr(found, field), rtol=error, err_msg=name
        )


def test_features_of_zeros_do_not_set_the_unit():
  points = np.pad(
    2.0**-70 * known_manifolds(3, 4, 8, 2, 1.0), ((0, 0),) * 2 + ((0, 8),)
  )
  points = points.astype("f4")
  whole = geometry.point_products(points)
  blocks = geometry.point_products(points, block_size=8)
  assert int(blocks.exponent) == int(whole.exponent) < 0
  np.testing.assert_allclose(blocks.raw, whole.raw, rtol=1e-5)


def test_products_add_up_over_blocks_and_lose_no_digits_to_an_offset():
  points = known_manifolds(4, 5, 30, 3, 1.0)
  whole = geometry.point_products(points)
  blocks = geometry.point_products(points, block_size=7)
  np.testing.assert_allclose(blocks.raw, whole.raw, rtol=1e-4, atol=1e-4)
  far = points.astype(float) + 1e4
  moved = geometry.point_products(far)
  np.testing.assert_allclose(moved.gram, whole.gram, rtol=1e-3, atol=1e-4)
  flat = far.reshape(20, 30)
  np.testing.assert_allclose(moved.raw, flat @ flat.T, rtol=1e-5)


def test_points_of_any_size_are_measured_and_dead_ones_are_not():
  points = known_manifolds(P, M, 60, 3, 1.0)
  key = jax.random.key(0)
  expected = geometry.glue(key, points, num_probes=60)
  for scale in (2.0**-70, 2.0**70):
    for other in (points * np.float32(scale), points.astype(float) * scale):
      found = geometry.glue(key, other, num_probes=60)
      assert found.converged.all()
      for name in ("capacity", "dimension", "radius"):
        np.testing.assert_allclose(
          getattr(found, name), getattr(expected, name), rtol=1e-3
        )
      # Its square does not fit: it was 0, or infinite.
      assert np.isnan(found.axis_alignment)
  dead = geometry.glue(key, 0 * points, num_probes=60)
  assert np.isnan(dead.capacity)
  # Under jit nothing can be refused: it must end, and say so.
  bad = points.copy()
  bad[0, 0, 0] = np.nan
  labels = np.array([1, -1] * 3)
  assert_unknown(measured_inside(bad, labels, np.ones((P, M), bool)))


@jax.jit
def measured_inside(points, labels, mask):
  found = geometry.glue(
    jax.random.key(0), points, labels=labels, mask=mask, num_probes=60
  )
  return found.capacity, found.dimension, found.converged


def assert_unknown(measured):
  capacity, dimension, converged = measured
  assert np.isnan(capacity)
  assert np.isnan(dimension)
  assert not converged.any()


def two_orthogonal_points():
  points, mask = np.zeros((2, M, 30), "f4"), np.zeros((2, M), bool)
  points[:, 0], mask[:, 0] = np.eye(30)[:2], True
  return geometry.point_products(points, mask=mask)


def test_points_that_surround_the_origin_are_said_to():
  # 48 random points in 9 dimensions: no labels can be separated, F = ‖t‖².
  points = np.random.default_rng(0).normal(size=(P, M, 9)).astype("f4")
  found = geometry.glue(jax.random.key(0), points, num_probes=400)
  assert float(found.interior) > 0.99
  assert abs(float(found.critical_features) - 9) < 1
  assert np.isnan(found.dimension)
  # Two points that are both active leave no slack, and are independent.
  two = two_orthogonal_points()
  two = geometry.glue(jax.random.key(0), two, num_probes=100)
  assert float(two.interior) == 0
  assert np.isfinite(two.dimension)
  apart = known_manifolds(P, M, 90, 3, 1.0)
  apart = geometry.glue(jax.random.key(0), apart, num_probes=400)
  assert float(apart.interior) == 0


def test_points_on_one_ray_leave_the_anchors_open():
  """Their λ can be exchanged: NNLS found D = 2.21, and this solver 1.96."""
  points = known_manifolds(P, M, 90, 3, 1.0)
  labels = np.array([1, 1, -1, 1, -1, 1.0])

  def measured(labels, place, manifold):
    changed = points.copy()
    changed[place] = manifold
    key = jax.random.key(0)
    return geometry.glue(key, changed, labels=labels, num_probes=400)

  own = np.concatenate([points[0, :4], 3 * points[0, :4]])
  # With opposite labels, equal points may have any λ that is added to both.
  opposite = labels * [1, -1, 1, 1, 1, 1]
  for found in (
    measured(labels, 1, points[0]),
    measured(labels, 2, -2 * points[0]),
    measured(labels, 0, own),
    measured(opposite, 1, points[0]),
  ):
    assert float(found.interior) == 0
    assert found.converged.all()
    assert np.isfinite([found.capacity, found.critical_features]).all()
    unknown = (found.dimension, found.radius, found.utility, *found.active)
    assert np.isnan(unknown).all()
  # Near each other they cannot be exchanged, and equal ones keep the anchor.
  noise = 1e-3 * np.random.default_rng(0).normal(size=points[0].shape)
  for found in (
    measured(labels, 1, points[0] + noise.astype("f4")),
    measured(labels, 0, np.concatenate([points[0, :4], points[0, :4]])),
  ):
    assert np.isfinite([found.dimension, found.radius, found.utility]).all()


def test_independent_points_never_surround_the_origin():
  """For 1 key in 10, one of two points almost touches; all were then NaN."""
  products = two_orthogonal_points()
  for i in range(60):
    found = geometry.glue(jax.random.key(i), products, num_probes=100)
    assert float(found.interior) == 0
    assert np.isfinite(found.dimension)


def far_away(offset, manifolds, shape=(P, M)):
  """Random manifolds in 30 dimensions, some of them moved by an offset."""
  rng = np.random.default_rng(11)
  points = rng.normal(size=(shape[0], 1, 30)) + rng.normal(size=(*shape, 30))
  points[manifolds] += offset
  return points


@pytest.mark.parametrize(
  ("offset", "manifolds"),
  [
    (1e3, slice(None)),
    (1e5, slice(None)),
    (1e5, slice(1)),
    (1e5, slice(2)),  # The others are a group, too.
    (1e4, slice(2, 5)),
  ],
)
def test_points_far_from_the_origin_are_measured(offset, manifolds):
  points = far_away(offset, manifolds)
  key, products = jax.random.key(7), geometry.point_products(points)
  found = geometry.glue(key, products, num_probes=60, reduce_variance=False)
  assert found.converged.all()
  assert float(found.interior) == 0
  forces = exact_forces(points, *drawn(key, products, "balanced", 60))
  assert float(found.capacity) == pytest.approx(P / forces.mean(), rel=1e-3)
  assert np.isfinite(found.radius)


@pytest.mark.parametrize("manifolds", [slice(None), slice(1), slice(2)])
def test_fields_of_points_far_from_each_other_lose_no_direction(manifolds):
  points = far_away(1e5, manifolds)
  found = geometry.glue(jax.random.key(0), points, num_probes=400)
  if jax.__version_info__ < (0, 8) and np.isnan(found.capacity):
    # There, some percent of the last case's problems are not solved.
    assert 0.01 < 1 - found.converged.mean() < 0.1
    return
  probes = np.random.default_rng(0).normal(size=(400, 30))
  y = geometry.draw_labels(jax.random.key(1), "balanced", 400, P)
  fields = probes @ points.reshape(P * M, 30).T
  forces = exact_forces(points, fields, np.asarray(y)) / P
  z = 1 / found.capacity - forces.mean()
  error = found.capacity_stderr / found.capacity**2
  assert abs(float(z)) < 4 * float(jnp.hypot(error, forces.std() / 20))


@pytest.mark.parametrize(
  ("offset", "manifolds"),
  [(1e7, slice(None)), (1e12, slice(None)), (1e9, slice(1))],
)
@pytest.mark.parametrize("x64", [False, True])
def test_points_too_far_away_are_said_to_be(offset, manifolds, x64):
  # In double precision the program of the test of differences.
  shape, num_probes = ((3, 5), 20) if x64 else ((P, M), 60)
  with jax.enable_x64(x64):
    points = far_away(offset, manifolds, shape)
    found = geometry.glue(jax.random.key(7), points, num_probes=num_probes)
    assert not found.converged.any()
    assert np.isnan(found.capacity)
    assert np.isnan(found.dimension)
    whole = np.rint(10 * far_away(0, manifolds, shape)).astype(int) + 2**60
    found = geometry.glue(jax.random.key(7), whole, num_probes=num_probes)
    assert not found.converged.any()
    assert np.isnan(found.capacity)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_points_at_the_origin_constrain_nothing(dtype):
  points = np.maximum(far_away(0, slice(None)), 0).astype(dtype)
  points[0, 3] = 0
  key, mask = jax.random.key(1), np.ones((P, M), bool)
  mask[0, 3] = False
  products = geometry.point_products(points)
  assert float(products.raw[3, 3]) == 0
  found = geometry.glue(key, products, num_probes=400)
  other = geometry.glue(jax.random.key(2), points, mask=mask, num_probes=400)
  assert found.converged.all()
  error = float(jnp.hypot(found.capacity_stderr, other.capacity_stderr))
  assert abs(float(found.capacity - other.capacity)) < 4 * error


def test_products_of_other_points_do_not_add_up():
  points = known_manifolds(3, 4, 8, 2, 1.0)
  mask = np.ones((3, 4), bool)
  mask[:, 2:] = False
  whole, part, short = (
    geometry.point_products(points, mask=mask),
    geometry.point_products(points),
    geometry.point_products(points[:, :1]),
  )
  for other in (part, short):
    with pytest.raises(ValueError, match="equal masks were expected"):
      whole + other
  total = jax.jit(lambda a, b: a + b)(whole, part)
  for field in total.parts:
    assert np.isnan(field).all()


def test_shares_have_derivatives_where_manifolds_are_dependent():
  """r ∘ A⁺ r of A = B Bᵀ and r = B u with B `[5, 3]` is r ∘ B (BᵀB)⁻¹ u."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    B, u, weights = (
      jnp.asarray(rng.normal(size=shape)) for shape in ((5, 3), (3,), (5,))
    )

    def found(B):
      shares = pseudo_inverse_shares((B @ B.T)[None], (B @ u)[None])
      return (weights * shares[0]).sum()

    def exact(B):
      return (weights * (B @ u) * (B @ jnp.linalg.solve(B.T @ B, u))).sum()

    for slope in (jax.grad, jax.hessian):
      np.testing.assert_allclose(
        jax.jit(slope(found))(B), jax.jit(slope(exact))(B), rtol=1e-7
      )


def test_labellings_are_what_their_names_say():
  key = jax.random.key(0)
  balanced = geometry.draw_labels(key, "balanced", 500, 10)
  assert (balanced.sum(axis=1) == 0).all()
  assert abs(balanced.mean(axis=0)).max() < 0.2
  odd = geometry.draw_labels(key, "balanced", 500, 7).sum(axis=1)
  assert set(odd.tolist()) == {-1, 1}
  one = geometry.draw_labels(key, "one_vs_rest", 30, 10)
  assert ((one == 1).sum(axis=1) == 1).all()
  assert ((one == 1).sum(axis=0) == 3).all()
  own = np.array([1, -1, 1, 1])
  assert (np.asarray(geometry.draw_labels(key, own, 5, 4)) == own).all()
  assert (geometry.draw_labels(key, own.tolist(), 1, 4)[0] == own).all()
  # P(y = y*) = 1 / (1 + exp(−2β)).
  tilted = geometry.draw_labels(key, own, 20_000, 4, 0.5)
  share = np.mean(np.asarray(tilted) == own)
  assert share == pytest.approx(1 / (1 + np.exp(-1)), abs=0.01)


@pytest.mark.parametrize(
  ("options", "sentence"),
  [
    ({"labels": "fair"}, "labels 'fair' is not known"),
    ({"labels": np.array([1, -1])}, "one sign for each of 3"),
    ({"labels": np.array([0, 1, 1])}, "signs, 1 and -1"),
    ({"tilt": 1.0}, "give its signs"),
    ({"tilt": 1.0, "labels": "pairs"}, "give signs instead"),
    ({"num_probes": 1}, "at least 2"),
    ({"tilt": float("nan"), "labels": [1, 1, -1]}, "tilt is NaN"),
  ],
)
def test_what_makes_no_sense_is_refused(options, sentence):
  with pytest.raises(ValueError, match=sentence):
    geometry.glue(jax.random.key(0), np.ones((3, 2, 4), "f4"), **options)
  with pytest.raises(ValueError, match="labels need at least two"):
    geometry.glue(jax.random.key(0), np.ones((1, 2, 4), "f4"))


def test_what_only_a_caller_without_types_can_give_is_refused():
  # Beyond the checks of types, which only the tests have.
  glue = inspect.unwrap(geometry.glue)
  points = np.ones((3, 2, 4), "f4")
  with pytest.raises(ValueError, match="whole number, at least 2"):
    glue(jax.random.key(0), points, num_probes=20.0)
  with pytest.raises(ValueError, match="GramStatistics were given"):
    glue(jax.random.key(0), geometry.gram_statistics(points))
  with pytest.raises(ValueError, match="glue draws those of each pair"):
    geometry.draw_labels(jax.random.key(0), "pairs", 4, 3)
  draw, key = inspect.unwrap(geometry.draw_labels), jax.random.key(0)
  tilted = jax.jit(lambda tilt: draw(key, np.array([1, -1]), 4, 2, tilt))
  assert np.isnan(tilted(jnp.nan)).all()


@pytest.mark.parametrize("name", ["labels", "mask"])
def test_what_is_refused_outside_jit_is_unknown_inside(name):
  """Zeros for −1, and a manifold without points, gave plausible numbers."""
  points = known_manifolds(P, M, 60, 3, 1.0)
  good = {"labels": np.array([1, -1] * 3), "mask": np.ones((P, M), bool)}
  bad = {
    "labels": np.array([1, 0] * 3),
    "mask": np.arange(P)[:, None] * np.ones(M) > 0,
  }
  capacity, dimension, converged = measured_inside(points, **good)
  assert np.isfinite([capacity, dimension]).all()
  assert converged.all()
  assert_unknown(measured_inside(points, **good | {name: bad[name]}))


NAMES = ("capacity", "dimension", "radius", "utility")


def numbers_of(points):
  found = geometry.glue(jax.random.key(0), points, num_probes=20)
  whole = [getattr(found, name) for name in NAMES]
  own = [getattr(found, f"manifold_{name}") for name in NAMES]
  errors = [getattr(found, f"{name}_stderr") for name in NAMES[1:]]
  return jnp.concatenate([jnp.stack(whole), *own]), jnp.stack(errors)


slopes_of = jax.jit(jax.jacrev(numbers_of))


@pytest.mark.slow
def test_derivatives_are_those_of_finite_differences():
  """Those of errors, too: they count how samples move the mean anchors."""
  points, way = np.random.default_rng(0).normal(size=(2, 3, 5, 30))
  with jax.enable_x64(True):
    slopes = [np.tensordot(x, way, 3) for x in slopes_of(points)]
    # Less than 1e-4 would be lost in the rounding of the roots.
    for place, h, tolerances in (
      (0, 1e-4, {"rtol": 1e-4}),
      (1, 1e-5, {"rtol": 5e-3, "atol": 1e-5}),
    ):
      above, below = (
        np.asarray(numbers_of(points + step * way)[place]) for step in (h, -h)
      )
      differences = (above - below) / (2 * h)
      np.testing.assert_allclose(slopes[place], differences, **tolerances)


def test_derivatives_that_do_not_exist_are_nan():
  points = np.random.default_rng(0).normal(size=(3, 5, 30))
  # In two of the features, points surround the origin.
  around = np.where(np.arange(30) < 2, points, 0)
  with jax.enable_x64(True):
    assert np.isfinite(slopes_of(points)[0]).all()
    points[1, 2] = points[0, 1]
    assert np.isnan(slopes_of(points)[0]).all()
    radius = slopes_of(around)[0][NAMES.index("radius")]
    assert np.isnan(radius).all()


def test_pairs_are_measured_each_by_itself():
  """Of manifolds whose radii differ: no two pairs are alike."""
  points = known_manifolds(4, M, 30, 3, 1.0)
  centers = points.mean(axis=1, keepdims=True)
  radii = np.float32([0.1, 0.5, 1.5, 4])[:, None, None]
  points = centers + radii * (points - centers)
  found = geometry.glue(
    jax.random.key(0), points, labels="pairs", num_probes=100
  )
  pairs = list(itertools.combinations(range(4), 2))
  assert found.capacity.shape == (6,)
  for i, pair in enumerate(pairs):
    # By other probes.
    alone = geometry.glue(jax.random.key(9), points[[*pair]], num_probes=100)
    error = float(jnp.hypot(found.capacity_stderr[i], alone.capacity_stderr))
    assert abs(float(found.capacity[i] - alone.capacity)) < 4 * error
  assert np.ptp(found.capacity) > 10 * np.max(found.capacity_stderr)


def test_many_points_beyond_the_slots_are_solved():
  # The supports have more points than a working set has slots.
  points = np.random.default_rng(0).normal(size=(8, 20, 100)).astype("f4")
  found = geometry.glue(jax.random.key(0), points, num_probes=40)
  assert found.converged.all()
  assert float(found.critical_features) > 64


def test_points_that_are_hardly_inseparable_are_solved():
  """160 points in 72 features, where α₀ = 2 allows 144: F is χ²(72).

  What is outside the span of the points in the fields, by rounding, would let
  λ grow without end here.
  """
  points = np.random.default_rng(0).normal(size=(8, 20, 72)).astype("f4")
  found = geometry.glue(jax.random.key(0), points, num_probes=40)
  assert found.converged.mean() >= 0.95
  assert float(found.interior) > 0.8
  # The mean of 40: ± 1.9.
  assert float(found.critical_features) == pytest.approx(72, abs=6)


def pixels(num_points):
  """Digits as they are: the spectrum of their 61 features spans 10³."""
  digits = datasets.load_digits()
  own = (digits.data[digits.target == c][:num_points] for c in range(10))
  return np.stack(list(own))


def exact_forces(points, fields, labels):
  """F of each probe, by SciPy in float64 on the points themselves."""
  Z = points.reshape(-1, points.shape[-1]).astype(float)
  forces = []
  for t, y in zip(fields @ np.linalg.pinv(Z).T, labels, strict=True):
    A = np.repeat(y, points.shape[1])[:, None] * Z
    A = A / np.linalg.norm(A, axis=1, keepdims=True)
    lam, _ = optimize.nnls(A.T, t, maxiter=9000)
    forces.append(((lam @ A) ** 2).sum())
  return np.array(forces)


def drawn_in_double(key, points, labels, num_probes):
  """What `glue` draws for points in single precision, before rounding."""
  single = geometry.point_products(points.astype("f4"))
  _, y = drawn(key, single, labels, num_probes)
  x = draw_normal(jax.random.split(key)[0], single, num_probes)
  with jax.enable_x64(True):
    products = geometry.point_products(points.astype(float))
    return np.asarray(exact_fields(products, jnp.asarray(x, float))), y


@pytest.mark.parametrize("labels", ["balanced", [1, -1] * 4])
def test_ill_conditioned_points_near_separability_are_solved(labels):
  """Multipliers are of 10⁴ where labels are nearly inseparable.

  With products in single precision 40 to 70 % of the problems were solved.
  """
  points = pixels(20)[:8].astype("f4")
  key = jax.random.key(1)
  found = geometry.glue(key, points, labels=labels, num_probes=40)
  assert found.converged.mean() >= 0.99
  forces = exact_forces(points, *drawn_in_double(key, points, labels, 40))
  assert float(found.capacity) == pytest.approx(8 / forces.mean(), rel=1e-4)


def test_directions_in_which_points_hardly_vary_count():
  """Features' scales span 10⁴, so that products in float32 lose half of them.

  All labels can be separated by the directions that hardly vary: without them
  F would be less.
  """
  scales = np.logspace(0, -4, 60)
  points = np.random.default_rng(0).normal(size=(P, M, 60)) * scales
  points = points.astype("f4")
  key = jax.random.key(0)
  found = geometry.glue(key, points, num_probes=60)
  assert found.converged.all()
  forces = exact_forces(points, *drawn_in_double(key, points, "balanced", 60))
  assert float(found.capacity) == pytest.approx(P / forces.mean(), rel=1e-3)


@pytest.mark.parametrize("tol", [3e-4, *also_long(1e-6)])
def test_problems_that_are_said_to_be_solved_are(tol):
  """Each of them, to the tolerance, and no others are said to be."""
  points = pixels(12)
  fields, y = drawn_in_double(jax.random.key(2), points, "balanced", 30)
  exact = exact_forces(points, fields, y)
  Z = points.reshape(120, -1)
  norms = np.linalg.norm(Z, axis=1)
  signs = np.repeat(y, 12, axis=1).astype(float)
  with jax.enable_x64(True):
    found = geometry.solve_signed_qp(Z @ Z.T, signs * fields, signs, tol=tol)
    assert found.converged.all()
    lam = np.asarray(found.lam)
    np.testing.assert_allclose(
      (((signs * lam) @ Z) ** 2).sum(axis=1), exact, rtol=tol
    )
    # A little less than the multipliers is not the optimum, nor is nothing.
    are_solved = jax.jit(functools.partial(solved, tol=3e-4))
    for share, expected in ((1, True), (0.999, False), (0, False)):
      v = signs * (fields - share * (signs * lam) @ Z @ Z.T)
      arrays = (share * lam * norms, v / norms, signs * fields / norms)
      assert (np.asarray(are_solved(*arrays)) == expected).all()


def test_error_bars_hold_what_they_say():
  """Of 100 keys, intervals of 95 % hold the mean: .95 ± .022."""
  rng = np.random.default_rng(0)
  points = rng.normal(size=(P, M, 30)) + 2 * rng.normal(size=(P, 1, 30))
  products = geometry.point_products(points.astype("f4"))
  found = [
    geometry.glue(jax.random.key(i), products, num_probes=60)
    for i in range(100)
  ]
  for name in ("capacity", "dimension", "radius", "utility"):
    values, errors = (
      np.array([getattr(each, n) for each in found])
      for n in (name, f"{name}_stderr")
    )
    inside = np.abs(values - values.mean()) < 1.96 * errors
    assert inside.mean() == pytest.approx(0.95, abs=0.06), name


def test_control_variates_reduce_errors_and_keep_the_means():
  """Of 60 keys; errors of means and spreads are 1/√60 and 9 % of a spread."""
  rng = np.random.default_rng(0)
  points = rng.normal(size=(P, M, 30)) + 2 * rng.normal(size=(P, 1, 30))
  products = geometry.point_products(points.astype("f4"))

  def measure(reduce):
    found = [
      geometry.glue(
        jax.random.key(i), products, num_probes=60, reduce_variance=reduce
      )
      for i in range(60)
    ]
    return {
      name: np.array([getattr(each, name) for each in found])
      for name in ("capacity", "capacity_stderr", "dimension", "utility")
    }

  plain, reduced = measure(False), measure(True)
  for name in ("capacity", "dimension", "utility"):
    apart = reduced[name] - plain[name]  # Of the same probes.
    assert abs(apart.mean()) < 4 * apart.std() / 60**0.5, name
  assert reduced["capacity"].std() < 0.8 * plain["capacity"].std()
  error = np.sqrt((reduced["capacity_stderr"] ** 2).mean())
  assert 0.8 < error / reduced["capacity"].std() < 1.6


def test_controls_of_glue_have_mean_zero_with_labels_and_missing_points():
  rng = np.random.default_rng(0)
  mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
  mask = np.concatenate([mask, np.ones((1, 3), bool)])
  Z = rng.normal(size=(12, 5)) * mask.reshape(-1, 1)
  Z[9:] -= Z[9:].mean(axis=0)  # Of this centre only rounding is left.
  K, t = Z @ Z.T, rng.normal(size=(200_000, 5))
  y = np.repeat([1.0, -1.0, 1.0, 1.0], 3)
  with jax.enable_x64(True):
    found = np.asarray(
      glue_numbers._controls(*map(jnp.asarray, (K, y * (t @ Z.T), mask)))
    )
  error = found.std(axis=0) / len(t) ** 0.5
  assert (abs(found.mean(axis=0)) < 4 * error).all()
  # Ten points and three centres are there, each of variance 1.
  centers = np.array([Z[:3].mean(0), Z[[3, 5]].mean(0), Z[6:8].mean(0)])
  u = y[:9:3] * (t @ centers.T) / np.linalg.norm(centers, axis=1)
  np.testing.assert_allclose(
    found[:, 2], (np.maximum(u, 0) ** 2).sum(axis=1) - 1.5
  )


@pytest.mark.parametrize(
  ("num_probes", "most"), [(2, 1), (60, 1), (150, 1), (200, 2), (250, 2)]
)
def test_one_problem_in_a_hundred_may_be_unsolved(num_probes, most):
  for unsolved in (0, most, most + 1):
    converged = jnp.arange(num_probes) >= unsolved
    assert bool(glue_module._too_few(converged)) == (unsolved > most)


@pytest.mark.long
def test_derivatives_hold_with_control_variates_and_missing_points():
  points, way = np.random.default_rng(0).normal(size=(2, 4, 5, 30))
  mask = np.ones((4, 5), bool)
  mask[1, 3:] = False

  def capacity(x):
    found = geometry.glue(jax.random.key(0), x, mask=mask, num_probes=64)
    return jnp.stack([found.capacity, found.dimension])

  with jax.enable_x64(True):
    slopes = np.tensordot(jax.jit(jax.jacrev(capacity))(points), way, 3)
    above, below = (
      np.asarray(capacity(points + h * way)) for h in (1e-4, -1e-4)
    )
  np.testing.assert_allclose(slopes, (above - below) / 2e-4, rtol=1e-3)


def test_a_root_found_with_a_larger_shift_has_the_derivative_of_cholesky():
  rng = np.random.default_rng(0)
  half, weights = rng.normal(size=(6, 3)), rng.normal(size=(6, 6))
  C = half @ half.T / np.outer(*2 * [np.linalg.norm(half, axis=1)])
  with jax.enable_x64(True):
    C = C - 1e-3 * np.eye(6)  # Indefinite: the first ε fails.

    def root(C):
      L, epsilon = shifted_root(C)
      return (weights * L).sum(), epsilon

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def cholesky(C, epsilon):
      L = jnp.linalg.cholesky(C + epsilon * jnp.eye(6))
      return (weights * L).sum(), None

    @jax.jit
    def both_modes(C):
      tangents = (jnp.asarray(weights),)
      _, along, _ = jax.jvp(root, (C,), tangents, has_aux=True)
      return jax.value_and_grad(root, has_aux=True)(C), along

    ((value, epsilon), slope), along = both_modes(C)
    assert epsilon > 1e-3
    (exact, _), expected = cholesky(C, epsilon)
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    np.testing.assert_allclose(slope, expected, rtol=1e-8)
    np.testing.assert_allclose(along, (expected * weights).sum(), rtol=1e-8)
