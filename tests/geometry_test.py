"""The geometry of manifolds against closed forms, and its invariances."""

import functools
import inspect
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from geomem import geometry
from geomem.geometry import mean_field, measurement
from geomem.geometry.frames import center_gram, relative_grams
from tests import problems
from tests.fakes import also_long

KEY = jax.random.key(0)


def clouds(num_manifolds, num_points, num_features, seed=0):
  rng = np.random.default_rng(seed)
  shape = (num_manifolds, num_points, num_features)
  return rng.normal(size=shape).astype(np.float32)


# One shape for most tests: each new one is compiled anew.
POINTS = clouds(5, 10, 100)
measure = functools.partial(geometry.manifold_geometry, KEY, num_probes=64)


@pytest.mark.parametrize("half_length", [0.3, 1.0, 3.0])
def test_segments_have_the_closed_form(half_length):
  """1/α = ½ + (2/π) arctan R; D = 1; a probe in ½ − (arctan R)/π is inside."""
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
  inside = 0.5 - np.arctan(half_length / norm) / np.pi
  # Of 4,000 probes: ± .008.
  np.testing.assert_allclose(found.interior, inside, atol=0.032)


def test_interior_and_residual_of_a_manifold_are_those_of_its_probes(
  monkeypatch,
):
  solve, rng = mean_field._solve, np.random.default_rng(0)
  known = {
    "interior": rng.random((5, 64)) < 0.3,
    "residual": rng.random((5, 64)).astype(np.float32),
  }
  monkeypatch.setattr(
    mean_field, "_solve", lambda *args: solve(*args)._replace(**known)
  )
  found = measure(POINTS, centers=None)
  np.testing.assert_allclose(found.interior, known["interior"].mean(axis=1))
  np.testing.assert_allclose(found.residual, known["residual"].max(axis=1))


def test_rounding_is_that_of_the_distance_from_the_first_point():
  """ε/8 times a bound on it, of at most twice, over the points' spread."""
  rng = np.random.default_rng(0)
  spread = np.array([1e-4, 1e-4, 1e-3, 1e-2, 1])[:, None, None]
  points = 10 * rng.normal(size=(5, 1, 100)) + spread * POINTS
  found = measure(points, centers=None)
  about = points - points.mean(axis=1, keepdims=True)
  lengths = np.sqrt((about**2).sum(axis=2).mean(axis=1))
  distance = np.linalg.norm(points - points[0, 0], axis=2).max(axis=1)
  ratio = found.rounding / (np.finfo(np.float32).eps / 8 * distance / lengths)
  # Of the first manifold it bounds twice the way to the mean of all.
  assert ratio.min() > 0.99
  assert ratio[1:].max() < 2


def test_gaussian_clouds_give_the_published_numbers():
  """P=100, N=5000, M=50: α .0396 to .0400, R 1.47, D 36.2 and ρ .014.

  From repeated runs of the field's reference implementation.
  """
  found = geometry.manifold_geometry(KEY, clouds(100, 50, 5000), num_probes=100)
  assert 0.0395 < float(found.mean_capacity) < 0.0401
  assert float(found.mean_radius) == pytest.approx(1.47, abs=0.01)
  assert float(found.mean_dimension) == pytest.approx(36.2, abs=0.4)
  assert float(found.center_correlation) == pytest.approx(0.014, abs=1e-3)
  assert bool(found.converged.all())


def frames_by_qr(points):
  """The field's frames, in NumPy: QR of each manifold about its centre."""
  points = points.astype(np.float64)
  points = points - points.mean(axis=(0, 1))
  for manifold in points:
    center = manifold.mean(axis=0)
    R = np.linalg.qr(((manifold - center) / np.linalg.norm(center)).T)[1]
    yield R.T


