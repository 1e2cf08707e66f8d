"""A thousand degenerate inputs: solved, or said not to be; no silent NaN."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import optimize

from geomem import geometry
from tests.fakes import also_long
from tests.problems import segment_capacity

NUM_POINTS, NUM_FEATURES, NUM_PROBES = 6, 4, 8
EPS = np.finfo(np.float64).eps


def _repeat(points, rng):
  points[1:] = points[rng.integers(len(points), size=len(points) - 1)]


def _collapse(points, rng):
  del rng
  points[:] = points[:1]


def _line_up(points, rng):
  points[:] = points[:1] + rng.normal(size=(len(points), 1)) * points[1:2]


def _pair_up(points, rng):
  points[::2] = points[1::2] + 1e-6 * rng.normal(size=points[::2].shape)


def _flatten(points, rng):
  del rng
  points[:, 1:] = 0


def _vanish(points, rng):
  del rng
  points[:] = 0


def _spread(points, rng):
  points *= 10.0 ** rng.uniform(-4, 4)


def _stretch(points, rng):
  points *= 10.0 ** rng.uniform(-3, 3, size=points.shape[1])


DEFECTS = (
  _repeat,
  _collapse,
  _line_up,
  _pair_up,
  _flatten,
  _vanish,
  _spread,
  _stretch,
)
defects = st.lists(st.sampled_from(DEFECTS), min_size=1, max_size=3)
kappas = st.sampled_from((-2.0, -0.5, 0.0, 0.5, 3.0, 100.0))
seeds = st.integers(0, 2**31)
many, some = (
  hypothesis.settings(
    max_examples=count, deadline=None, derandomize=True, database=None
  )
  for count in (500, 150)
)


@jax.jit
def _anchors(frame, probes, kappa):
  return geometry.anchors(frame, probes, kappa)


@many
@hypothesis.given(seeds, defects, kappas)
def test_single_problems_are_solved_or_say_that_they_are_not(
  seed, defects, kappa
):
  rng = np.random.default_rng(seed)
  points = rng.normal(size=(NUM_POINTS, NUM_FEATURES))
  for defect in defects:
    defect(points, rng)
  frame = np.hstack([points, np.ones((NUM_POINTS, 1))])
  probes = rng.normal(size=(NUM_PROBES, NUM_FEATURES + 1))
  with jax.enable_x64(True):
    found = _anchors(jnp.asarray(frame), jnp.asarray(probes), kappa)
  converged = np.asarray(found.converged)
  for value in (found.force, found.lam, found.anchor):
    assert np.isfinite(np.asarray(value)[converged]).all()
  assert (np.asarray(found.lam)[converged] >= 0).all()
  largest = (frame**2).sum(axis=1).max()
  for t, force, good in zip(probes, found.force, converged, strict=True):
    shifted = t.copy()
    shifted[-1] -= kappa
    lam, _ = optimize.nnls(frame.T, -shifted, maxiter=1000)
    exact = ((lam @ frame) ** 2).sum()
    # An entry of the Gram matrix is known to ε times the largest.
    rounding = 100 * EPS * largest * (1 + lam.sum()) ** 2
    if good:
      assert abs(float(force) - exact) < 1e-8 * (1 + exact) + rounding


def test_nearly_all_of_them_are_solved():
  """Without this, the tests around it could pass by solving nothing."""
  converged = []
  with jax.enable_x64(True):
    for seed in range(200):
      rng = np.random.default_rng(seed)
      points = rng.normal(size=(NUM_POINTS, NUM_FEATURES))
      DEFECTS[seed % len(DEFECTS)](points, rng)
      frame = np.hstack([points, np.ones((NUM_POINTS, 1))])
      probes = rng.normal(size=(NUM_PROBES, NUM_FEATURES + 1))
      found = _anchors(jnp.asarray(frame), jnp.asarray(probes), 0.5)
      converged.append(np.asarray(found.converged))
  assert np.mean(converged) > 0.97


@functools.partial(jax.jit, static_argnames="centers")
def _measure(points, kappa, centers):
  return geometry.manifold_geometry(
    jax.random.key(0),
    geometry.gram_statistics(points),
    kappa=kappa,
    num_probes=32,
    centers=centers,
  )


def _capacity_by_hand(points, kappa):
  """Of the first manifold, by NNLS: 1 / α is the mean force; and its error."""
  x = points - points.mean(axis=(0, 1))
  center = x[0].mean(axis=0)
  inside = (x[0] - center) / np.linalg.norm(center)
  frame = np.hstack([inside, np.ones((NUM_POINTS, 1))])
  rng = np.random.default_rng(0)
  forces = []
  for t in rng.normal(size=(60, NUM_FEATURES + 1)):
    # The nearest of all v with frame @ v ≥ κ.
    shifted = t - kappa * np.eye(NUM_FEATURES + 1)[-1]
    lam, _ = optimize.nnls(frame.T, -shifted, maxiter=1000)
    forces.append(((lam @ frame) ** 2).sum())
  return np.mean(forces), np.std(forces) / np.sqrt(len(forces))


@some
@hypothesis.given(seeds, defects, kappas, st.sampled_from((None, "low_rank")))
def test_manifolds_are_measured_or_say_that_they_are_not(
  seed, defects, kappa, centers
):
  rng = np.random.default_rng(seed)
  points = rng.normal(size=(4, NUM_POINTS, NUM_FEATURES))
  for defect in defects:
    defect(points[rng.integers(4)], rng)
  found = _measure(jnp.asarray(points, jnp.float32), kappa, centers)
  good = np.asarray(found.converged)
  for name in ("capacity", "radius", "dimension", "radius_stderr"):
    values = np.asarray(getattr(found, name))[good]
    assert not np.isnan(values).any(), name
  assert not np.isnan(np.asarray(found.residual)).any() or not good.all()
  if centers is None and good[0]:
    force, error = _capacity_by_hand(points, kappa)
    capacity = float(found.capacity[0])
    wide = np.hypot(error, float(found.capacity_stderr[0]) / capacity**2)
    assert abs(1 / capacity - force) < 5 * wide + 1e-4 * force


def _far_apart(spread, shape, seed=0, of_line=False):
  """Four manifolds that are small, or large, beside their distance."""
  rng = np.random.default_rng(seed)
  q = rng.normal(size=(4, *shape))
  if of_line:
    q = q[..., :1] * q[:, :1]
  q -= q.mean(axis=1, keepdims=True)
  return rng.normal(size=(4, 1, shape[1])) + spread * q


def _geometry(points):
  return geometry.manifold_geometry(jax.random.key(0), points, centers=None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_manifolds_that_collapse_keep_their_numbers_or_lose_them(dtype):
  with jax.enable_x64(True):
    limit = _geometry(_far_apart(1e-6, (8, 30)))
    right, its_error = map(
      np.asarray, (limit.dimension, limit.dimension_stderr)
    )
  for spread in (1e-3, 1e-7, 1e-8):
    found = _geometry(_far_apart(spread, (8, 30)).astype(dtype))
    assert np.array_equal(found.converged, [spread == 1e-3] * 4)
    if spread == 1e-3:
      error = np.hypot(np.asarray(found.dimension_stderr), its_error)
      assert (abs(np.asarray(found.dimension) - right) < 4 * error).all()
    else:
      assert np.isnan([found.dimension, found.radius]).all()
      assert (np.asarray(found.rounding) > 0.1).all()


def test_one_manifold_far_away_takes_the_digits_of_the_others():
  points = _far_apart(1.0, (8, 30))
  points[0] *= 1e7
  assert np.array_equal(_geometry(points).converged, [True] + [False] * 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_point_far_away_takes_the_digits_of_all(dtype):
  """All points are rounded to ε of their distance from the first one."""
  points = _far_apart(1.0, (8, 30))
  points[0, 0] += 1.5e5
  points[0, 1] -= 1.5e5  # So that the centre is not far away.
  assert not np.asarray(_geometry(points.astype(dtype)).converged)[1:].any()
  # Other points may be far away: the digits of the rest are kept.
  points[0] = points[0, ::-1]
  assert np.asarray(_geometry(points.astype(dtype)).converged)[1:].all()


@pytest.mark.parametrize("num_points", [8, *also_long(50)])
def test_rounding_adds_no_dimension_to_a_line(num_points):
  for spread in (1.0, 1e-3, 1e-4, 1e-5):
    found = _geometry(_far_apart(spread, (num_points, 30), 1, of_line=True))
    good = np.asarray(found.converged)
    assert good.all() or spread < 1e-4
    np.testing.assert_allclose(found.dimension[good], 1, atol=1e-3)


def test_long_segments_have_the_closed_form_or_have_not_converged():
  for spread in (100.0, 3e4, 1e5, 3e5):
    found = _geometry(_far_apart(spread, (2, 30)))
    good = np.asarray(found.converged)
    assert good.all() if spread == 100 else not good.any()
    assert not (np.asarray(found.capacity) < 0).any()
    right = np.array([segment_capacity(r) for r in found.radius[good]])
    error = 4 * found.capacity_stderr[good]
    assert (abs(found.capacity[good] - right) < error).all()


def test_equal_points_have_no_spread_by_rounding():
  rng = np.random.default_rng(0)
  points = np.repeat(rng.normal(size=(4, 1, 30)), 8, axis=1).astype(np.float32)
  points[1] += rng.normal(size=(8, 30))
  stats = geometry.gram_statistics(points)
  blocks = geometry.statistics_by_manifold(lambda: [points[:3], points[3:]])
  for found in (stats, blocks):
    assert not np.asarray(found.within)[[0, 2, 3]].any()
    assert np.asarray(found.within)[1].any()
  found = _geometry(points)
  assert found.converged.all()
  np.testing.assert_array_equal(found.radius[np.array([0, 2, 3])], 0)

  @jax.grad
  def slope(points):
    weights = jnp.arange(4 * 8 * 4.0).reshape(4, 8, 4)
    return (geometry.gram_statistics(points).cross * weights).sum()

  # Derivatives are those of points that differ a little.
  moved = points + 1e-4 * rng.normal(size=points.shape).astype(np.float32)
  np.testing.assert_allclose(
    slope(jnp.asarray(points)), slope(jnp.asarray(moved)), rtol=0.01, atol=0.1
  )


def blocks_of_features():
  """Two manifolds of 12 points surround the origin in 3 features of theirs."""
  rng = np.random.default_rng(0)
  points = np.zeros((4, 6, 20))
  points[:2, :, :3] = rng.normal(size=(2, 6, 3))
  points[2:, :, 3:] = 1 + rng.normal(size=(2, 6, 17))
  return points


def test_faces_with_more_points_than_dimensions_leave_the_anchors_open():
  """Linear programmes over the optimal λ moved Ψ by 10% and R by 9%."""
  key, points = jax.random.key(0), blocks_of_features()
  turn = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))[0]
  for given in (points, (points @ turn).astype("f4")):
    found = geometry.glue(key, given, num_probes=200)
    assert float(found.interior) == 0
    assert found.converged.all()
    assert np.isfinite([found.capacity, found.critical_features]).all()
    assert np.isnan([found.dimension, found.radius, found.utility]).all()
  # The oracle: optimal λ of one probe, with less and more weight on a manifold.
  t = np.random.default_rng(2).normal(size=20)
  A = (np.array([1, -1, 1, -1])[:, None, None] * points).reshape(24, 20).T
  lam, _ = optimize.nnls(A, t)
  weight = np.arange(24) < 6
  found = []
  for sign in (1, -1):
    other = optimize.linprog(
      sign * weight, A_eq=A, b_eq=A @ lam, bounds=(0, 10)
    ).x
    np.testing.assert_allclose(A @ other, A @ lam, atol=1e-8)
    found.append(other @ weight)
  assert found[1] - found[0] > 0.1


@pytest.mark.parametrize("kind", ["f4", *also_long("f8")])
def test_points_on_a_face_of_their_own_manifold_keep_its_anchor(kind):
  """Points between others are in their hull, which has the same anchors."""
  key = jax.random.key(0)
  rng = np.random.default_rng(0)
  points = 2 * rng.normal(size=(4, 1, 30)) + rng.normal(size=(4, 4, 30))
  a, b, c, _ = points.swapaxes(0, 1)
  more = [a, (a + b) / 2, 0.2 * a + 0.3 * b + 0.5 * c]
  more = np.concatenate([points, np.stack(more, axis=1)], axis=1)
  found, expected = (
    geometry.glue(key, x.astype(kind), num_probes=300) for x in (more, points)
  )
  for name in ("capacity", "dimension", "radius", "utility"):
    error = np.hypot(*(getattr(x, f"{name}_stderr") for x in (found, expected)))
    assert abs(getattr(found, name) - getattr(expected, name)) < 4 * error
