"""The geometry against closed forms, independent solvers and invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from geomem import geometry
from tests import problems

KEY = jax.random.key(0)


def clouds(num_manifolds, num_points, num_features, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(num_manifolds, num_points, num_features))


def frame_of(points):
  return jnp.concatenate(
    [jnp.asarray(points, jnp.float32), jnp.ones((len(points), 1))], axis=1
  )


def test_one_point_has_the_perceptrons_capacity():
  """1/α₀(κ) = (1 + κ²) Φ(κ) + κ φ(κ), and per probe F = max(t_c + κ, 0)².

  The point is the centre: its frame is a single one, so that S v ≥ κ is
  v ≥ κ and F = max(κ − t, 0)².
  """
  probes = jax.random.normal(KEY, (2000, 1))
  for kappa in (0.0, 0.5, 2.0):
    found = geometry.anchors(jnp.ones((1, 1)), probes, kappa)
    expected = np.maximum(kappa - probes[:, 0], 0) ** 2
    np.testing.assert_allclose(found.force, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_points", [2, 3, 10, 50])
@pytest.mark.parametrize("kappa", [-0.5, 0.0, 0.5, 2.0])
def test_simplices_are_exact_for_every_probe(num_points, kappa):
  """F = Σ max(κ-shifted t·u_i, 0)² over the orthonormal u_i = (s_i, 1)/√M."""
  frame = frame_of(problems.simplex(num_points))
  probes = jax.random.normal(KEY, (64, num_points))
  found = geometry.anchors(frame, probes, kappa)
  directions = np.asarray(frame) / np.sqrt(num_points)
  shifted = np.asarray(probes) - kappa * np.eye(num_points)[-1]
  expected = (np.maximum(-shifted @ directions.T, 0) ** 2).sum(axis=1)
  np.testing.assert_allclose(found.force, expected, rtol=2e-5, atol=1e-5)
  assert bool(found.converged.all())


@pytest.mark.parametrize("half_length", [0.3, 1.0, 3.0])
def test_segments_have_the_closed_form(half_length):
  shape = problems.segment(half_length)
  points = np.stack([problems.centered_at_one(shape, 500, s) for s in range(8)])
  found = geometry.manifold_geometry(
    KEY, points - 0.0, num_probes=4000, centers=None
  )
  # The origin is the mean of 8 random unit centres: the centre's norm in units
  # of which R counts is known from the points themselves.
  centers = points.mean(axis=1)
  norm = np.linalg.norm(centers - centers.mean(axis=0), axis=1)
  expected = np.mean([problems.segment_capacity(half_length / n) for n in norm])
  error = 4 * float(found.mean_capacity_stderr)
  assert abs(float(found.mean_capacity) - expected) < error + 0.005 * expected
  np.testing.assert_allclose(found.dimension, 1, atol=1e-3)


def test_gaussian_clouds_give_the_published_numbers():
  """P=100, N=5000, M=50: α .040, R 1.47, D 36.2 and ρ .014.

  From the reference implementation's own README and repeated runs of it.
  """
  found = geometry.manifold_geometry(
    KEY, clouds(100, 50, 5000).astype(np.float32), num_probes=100
  )
  assert float(found.mean_capacity) == pytest.approx(0.0400, abs=5e-4)
  assert float(found.mean_radius) == pytest.approx(1.47, abs=0.01)
  assert float(found.mean_dimension) == pytest.approx(36.2, abs=0.4)
  assert float(found.center_correlation) == pytest.approx(0.014, abs=1e-3)
  assert bool(found.converged.all())


@pytest.mark.parametrize("name", problems.families(2, 3))
@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_forces_agree_with_scipys_nnls(name, kappa):
  """F is the squared length of the projection on the cone of the points."""
  shape = problems.families(30, 200)[name]
  frame = frame_of(shape - shape.mean(axis=0))
  probes = jax.random.normal(KEY, (40, frame.shape[1]))
  found = geometry.anchors(frame, probes, kappa)
  S = np.asarray(frame, np.float64)
  for t, force in zip(np.asarray(probes, np.float64), found.force, strict=True):
    t = t.copy()
    t[-1] -= kappa  # Every point ends in 1: κ shifts the probe.
    lam, _ = optimize.nnls(S.T, -t)
    expected = ((lam @ S) ** 2).sum()
    assert float(force) == pytest.approx(expected, rel=2e-5, abs=2e-5)
  assert bool(jnp.isfinite(found.anchor).all())


def test_float64_is_exact_to_rounding():
  with jax.enable_x64(True):
    for shape in problems.families(20, 100).values():
      S = np.hstack([shape - shape.mean(axis=0), np.ones((20, 1))])
      probes = np.random.default_rng(0).normal(size=(20, S.shape[1]))
      found = geometry.anchors(jnp.asarray(S), jnp.asarray(probes))
      for t, force in zip(probes, found.force, strict=True):
        lam, _ = optimize.nnls(S.T, -t)
        expected = ((lam @ S) ** 2).sum()
        assert float(force) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_jaxopt_solver_agrees_and_differentiates():
  with jax.enable_x64(True):
    rng = np.random.default_rng(1)
    S = jnp.asarray(rng.normal(size=(6, 9)))
    G, b = S @ S.T, jnp.asarray(rng.normal(size=6))
    solver = geometry.NonnegativeQP()
    lam = solver.run(None, G, b).params
    batch = geometry.solve_nonnegative_qp(G[None], b[None, None]).lam[0, 0]
    np.testing.assert_allclose(lam, batch, atol=1e-12)
    assert float(jnp.abs(solver.optimality_fun(lam, G, b)).max()) < 1e-12

    def one(b):
      return (solver.run(None, G, b).params ** 3).sum()

    def other(b):
      return (
        geometry.solve_nonnegative_qp(G[None], b[None, None]).lam ** 3
      ).sum()

    step = 1e-6
    for function in (one, other):
      gradient = jax.grad(function)(b)
      for i in range(3):
        e = step * jnp.eye(6)[i]
        finite = (function(b + e) - function(b - e)) / (2 * step)
        assert float(gradient[i]) == pytest.approx(float(finite), abs=1e-6)


@pytest.mark.parametrize("name", ["capacity", "radius", "dimension"])
def test_gradients_equal_finite_differences(name):
  with jax.enable_x64(True):
    points = jnp.asarray(clouds(3, 5, 12))

    def value(points):
      found = geometry.manifold_geometry(
        KEY, points, num_probes=20, centers=None
      )
      return getattr(found, name).sum()

    if name == "capacity":
      direction = jnp.asarray(clouds(3, 5, 12, seed=1))
      slope = float((jax.grad(value)(points) * direction).sum())
      step = 1e-6
      finite = value(points + step * direction) - value(
        points - step * direction
      )
      assert slope == pytest.approx(float(finite) / (2 * step), rel=1e-5)
    else:
      gradient = jax.grad(value)(points)
      assert bool(jnp.isfinite(gradient).all())


def test_offsets_do_not_cost_digits():
  points = clouds(5, 10, 100).astype(np.float32)
  plain = geometry.manifold_geometry(KEY, points, num_probes=50)
  moved = geometry.manifold_geometry(KEY, points + 1000, num_probes=50)
  ratio = float(moved.mean_capacity / plain.mean_capacity)
  assert ratio == pytest.approx(1, abs=1e-4)


def test_blocks_of_features_add_up():
  points = clouds(5, 10, 100).astype(np.float32)
  whole = geometry.gram_statistics(points)
  blocks = geometry.gram_statistics(points, block_size=33)
  for name in ("within", "cross", "centers"):
    a, b = getattr(whole, name), getattr(blocks, name)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_missing_points_do_not_count():
  points = clouds(4, 6, 40).astype(np.float32)
  unequal = [points[0][:4], points[1], points[2][:5], points[3]]
  stats = geometry.gram_statistics(unequal)
  padded = [np.pad(x, ((0, 9 - len(x)), (0, 0))) for x in unequal]
  mask = np.stack([np.arange(9) < len(x) for x in unequal])
  more = geometry.gram_statistics(np.stack(padded), mask=jnp.asarray(mask))
  for a, b in [
    (stats.within, more.within[:, :6, :6]),
    (stats.centers, more.centers),
  ]:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  found = geometry.manifold_geometry(KEY, more, num_probes=50)
  assert bool(found.converged.all())
  assert bool(jnp.isfinite(found.radius).all())


def test_rotations_and_scales_change_nothing():
  points = clouds(5, 8, 30)
  rotation, _ = np.linalg.qr(clouds(1, 30, 30, seed=3)[0])
  a, b = (
    geometry.manifold_geometry(
      KEY, x.astype(np.float32), num_probes=2000, centers=None
    )
    for x in (points, 7 * points @ rotation)
  )
  assert float(b.mean_capacity) == pytest.approx(
    float(a.mean_capacity), abs=4 * float(a.mean_capacity_stderr)
  )
  assert float(b.center_correlation) == pytest.approx(
    float(a.center_correlation), rel=1e-4
  )


def test_vmap_equals_a_loop():
  points = clouds(2 * 4, 6, 20).reshape(2, 4, 6, 20).astype(np.float32)
  stats = [geometry.gram_statistics(p) for p in points]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *stats)

  def measure(stats):
    return geometry.manifold_geometry(KEY, stats, num_probes=30)

  together = jax.vmap(measure)(stacked)
  for i, one in enumerate(stats):
    np.testing.assert_allclose(
      together.capacity[i], measure(one).capacity, rtol=1e-4
    )


@pytest.mark.parametrize("num_manifolds", [1, 2, 3, 5])
def test_few_manifolds_are_defined(num_manifolds):
  found = geometry.manifold_geometry(
    KEY, clouds(num_manifolds, 6, 20).astype(np.float32), num_probes=30
  )
  expected = {1: 0.0, 2: 1.0}.get(num_manifolds)
  if expected is not None:
    assert float(found.center_correlation) == pytest.approx(expected, abs=1e-5)
  assert bool(jnp.isfinite(found.radius).all()) or num_manifolds == 1


def test_shared_directions_are_found_and_removed():
  """Centres that share three directions: K = 3, and no correlation is left."""
  rng = np.random.default_rng(0)
  shared = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 400))
  centers = 3 * shared + rng.normal(size=(30, 400))
  with jax.enable_x64(True):
    found = geometry.shared_directions(KEY, jnp.asarray(centers @ centers.T))
    assert int(found.rank) == 3
    assert float(found.correlations[0]) > 0.3
    assert float(found.correlations[3]) < 0.1
    # V = C̄ᵀA has orthonormal columns.
    kept = np.asarray(found.coefficients)[:, :3]
    V = (centers - centers.mean(axis=0)).T @ kept
    np.testing.assert_allclose(V.T @ V, np.eye(3), atol=1e-9)


def test_wrong_input_is_named():
  with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
    geometry.gram_statistics(np.zeros((3, 4)))
  points = clouds(3, 4, 5)
  points[1, 2, 0] = np.nan
  with pytest.raises(ValueError, match="Point 2 of manifold 1 is not finite"):
    geometry.gram_statistics(points)
  with pytest.raises(ValueError, match="'high' is not known"):
    geometry.manifold_geometry(KEY, clouds(4, 4, 5), centers="high")