def test_stages_agree_with_the_reference_conventions():
  """Frames, then α, R and the padded D, with NNLS for the anchors."""
  found = geometry.manifold_geometry(
    KEY, POINTS, num_probes=4000, centers=None, padded=True
  )
  rng = np.random.default_rng(1)
  # Two of them, as all are alike.
  for i, frame in enumerate(itertools.islice(frames_by_qr(POINTS), 2)):
    S = np.hstack([frame, np.ones((len(frame), 1))])
    probes = rng.normal(size=(6000, S.shape[1]))
    lam = np.stack([optimize.nnls(S.T, -t)[0] for t in probes])
    force = ((lam @ S) ** 2).sum(axis=1)
    bound = lam.sum(axis=1) > 0
    farthest = (-probes @ S.T).argmax(axis=1)
    weights = np.eye(len(S))[farthest]
    weights[bound] = lam[bound] / lam[bound].sum(axis=1, keepdims=True)
    anchor = weights @ frame
    squares = ((anchor - anchor.mean(axis=0)) ** 2).sum(axis=1)
    t = probes[:, :-1]
    cosine = (t * anchor).sum(axis=1) / np.linalg.norm(t, axis=1)
    cosine = cosine / np.linalg.norm(anchor, axis=1)
    for name, samples, value in (
      ("capacity", force, lambda mean: 1 / mean),
      ("radius", squares, np.sqrt),
      ("dimension", cosine, lambda mean: POINTS.shape[1] * mean**2),
    ):
      error = samples.std() / np.sqrt(len(samples))
      mean = samples.mean()
      wide = abs(value(mean + error) - value(mean - error)) / 2
      wide = np.hypot(wide, float(getattr(found, f"{name}_stderr")[i]))
      assert abs(float(getattr(found, name)[i]) - value(mean)) < 4 * wide, name


def test_missing_points_are_no_dimensions_where_axes_are_padded():
  """Six points each, whether or not an array has room for ten."""
  options = {"num_probes": 4000, "centers": None, "padded": True}
  few = geometry.manifold_geometry(KEY, POINTS[:, :6], **options)
  mask = np.broadcast_to(np.arange(10) < 6, (5, 10))
  found = geometry.manifold_geometry(KEY, POINTS, mask=mask, **options)
  # Four dimensions too many would make it 3 % larger.
  error = 3 * float(np.hypot(*(x.mean_dimension_stderr for x in (few, found))))
  assert error < 0.015 * float(few.mean_dimension)
  assert float(found.mean_dimension) == pytest.approx(
    float(few.mean_dimension), abs=error
  )


@pytest.mark.parametrize("what", ["gram_statistics", "point_products"])
def test_stacks_of_statistics_are_refused(what):
  stack = jax.vmap(getattr(geometry, what))(jnp.stack([POINTS, POINTS]))
  call = {
    "gram_statistics": geometry.manifold_geometry,
    "point_products": geometry.glue,
  }[what]
  with pytest.raises(ValueError, match="those of one set"):
    call(KEY, stack)


def test_stacks_of_products_are_mapped_each_by_itself():
  """Those of statistics are compared with a loop below."""
  stack = jnp.stack([POINTS[:, :4], POINTS[:, 4:8]])

  @jax.jit
  @jax.vmap
  def capacity(points):
    products = geometry.point_products(points)
    return geometry.glue(KEY, products, num_probes=100).capacity

  found = np.asarray(capacity(stack))
  assert np.isfinite(found).all()
  assert found[0] != found[1]
  np.testing.assert_allclose(capacity(stack[::-1])[::-1], found, rtol=1e-5)


def test_of_a_dead_layer_nothing_is_known():
  found = measure(np.ones_like(POINTS))
  assert not found.converged.any()
  for name in ("capacity", "radius", "center_left", "center_correlation"):
    assert np.isnan(getattr(found, name)).all(), name


def test_several_margins_share_the_probes():
  together = measure(POINTS, kappa=[0.0, 0.5])
  for i, kappa in enumerate((0.0, 0.5)):
    alone = measure(POINTS, kappa=kappa)
    np.testing.assert_allclose(together.capacity[i], alone.capacity, rtol=1e-5)
  assert together.rank.shape == (2,)


@pytest.mark.parametrize(
  "kappa, sentence",
  [
    (np.zeros((1, 10)), r"kappa has shape \(1, 10\)"),
    (np.zeros((2, 3)), r"kappa has shape \(2, 3\)"),
    ([], r"kappa has shape \(0,\)"),
    ([0.0, np.nan], "finite float32 margins"),
    # Infinite in single precision.
    (1e300, r"kappa is 1e\+300; finite float32 margins"),
  ],
)
def test_margins_that_are_none_are_refused(kappa, sentence):
  """M is 10: margins of two axes could pass for margins of its points."""
  with pytest.raises(ValueError, match=sentence):
    measure(POINTS, kappa=kappa)
  if np.ndim(kappa) > 1:
    with pytest.raises(ValueError, match=sentence):
      jax.jit(lambda kappa: measure(POINTS, kappa=kappa))(kappa)


