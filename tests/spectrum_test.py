"""The spectrum measure against covariances, and on a run that is finished."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry, studies
from tests.fakes import SMALL_RUN, numbers_of


def found_of(points, **options):
  return numbers_of("spectrum", geometry.gram_statistics(points, **options))


def ratio_of(points) -> float:
  values = np.linalg.eigvalsh(np.cov(points.T, bias=True))
  return values.sum() ** 2 / (values**2).sum()


def test_ratios_are_those_of_covariances():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(4, 30, 6)) * [3, 2, 1, 1, 0.5, 0.1]
  points += 4 * rng.normal(size=(4, 1, 6))
  found = found_of(points)
  within = np.mean([ratio_of(manifold) for manifold in points])
  assert found["within_participation"] == pytest.approx(within, rel=1e-4)
  centers = points.mean(axis=1)
  assert found["centers_participation"] == pytest.approx(
    ratio_of(centers), rel=1e-4
  )
  everything = points.reshape(-1, 6).var(axis=0).sum()
  assert found["centers_share"] == pytest.approx(
    centers.var(axis=0).sum() / everything, rel=1e-4
  )


def test_equal_variances_count_one_each():
  # Manifolds whose points are the ends of three equal axes, and of one short.
  axes = np.diag([2.0, 2.0, 2.0, 0.1])
  points = np.concatenate([axes, -axes])[None] + 9 * np.eye(4)[:, None]
  found = found_of(points)
  assert found["within_participation"] == pytest.approx(3, abs=0.01)
  assert found["within_explained"] == 3
  assert found["centers_participation"] == pytest.approx(3, rel=1e-4)


def test_points_that_are_not_there_count_nothing():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(3, 8, 5))
  mask = np.ones((3, 8), bool)
  mask[0, 5:] = False
  listed = [manifold[kept] for manifold, kept in zip(points, mask, strict=True)]
  points[0, 5:] = np.nan
  masked, unequal = found_of(points, mask=mask), found_of(listed)
  assert masked == pytest.approx(unequal, rel=1e-5)
  sizes = np.array([5, 8, 8])
  centers = np.stack([manifold.mean(axis=0) for manifold in listed])
  everything = np.concatenate(listed)
  between = sizes @ ((centers - everything.mean(axis=0)) ** 2).sum(axis=1)
  share = between / ((everything - everything.mean(axis=0)) ** 2).sum()
  assert masked["centers_share"] == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_the_unit_does_not_matter_unless_variances_are_asked_for(scale):
  points = np.random.default_rng(0).normal(size=(4, 6, 9))
  expected = found_of(points)
  assert found_of(scale * points) == pytest.approx(expected, rel=1e-4)
  stats = geometry.gram_statistics(scale * points)
  for function in (geometry.within_spectrum, geometry.center_spectrum):
    with pytest.raises(ValueError, match="do not fit float32"):
      function(stats)
    assert jnp.isnan(jax.jit(function)(stats)).all()


def test_points_may_be_rows_of_a_list_with_a_mask():
  points = np.random.default_rng(0).normal(size=(6, 4))
  mask = np.arange(6) != 2
  found = geometry.spectrum(points.tolist(), mask=mask)
  expected = np.linalg.eigvalsh(np.cov(points[mask].T, bias=True))[::-1]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_distances_that_overflow_are_refused():
  points = np.float32(3e38) * np.sign(
    np.random.default_rng(0).normal(size=(5, 4))
  )
  with pytest.raises(ValueError, match="so large or so small"):
    geometry.spectrum(points.astype(np.float32))
  with pytest.raises(ValueError, match="distances of the points overflow"):
    geometry.point_products(points[None].astype(float) * 5e269)


def test_rounding_is_no_dimension():
  rng = np.random.default_rng(0)
  found = found_of(np.repeat(3 * rng.normal(size=(5, 1, 30)), 50, axis=1))
  assert found["within_participation"] == found["within_explained"] == 0
  points = rng.normal(size=(5, 20, 30))
  found = found_of(np.concatenate([points, -points], axis=1))
  assert found["centers_participation"] == 0


def test_spectra_of_centres_in_part_below_rounding_are_unknown():
  """One of four dimensions was missing, without a word."""
  rng = np.random.default_rng(0)
  points = rng.normal(size=(5, 12, 30))
  points -= points.mean(axis=1, keepdims=True)
  centers = rng.normal(size=(5, 1, 30))
  values = []
  for size in (1e-3, 3e-6, 0):
    stats = geometry.gram_statistics(points + size * centers)
    values.append(np.asarray(geometry.center_spectrum(stats)))
  C = 1e-3 * (centers - centers.mean(axis=0))[:, 0]
  expected = np.linalg.svd(C, compute_uv=False) ** 2 / 5
  np.testing.assert_allclose(values[0], expected, rtol=1e-3, atol=1e-12)
  assert np.isnan(values[1]).all()
  assert (values[2] == 0).all()


def test_missing_points_add_zeros_to_a_spectrum():
  points = np.random.default_rng(0).normal(size=(3, 4, 20))
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
  covariance = np.cov(points[mask].T, bias=True)
  expected = np.append(np.linalg.eigvalsh(covariance)[::-1][:7], 5 * [0])
  found = geometry.spectrum(points, mask=mask)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("eigenvalues", "fraction", "count"),
  [
    (3 * [3e38], 0.9, 3),
    (3 * [1e-39], 0.9, 3),
    ([1.0] + 999 * [1e-7], 1.0, 1000),
    ([9, 1], 0.9, 1),
    ([999, 1], 0.999, 1),
    ([998, 2], 0.999, 2),
    ([5, 5], 1e-9, 1),
    ([0, 0], 1.0, 0),
  ],
)
def test_eigenvalues_count_in_any_unit_and_type(eigenvalues, fraction, count):
  def dimensions(x):
    counted = geometry.explained_variance_dimension(x, fraction)
    return counted, geometry.participation_ratio(x)

  scaled = np.array(eigenvalues) / (max(eigenvalues) or 1)
  ratio = scaled.sum() ** 2 / ((scaled**2).sum() or 1)
  for values in (eigenvalues, np.array(eigenvalues), jnp.array(eigenvalues)):
    assert dimensions(values) == (count, pytest.approx(ratio, rel=1e-5))
  if max(eigenvalues) != 1e-39:  # Devices have no smaller numbers.
    found = jax.jit(dimensions)(jnp.array(eigenvalues))
    assert found == (count, pytest.approx(ratio, rel=1e-5))


def test_eigenvalues_that_are_not_finite_are_not_counted():
  for bad in (np.nan, np.inf):
    values = jnp.array([[bad, 1], [1, 1]])
    with pytest.raises(ValueError, match="not finite"):
      geometry.explained_variance_dimension(values)
    counted = jax.jit(geometry.explained_variance_dimension)(values)
    assert counted.tolist() == [-1, 2]
    ratios = geometry.participation_ratio(values)
    assert jnp.isnan(ratios).tolist() == [True, False]


def test_spectra_are_differentiable_once():
  """Second derivatives of two equal eigenvalues diverge."""
  points = jnp.asarray(np.eye(4)[:3] - 0.1 * np.eye(4)[1:])

  def ratio(points):
    return geometry.participation_ratio(geometry.spectrum(points))

  def exact(points):
    C = points - points.mean(axis=0, keepdims=True)
    C = C @ C.T
    return jnp.trace(C) ** 2 / (C**2).sum()

  expected = jax.jit(jax.grad(exact))(points)
  for slope in (jax.grad, jax.jacfwd):
    np.testing.assert_allclose(
      jax.jit(slope(ratio))(points), expected, atol=1e-5
    )
  for second in (jax.hessian(ratio), jax.jacrev(jax.grad(ratio))):
    with pytest.raises(TypeError, match="differentiable once"):
      jax.eval_shape(second, points)


@pytest.mark.slow
def test_a_finished_run_is_asked(tmp_path):
  # What it measures itself is something else.
  few = {"epochs": 1, "num_seeds": 1, "measures": "collapse"}
  config = studies.make_config(**SMALL_RUN | few)
  studies.run(studies.Memorization(config), tmp_path)
  trained = studies.TrainedRun(tmp_path)
  asked = studies.MeasuringConfig(measures="spectrum")
  rows = studies.run(studies.Measuring(asked, trained))
  # Input, one hidden layer and logits, at two epochs, of four subsets.
  assert len(rows.where("within_participation")) == 3 * 2 * 4
  assert (tmp_path / "measure-spectrum").is_dir()
  of_layer = rows.where("within_participation", layer="input", subset="test")
  images = trained.experiment.test.images[trained.seeds[0].manifolds["test"]]
  images = images.reshape(*images.shape[:2], -1) / 1.0
  expected = np.mean([ratio_of(manifold) for manifold in images])
  np.testing.assert_allclose(of_layer.values, expected, rtol=1e-4)


def test_spectra_that_are_rounding_are_not_known():
  rng = np.random.default_rng(0)
  centers, q = rng.normal(size=(4, 1, 30)), rng.normal(size=(4, 8, 30))
  expected = found_of(centers + 1e-2 * q)
  for spread in (1e-4, 1e-6, 1e-7, 1e-9):
    found = found_of(centers + spread * q)
    for name in ("within_participation", "within_explained"):
      if spread == 1e-4:
        assert found[name] == pytest.approx(expected[name], rel=1e-3)
      else:
        assert np.isnan(found[name])
