"""Closed forms and quadratures against published values and each other."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from geomem import geometry
from tests import problems
from tests.fakes import also_long

KEY = jax.random.key(0)
# As one program: its operations one by one would be twenty.
measure_ellipsoid = jax.jit(
  functools.partial(geometry.ellipsoid_geometry, KEY, num_probes=40_000)
)


def test_points_have_gardners_capacity():
  kappa = np.array([0, 0.1, 0.25, 0.5, 1, 2, 5])
  published = [2, 1.7096, 1.3646, 0.9612, 0.5196, 0.2002, 0.0385]
  found = geometry.point_capacity(kappa)
  np.testing.assert_allclose(found, published, atol=6e-5)
  inverse = 1 / geometry.point_capacity(np.array([0, 0.1, 0.5, 1, 2]))
  again = integrate.quad(lambda t: (t + 2) ** 2 * stats.norm.pdf(t), -2, 12)[0]
  assert float(inverse[-1]) == pytest.approx(again, rel=1e-6)


def scaled_force(x):
  """∫ du u² exp(-x u - u²/2), the force of points at κ = -x over φ(κ)."""
  return integrate.quad(
    lambda s: s**2 * np.exp(-s - (s / x) ** 2 / 2), 0, 80, epsabs=0
  )[0] / (x**3)


@pytest.mark.parametrize("num_points", [1, 4])
def test_points_keep_their_digits_far_below_zero(num_points):
  """(1 + κ²) Φ + κ φ cancels there: it was 2 % off at -11, negative at -13."""
  k = -np.array([1.5, 1.99, 2.01, 3, 5, 8, 11, 13, 20, 30])
  log = [
    np.log(num_points * scaled_force(-x)) + stats.norm.logpdf(x) for x in k
  ]
  kappa = k * np.sqrt(num_points)
  with jax.enable_x64(True):
    found = geometry.simplex_capacity(num_points, kappa)
    np.testing.assert_allclose(np.log(found), -np.array(log), rtol=1e-12)
    slope = jax.vmap(jax.grad(geometry.point_capacity))(jnp.asarray(k))
    first = k * stats.norm.cdf(k) + stats.norm.pdf(k)  # ∫_{-∞}^κ Dt (κ - t).
    expected = -2 * first * geometry.point_capacity(k) ** 2
    np.testing.assert_allclose(slope[:4], expected[:4], rtol=1e-9)
  found = geometry.simplex_capacity(num_points, kappa.astype(np.float32))
  with np.errstate(over="ignore"):
    expected = np.exp(-np.array(log)).astype(np.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-3)
  assert np.isinf(found[-1])


def test_segments_have_the_closed_form():
  with jax.enable_x64(True):
    R = np.array([0.0, 1e-6, 0.1, 0.3, 1, 3, 10, 1e3, 1e6])
    found = 1 / geometry.segment_capacity(R)
    expected = 0.5 + 2 / np.pi * np.arctan(R)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# From the paper's method: capacity at κ = 0 by radius, for D = 1 ... 100.
BALLS = {
  0.1: [1.7748, 1.6544, 1.4502, 1.2616, 1.0471, 0.7438, 0.5251],
  0.5: [1.2576, 0.9499, 0.5765, 0.3600, 0.2085, 0.0926, 0.0481],
  1.0: [1.0000, 0.6667, 0.3333, 0.1818, 0.0952, 0.0392, 0.0198],
  2.0: [0.8300, 0.5136, 0.2344, 0.1216, 0.0617, 0.0249, 0.0125],
  5.0: [0.7276, 0.4377, 0.1967, 0.1018, 0.0516, 0.0208, 0.0104],
}


@pytest.mark.parametrize("radius", BALLS)
def test_balls_have_the_published_capacity(radius):
  D = np.array([1.0, 2, 5, 10, 20, 50, 100])
  found = geometry.ball_capacity(radius, D)
  np.testing.assert_allclose(found, BALLS[radius], atol=6e-5)


def test_balls_have_their_limits():
  with jax.enable_x64(True):
    D = np.array([0.5, 1, 3.7, 20, 1000])
    unit = geometry.ball_capacity(1.0, D)
    np.testing.assert_allclose(unit, 2 / (D + 1), rtol=1e-12)
    wide = geometry.ball_capacity(1e6, D)
    np.testing.assert_allclose(wide, 1 / (D + 0.5), rtol=1e-5)
    small = geometry.ball_capacity(0.0, D, 0.7)
    np.testing.assert_allclose(small, geometry.point_capacity(0.7), rtol=1e-12)


@pytest.mark.parametrize(
  ("R", "D", "kappa"),
  [(0.5, 5, 0.5), (1, 0.4, 0.5), (2, 20, -1.5), (0.3, 1, 3)],
)
def test_balls_agree_with_adaptive_quadrature(R, D, kappa):
  """The double integral of the docstring, term by term."""

  def density(t):
    return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

  def inside(r):
    a, b = kappa - r / R, kappa + r * R
    touching, _ = integrate.quad(
      lambda t: (b - t) ** 2 * density(t), max(a, -12), b
    )
    beyond, _ = integrate.quad(
      lambda t: ((t - kappa) ** 2 + r**2) * density(t), min(a, -12), a
    )
    return stats.chi.pdf(r, D) * (touching / (1 + R**2) + beyond)

  inverse, _ = integrate.quad(inside, 0, np.sqrt(D) + 8, limit=200)
  with jax.enable_x64(True):
    found = float(geometry.ball_capacity(R, D, kappa))
  assert found == pytest.approx(1 / inverse, rel=1e-6)
  assert float(geometry.ball_capacity(R, D, kappa)) == pytest.approx(
    found, rel=2e-6
  )


@pytest.mark.parametrize(
  ("R", "kappa"),
  [(1.0, -10.0), (1.0, -30.0), (0.5, -15.0), (3.0, -8.0), (10.0, -60.0)],
)
def test_balls_have_their_capacity_far_below_zero(R, kappa):
  """There, only long probes touch: the integrand's peak is far from √D.

  A segment is touched at one of its two ends, so that 1/α is twice that of a
  point at distance √(1 + R²).
  """
  x = -kappa / np.hypot(1, R)
  log = stats.norm.logpdf(x) + np.log(2 * scaled_force(x))
  with jax.enable_x64(True):
    found = geometry.segment_capacity(R, kappa)
    assert float(np.log(found)) == pytest.approx(-log, rel=1e-10)

    # For other D, ∫ dr χ_D(r) F(κ + r R) / (1 + R²).
    def ratio(r):
      b = kappa + r * R
      if b < -3:
        log_force = np.log(scaled_force(-b)) + stats.norm.logpdf(b)
      else:
        cdf, pdf = stats.norm.cdf(b), stats.norm.pdf(b)
        log_force = np.log((1 + b**2) * cdf + b * pdf)
      log_ratio = stats.chi.logpdf(r, 7) + log_force - np.log1p(R**2) - log
      return np.exp(log_ratio)

    peak = -kappa * R / (1 + R**2)
    points = [peak - 1, peak, peak + 1, peak + 3]
    total = integrate.quad(ratio, 1e-9, peak + 12, points=points, limit=400)[0]
    found = geometry.ball_capacity(R, 7.0, kappa)
    assert float(np.log(found)) == pytest.approx(-log - np.log(total), abs=1e-7)
  single = geometry.ball_capacity(R, 7.0, kappa)
  with np.errstate(over="ignore"):
    np.testing.assert_allclose(single, np.float32(found), rtol=1e-4)


def radius_by_pieces(R, D, kappa):
  """R_M² = ⟨min(R, r/y)²⟩ over y = κ - t, by Gauss's rule in log y."""
  nodes, weights = np.polynomial.legendre.leggauss(40)
  top = max(kappa, 0) + 12
  edges = np.concatenate(
    [
      np.linspace(-60, np.log(top), 500),
      np.log(np.maximum(top - np.linspace(0, 24, 100), 1e-20)),
      np.log(np.sqrt(D) / R) + np.linspace(-1, 1, 100),
    ]
  )
  edges = np.unique(edges[edges <= np.log(top)])
  width = np.diff(edges)[:, None]
  y = np.exp(edges[:-1, None] + width * (nodes + 1) / 2)
  x = (R * y) ** 2 / 2
  with np.errstate(all="ignore"):
    inside = D / 2 / x * special.gammainc(D / 2 + 1, x)
  kept = special.gammaincc(D / 2, x) + np.where(x > 0, inside, 0)
  total = (weights / 2 * width * y * stats.norm.pdf(kappa - y) * kept).sum()
  return R * np.sqrt(stats.norm.sf(kappa) + total)