@pytest.mark.parametrize("kappa", [1e10, -30.0])
def test_what_is_not_finite_has_not_converged(kappa):
  """At 1e10 squares overflow; at -30 no probe has anything to do."""
  alone = measure(POINTS, kappa=kappa)
  together = measure(POINTS, kappa=[0.0, kappa])
  assert not alone.converged.any()
  assert together.converged[0].all()
  assert not together.converged[1].any()


def test_a_number_of_directions_may_be_one_of_numpy():
  a, b = (measure(POINTS, centers=k) for k in (1, np.int64(1)))
  assert int(b.rank) == 1
  np.testing.assert_array_equal(a.capacity, b.capacity)


@pytest.mark.parametrize("num_features", [3, *also_long(12)])
def test_gradients_equal_finite_differences(num_features):
  """Of α, R and D, with points that span less than their number too."""
  with jax.enable_x64(True):
    points, direction = (
      clouds(3, 5, num_features, seed).astype(float) for seed in (0, 1)
    )

    # One program for both the slopes and the values.
    @jax.jit
    @functools.partial(jax.jacrev, has_aux=True)
    def slopes_and_values(points):
      found = geometry.manifold_geometry(
        KEY, points, num_probes=48, centers=None
      )
      values = jnp.stack(
        [found.capacity.sum(), found.radius.sum(), found.dimension.sum()]
      )
      return values, values

    slopes = np.tensordot(slopes_and_values(points)[0], direction, 3)
    step = 1e-6
    above, below = (
      np.asarray(slopes_and_values(points + h * direction)[1])
      for h in (step, -step)
    )
    finite = (above - below) / (2 * step)
    np.testing.assert_allclose(slopes, finite, rtol=1e-5)


@pytest.mark.parametrize(
  "how", ["hessian", *also_long("reverse", "forward", "scanned")]
)
def test_second_derivatives_are_those_of_the_closed_form(how):
  """Of single points; inside a scan, JAX before 0.12 ignores their rules."""
  with jax.enable_x64(True):
    points = jnp.eye(5, dtype=jnp.float64)[:, None]
    kappa = jnp.float64(0.5)

    def capacity(kappa):
      return geometry.manifold_geometry(
        KEY, points, kappa=kappa, centers=None, num_probes=100
      ).mean_capacity

    def scanned(kappa):
      return jax.lax.map(capacity, kappa[None])[0]

    derivative = {
      "hessian": jax.hessian(capacity),
      "reverse": jax.grad(jax.grad(capacity)),
      "forward": jax.jacfwd(capacity),
      "scanned": jax.hessian(scanned),
    }[how]
    if how == "scanned" and jax.__version_info__ < (0, 12):
      with pytest.raises(TypeError, match="inside a scan"):
        derivative(kappa)
      return
    exact = jax.grad(geometry.point_capacity)
    exact = exact if how == "forward" else jax.grad(exact)
    assert float(jax.jit(derivative)(kappa)) == pytest.approx(
      float(exact(kappa)), rel=1e-6
    )


def test_derivatives_at_coinciding_points_are_between_both_sides():
  """They are exact while the points move together."""
  points = clouds(2, 4, 6)
  points[:, 1] = points[:, 0]
  with jax.enable_x64(True):

    @jax.jit
    @jax.value_and_grad
    def inverse(points):
      found = geometry.manifold_geometry(
        KEY, points, centers=None, num_probes=500, reduce_variance=False
      )
      return 1 / found.mean_capacity

    points = points.astype(float)
    gradient = inverse(points)[1]
    ways = jax.random.normal(KEY, points.shape, jnp.float64)

    def slopes(way):
      here, there, back = (
        float(inverse(points + step * way)[0]) for step in (0, 1e-6, -1e-6)
      )
      found = float((gradient * way).sum())
      return (here - back) / 1e-6, found, (there - here) / 1e-6

    left, found, right = slopes(ways)
    assert left < found < right
    assert right - left > 0.1
    left, found, right = slopes(ways.at[:, 1].set(ways[:, 0]))
    assert found == pytest.approx(left, abs=1e-4)
    assert found == pytest.approx(right, abs=1e-4)