@pytest.mark.parametrize(
  ("R", "D", "kappa"),
  [
    (0.5, 5, 1e3),
    (0.5, 5, 1e5),
    (1e3, 3, 40.0),
    (1e6, 5, 3.0),
    (1e25, 5, 0.0),
    (1.0, 0.05, 0.5),
    (100, 1e4, 1.0),
    (1e-6, 5, -1.0),
  ],
)
def test_balls_have_their_radius_at_large_arguments(R, D, kappa):
  """R² minus what is lost cancels there: it was .5 for .0000224 at κ = 1e5."""
  expected = radius_by_pieces(R, D, kappa)
  with jax.enable_x64(True):
    found = float(geometry.ball_radius(R, D, kappa))
  assert found == pytest.approx(expected, rel=1e-8)
  found = float(geometry.ball_radius(R, D, kappa))
  assert found == pytest.approx(expected, rel=1e-5)
  # All anchors are inside, at r / κ.
  if kappa > 100:
    assert found == pytest.approx(np.sqrt(D) / kappa, rel=1e-4)


def test_arguments_out_of_range_give_nan():
  for function in (geometry.ball_capacity, geometry.ball_radius):
    slopes = jax.jit(jax.grad(function, argnums=(0, 1, 2)))
    for wrong in ([np.nan, 5], [1, np.nan], [1, 5, np.nan], [-1, 5], [1, -5]):
      assert np.isnan(function(*wrong)), (function, wrong)
      # Of the argument that is wrong: a slope of 0 would look like an optimum.
      place = next(i for i, x in enumerate(wrong) if not x >= 0)
      margin = [0.0] * (3 - len(wrong))
      slope = slopes(*map(float, wrong), *margin)[place]
      assert np.isnan(slope), (function, wrong)
  assert np.isnan(geometry.segment_capacity(-1.0))
  assert np.isnan(geometry.point_capacity(np.nan))
  assert np.isnan(geometry.simplex_capacity(np.array([0.5, np.nan]))).all()
  assert np.isnan(jax.grad(geometry.simplex_capacity)(0.5))
  # Half precision counts as single: its own range ends at κ = 256.
  half = geometry.point_capacity(np.float16(300))
  assert float(half) == pytest.approx(float(geometry.point_capacity(300.0)))
  # The limit of few dimensions, as measured for single points.
  assert float(geometry.ball_capacity(0.0, 0.0)) == pytest.approx(2)