@pytest.mark.long
def test_ascent_of_the_gradient_raises_the_capacity_of_a_layer():
  """Of the outputs of a linear layer, for fixed inputs."""
  inputs = jnp.asarray(POINTS)
  weights = jax.random.normal(jax.random.key(1), (100, 20)) / 10

  @jax.jit
  def capacity(weights):
    return measure(inputs @ weights, centers=None).mean_capacity

  before = capacity(weights)
  slope = jax.jit(jax.grad(capacity))
  for _ in range(10):
    gradient = slope(weights)
    weights = weights + 0.1 * gradient / jnp.linalg.norm(gradient)
  assert float(capacity(weights)) > 1.1 * float(before)


def test_offsets_do_not_cost_digits():
  ratio = measure(POINTS + 1000).mean_capacity / measure(POINTS).mean_capacity
  assert float(ratio) == pytest.approx(1, abs=1e-4)


def test_rotations_and_scales_change_nothing():
  rotation, _ = np.linalg.qr(clouds(1, 100, 100, seed=3)[0])
  a, b = (
    measure(points, centers=None) for points in (POINTS, 7 * POINTS @ rotation)
  )
  for name in ("capacity", "radius", "dimension", "center_correlation"):
    np.testing.assert_allclose(
      getattr(b, name), getattr(a, name), rtol=1e-4, err_msg=name
    )


def test_vmap_and_sums_over_blocks_equal_a_loop():
  stats = [
    geometry.gram_statistics(points, block_size=block)
    for points, block in ((POINTS, None), (POINTS[::-1], 33))
  ]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *stats)
  # `centers_test` maps the search for directions.
  plainly = functools.partial(measure, centers=None)
  together = jax.jit(jax.vmap(plainly))(stacked)
  for i, one in enumerate(stats):
    for name in ("capacity", "radius", "dimension"):
      np.testing.assert_allclose(
        getattr(together, name)[i], getattr(plainly(one), name), rtol=1e-4
      )


@pytest.mark.parametrize("num_manifolds", [2, *also_long(3)])
def test_few_manifolds_are_defined(num_manifolds):
  """ρ is 1 for two; of so few, no direction is removed."""
  found = measure(POINTS[:num_manifolds])
  if num_manifolds == 2:
    assert float(found.center_correlation) == pytest.approx(1, abs=1e-5)
  assert int(found.rank) == 0
  assert bool(jnp.isfinite(found.radius).all())
  assert bool(found.converged.all())


def test_control_variates_do_not_bias_and_reduce_the_error():
  """Ten times fewer probes at R = 1; the mean of many runs stays."""
  keys = jax.random.split(KEY, 100)
  # Centres and points are of one length: R = 1.
  stats = geometry.gram_statistics(clouds(5, 1, 500, 1) + clouds(5, 10, 500))

  def inverses(reduce_variance):
    found = [
      geometry.manifold_geometry(
        key,
        stats,
        num_probes=128,
        centers=None,
        reduce_variance=reduce_variance,
      )
      for key in keys
    ]
    capacity, stderr = (
      np.array([getattr(each, name) for each in found], float)
      for name in ("capacity", "capacity_stderr")
    )
    return 1 / capacity, stderr / capacity**2

  plain, plain_stderr = inverses(False)
  reduced, stderr = inverses(True)
  error = np.sqrt((plain.var(axis=0) + reduced.var(axis=0)) / len(keys))
  assert (np.abs(plain.mean(0) - reduced.mean(0)) < 4 * error).all()
  assert plain.var(axis=0).mean() > 10 * reduced.var(axis=0).mean()
  # The standard errors are what the spread of the runs says.
  for values, errors in ((plain, plain_stderr), (reduced, stderr)):
    np.testing.assert_allclose(
      np.sqrt((errors**2).mean(axis=0)), values.std(axis=0), rtol=0.25
    )


aim = functools.partial(measure, centers=None)


def test_a_wanted_error_is_reached():
  found = aim(POINTS, relative_error=3e-3)
  assert float(found.mean_capacity_stderr / found.mean_capacity) <= 3e-3
  with pytest.raises(ValueError, match="a positive number was expected"):
    aim(POINTS, relative_error=0.0)
  for error in (1e-9, 1e-200, 5e-324):
    with pytest.raises(ValueError, match="ask for a larger one"):
      aim(POINTS, relative_error=error)