@pytest.mark.parametrize(
  "function", [geometry.ball_capacity, geometry.ball_radius]
)
def test_balls_differentiate_in_all_arguments(function):
  with jax.enable_x64(True):
    at = np.array([0.8, 4.3, 0.4])
    gradient = jax.jit(jax.grad(function, argnums=(0, 1, 2)))(*at)
    for i, step in enumerate(1e-5 * np.eye(3)):
      finite = (function(*(at + step)) - function(*(at - step))) / 2e-5
      assert float(gradient[i]) == pytest.approx(float(finite), rel=1e-6)


def test_balls_have_the_published_radius():
  R = np.repeat([0.5, 1.0, 2.0], 2)
  D = np.tile([5.0, 20.0], 3)
  found = geometry.ball_radius(R, D)
  published = [0.4997, 0.5, 0.993, 1.0, 1.917, 1.995]
  np.testing.assert_allclose(found, published, atol=1e-3)


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_balls_are_ellipsoids_of_equal_axes(kappa):
  found = measure_ellipsoid(np.full(5, 2.0), kappa)
  alpha = float(geometry.ball_capacity(2.0, 5.0, kappa))
  radius = float(geometry.ball_radius(2.0, 5.0, kappa))
  assert abs(found.capacity - alpha) < 4 * found.capacity_stderr
  assert abs(found.radius - radius) < 4 * found.radius_stderr
  assert float(found.dimension) == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize(
  ("power", "size", "published"),
  [
    (1.0, 10, (0.591, 0.363, 0.620, 3.83)),
    (0.5, 20, (0.291, 0.197, 0.532, 12.63)),
  ],
)
def test_ellipsoids_have_the_published_geometry(power, size, published):
  axes = np.arange(1.0, size + 1) ** -power
  found, wide = (measure_ellipsoid(axes, kappa) for kappa in (0.0, 0.5))
  for value, stderr, expected in [
    (found.capacity, found.capacity_stderr, published[0]),
    (wide.capacity, wide.capacity_stderr, published[1]),
    (found.radius, found.radius_stderr, published[2]),
    (found.dimension, found.dimension_stderr, published[3]),
  ]:
    # The published values have errors of 0.3 % themselves.
    assert abs(value - expected) < 4 * stderr + 0.004 * expected


def test_ellipsoids_are_solved_exactly():
  """The KKT conditions of the nearest vector, checked from outside."""
  with jax.enable_x64(True):
    axes = jnp.array([1.0, 0.5, 0.2, 0.0])
    probes = jax.random.normal(KEY, (500, 5), jnp.float64)
    found = geometry.ellipsoid_anchors(axes, probes, 0.3)
    shifted = np.asarray(probes) - 0.3 * np.eye(5)[-1]
    # v - t = λ (s̃, 1), with F = ‖v - t‖².
    anchor = np.concatenate([found.anchor, np.ones((500, 1))], axis=1)
    lam = np.sqrt(np.asarray(found.force) / (anchor**2).sum(axis=1))
    v = shifted + lam[:, None] * anchor
    slack = v[:, -1] - np.linalg.norm(np.asarray(axes) * v[:, :-1], axis=1)
    assert slack.min() > -1e-9
    # Complementary: where λ is not zero the anchor is on the margin.
    touching = (v * anchor).sum(axis=1)
    np.testing.assert_allclose(touching * lam, 0, atol=1e-9)
    # The anchor is of the ellipsoid.
    used = np.asarray(axes) > 0
    size = ((anchor[:, :-1][:, used] / np.asarray(axes)[used]) ** 2).sum(axis=1)
    assert size.max() < 1 + 1e-9
    np.testing.assert_array_equal(found.anchor[:, ~used], 0)


def test_margins_of_one_manifold_are_single_numbers():
  """Several were taken as one for each point, or probe, without a word."""
  probes = np.ones((2, 3))
  for function in (geometry.anchors, geometry.ellipsoid_anchors):
    first = np.ones((2, 3)) if function is geometry.anchors else np.ones(2)
    with pytest.raises(ValueError, match="a real number was expected"):
      function(first, probes, np.array([0.0, 1.0]))
  # The checks of shapes in tests come before our own.
  anchors = inspect.unwrap(geometry.anchors)
  with pytest.raises(ValueError, match=r"\[M, D \+ 1\] and \[T, D \+ 1\]"):
    anchors(np.ones((2, 4)), probes)


def test_unsigned_margins_do_not_wrap_around():
  found = geometry.ellipsoid_geometry(KEY, [1.0, 0.5], np.uint8(1))
  expected = geometry.ellipsoid_geometry(KEY, [1.0, 0.5], 1.0)
  np.testing.assert_array_equal(found, expected)


def test_ellipsoids_take_all_axes_or_none():
  """NaN and negative axes were dropped, and tiny ones lost in rounding."""

  def measure(axes, dtype=jnp.float32):
    return geometry.ellipsoid_geometry(KEY, jnp.asarray(axes, dtype))

  whole = measure([1.0, 0.5])
  np.testing.assert_array_equal(measure([-1.0, 0.5]), whole)
  np.testing.assert_array_equal(
    geometry.ellipsoid_geometry(KEY, [1, 0.5]), whole
  )
  assert np.isnan(measure([np.nan, 0.5])).all()
  assert np.isnan(geometry.ellipsoid_geometry(KEY, [1.0], np.nan)).all()
  integers = geometry.ellipsoid_geometry(KEY, np.array([1, 2]))
  np.testing.assert_array_equal(integers, measure([1.0, 2.0]))
  # A tiny axis binds no probe: 1/α = ½ + (2/π) arctan R of the other one. It
  # is a dimension still; the anchors' angle does not depend on its length.
  tiny = measure([1e-3, 1.0])
  for axes in ([1e-8, 1.0], [1e-30, 1.0]):
    found = measure(axes)
    np.testing.assert_allclose(found, tiny, rtol=2e-2)
    assert abs(float(found.capacity) - 1) < 4 * float(found.capacity_stderr)
  both = measure([1e-30, 2e-30])
  small = measure([1e-3, 2e-3])
  np.testing.assert_allclose(1e27 * both.radius, small.radius, rtol=1e-3)
  np.testing.assert_allclose(both.dimension, small.dimension, rtol=1e-3)
  assert np.isnan(measure([1e-36, 1.0])).all()
  with pytest.raises(ValueError, match=r"shape \(1, 2\); \[D\] was expected"):
    measure([[1.0, 2.0]])
  with pytest.raises(ValueError, match=r"the probes \(5, 4\)"):
    geometry.ellipsoid_anchors(jnp.ones(1), jnp.ones((5, 4)))