def test_a_wanted_error_may_take_all_probes_that_there_are():
  """From 300 the last power of two below the bound is 38,400, which some
  errors that 65,536 probes reach need more than."""
  asked = []

  def measure(num_probes):
    asked.append(num_probes)
    error = 1 / num_probes**0.5
    one = jnp.ones(())
    return mock.Mock(
      mean_capacity=one, capacity=one, mean_capacity_stderr=error * one
    )

  # Its result is checked to be a ManifoldGeometry in tests.
  measure_to = inspect.unwrap(measurement._measure_to)
  measure_to(50_000**-0.5, measure, 300)
  assert asked[-1] == 2**16
  with pytest.raises(ValueError, match="takes more than 65536"):
    measure_to(70_000**-0.5, measure, 300)


def test_what_is_left_of_the_centres_has_derivatives():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(6, 5, 12)) + 2 * rng.normal(size=12)
  points += 3 * rng.normal(size=(6, 1, 1)) * rng.normal(size=12)
  change = rng.normal(size=points.shape)
  with jax.enable_x64(True):
    stats = geometry.gram_statistics(points)
    A = geometry.shared_directions(KEY, stats.centers, 1).coefficients

    # Directions are combinations of the centres, and of unit length.
    def left(step):
      C = center_gram(geometry.gram_statistics(points + step * change).centers)
      V = A / jnp.sqrt(A.T @ C @ A)
      return 1 - (C @ V)[:, 0] ** 2 / jnp.diagonal(C)

    def ours(step):
      stats = geometry.gram_statistics(points + step * change)
      return relative_grams(stats, A).center_left

    slope = jax.jvp(ours, (0.0,), (1.0,))[1]
    difference = (left(1e-5) - left(-1e-5)) / 2e-5
  np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-8)


def test_margins_may_be_traced_one_by_one():
  stats = geometry.gram_statistics(POINTS)
  found = jax.jit(
    lambda margins: measure(stats, kappa=margins, centers=None).capacity
  )([0.0, 0.5])
  expected = measure(stats, kappa=[0.0, 0.5], centers=None).capacity
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_wanted_error_may_start_from_a_single_probe():
  found = aim(POINTS, num_probes=1, relative_error=0.05)
  assert float(found.mean_capacity_stderr / found.mean_capacity) <= 0.05


def test_a_wanted_error_is_not_reached_by_chance():
  """Of few probes none may meet a constraint, or all cost about the same."""
  rng = np.random.default_rng(0)
  clouds = rng.normal(size=(5, 1, 30)) + 0.5 * rng.normal(size=(5, 10, 30))
  stats = geometry.gram_statistics(clouds)
  found = [
    geometry.manifold_geometry(
      key, stats, num_probes=2, relative_error=0.1, centers=None
    ).mean_capacity
    for key in jax.random.split(KEY, 60)
  ]
  # Sixty values tell their spread to 9 %.
  assert np.std(found) / np.mean(found) < 0.12


def test_errors_of_the_radius_hold_for_few_probes():
  """Sizes about the probes' own mean hardly vary; two are even equal."""
  rng = np.random.default_rng(0)
  clouds = rng.normal(size=(6, 1, 30)) + 0.5 * rng.normal(size=(6, 12, 30))
  stats = geometry.gram_statistics(clouds)

  def measure(num_probes, num_keys):
    found = jax.lax.map(
      lambda key: (
        lambda g: (g.mean_radius, g.mean_radius_stderr, g.mean_dimension_stderr)
      )(
        geometry.manifold_geometry(
          key, stats, num_probes=num_probes, centers=None
        )
      ),
      jax.random.split(KEY, num_keys),
    )
    return map(np.asarray, found)

  radius, error, of_dimension = measure(2, 2)
  assert np.isfinite([*radius, *of_dimension]).all()
  assert np.isnan(error).all()
  radius, error, _ = measure(4, 300)
  spread = radius.std() / np.sqrt((error**2).mean())
  # The jackknife overstates the error of a variance, and never understates it.
  assert 0.6 < spread < 1.05


def test_a_wanted_error_of_what_has_none_is_refused():
  dead = np.zeros_like(POINTS)
  for points, kappa in ((dead, 0.0), (POINTS, -30.0)):
    # From 128 probes, of which there are programs, to four times as many.
    with pytest.raises(ValueError, match="no finite capacity and standard"):
      aim(points, kappa=kappa, relative_error=0.01, num_probes=128)