def test_ellipsoids_differentiate():
  with jax.enable_x64(True):
    probes = jax.random.normal(KEY, (20, 4), jnp.float64)

    def value(axes):
      found = geometry.ellipsoid_anchors(axes, probes, 0.3)
      return found.force.sum() + (found.anchor**3).sum()

    # One program for all orders.
    @jax.jit
    def orders(axes):
      return *jax.value_and_grad(value)(axes), jax.hessian(value)(axes)

    axes = np.array([1.0, 0.5, 0.2])
    _, gradient, second = orders(axes)
    for i, step in enumerate(1e-6 * np.eye(3)):
      above, below = (orders(axes + h)[:2] for h in (step, -step))
      finite = (above[0] - below[0]) / 2e-6
      of_slope = (above[1] - below[1]) / 2e-6
      assert float(gradient[i]) == pytest.approx(float(finite), rel=1e-6)
      np.testing.assert_allclose(second[i], of_slope, rtol=1e-5)


def test_spectra_give_dimensions():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(4, 30, 12)).astype(np.float32)
  # The covariance and the Gram matrix share their spectrum.
  wide = geometry.spectrum(points[:, :2])
  covariance = np.cov(points[:, :2].reshape(-1, 12).T, bias=True)
  np.testing.assert_allclose(
    wide, np.linalg.eigvalsh(covariance)[::-1][:8], atol=1e-5
  )
  # Within and between manifolds add up to the whole.
  statistics = geometry.gram_statistics(points)
  total = geometry.spectrum(points).sum()
  within = geometry.within_spectrum(statistics).sum(axis=1).mean()
  between = geometry.center_spectrum(statistics).sum()
  np.testing.assert_allclose(within + between, total, rtol=1e-5)


@pytest.mark.parametrize(
  ("eigenvalues", "ratio", "explained"),
  [
    ([1, 1, 1, 1, 0, 0], 4, 4),
    ([5, 0, 0], 1, 1),
    ([0, 0], 0, 0),
    ([1, 9], 100 / 82, 1),
    ([90.1, 9, 0.9], None, 1),
    ([89.9, 9.1, 1], None, 2),
  ],
)
def test_dimensions_of_known_spectra(eigenvalues, ratio, explained):
  values = jnp.asarray(eigenvalues, jnp.float32)
  if ratio is not None:
    assert float(geometry.participation_ratio(values)) == pytest.approx(ratio)
  assert int(geometry.explained_variance_dimension(values)) == explained
  with pytest.raises(ValueError, match="fraction is 0"):
    geometry.explained_variance_dimension(values, 0.0)


@pytest.mark.parametrize("kappa", [-1.0, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("num_points", [1, *also_long(2), 10])
def test_simplices_have_a_closed_form_for_every_probe(num_points, kappa):
  """F = Σ max((t + κ e_c)·u_i, 0)², and its mean, by the solver itself."""
  corners = np.zeros((1, 0))
  if num_points > 1:
    corners = problems.simplex(num_points)
  S = np.hstack([corners, np.ones((num_points, 1))])
  np.testing.assert_allclose(
    S @ S.T, num_points * np.eye(num_points), atol=1e-9
  )
  probes = np.random.default_rng(0).normal(size=(4000, S.shape[1]))
  with jax.enable_x64(True):
    force = np.asarray(
      geometry.anchors(jnp.asarray(S), jnp.asarray(probes), kappa).force
    )
    shifted = -probes + kappa * np.eye(S.shape[1])[-1]
    exact = (np.maximum(shifted @ S.T, 0) ** 2).sum(axis=1) / num_points
    np.testing.assert_allclose(force, exact, atol=1e-9)
    inverse = 1 / float(geometry.simplex_capacity(num_points, kappa))
  assert abs(force.mean() - inverse) < 4 * force.std() / np.sqrt(4000)


def test_chance_is_that_of_points_without_structure():
  assert float(geometry.simplex_capacity(10)) == pytest.approx(0.2)
  # k = .5/√10: 10 [(1 + k²) Φ(k) + k φ(k)] = 10 (.5769 + .0623) = 6.39.
  assert float(geometry.simplex_capacity(10, 0.5)) == pytest.approx(
    0.1564, abs=1e-4
  )
  for kappa in (0.0, 0.5, 1.0):
    one = geometry.simplex_capacity(1, kappa)
    assert float(one) == pytest.approx(float(geometry.point_capacity(kappa)))
  # Noise in many dimensions is nearly a simplex; its radius is √(M − 1).
  rng = np.random.default_rng(0)
  found = geometry.manifold_geometry(
    jax.random.key(0),
    rng.normal(size=(10, 10, 20_000)),
    kappa=0.5,
    num_probes=500,
    centers=None,
  )
  expected = float(geometry.simplex_capacity(10, 0.5))
  assert float(found.mean_capacity) == pytest.approx(expected, rel=0.03)
