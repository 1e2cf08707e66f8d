"""Neural collapse against covariances, scikit-learn, and collapsed clouds."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from geomem import geometry
from tests.fakes import numbers_of


def found_of(points, **options):
  return numbers_of("collapse", geometry.gram_statistics(points, **options))


def clouds(seed=0, sizes=(9, 7, 12, 8), features=20, spread=1.0):
  rng = np.random.default_rng(seed)
  return [
    3 * rng.normal(size=features) + spread * rng.normal(size=(m, features))
    for m in sizes
  ]


@pytest.mark.parametrize("shares", [None, (1, 3e-3, 3e-4)])
def test_nc1_is_the_trace_of_its_definition(shares):
  """Without directions in which centres vary by less than 1e-3 of the most."""
  points = clouds(sizes=(9, 9, 9, 9))
  if shares:
    # Centres with these eigenvalues, about a mean of zero.
    axes, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 3)))
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    centers = 3 * corners * np.sqrt(shares) @ axes.T
    points = [
      c + m - m.mean(axis=0) for c, m in zip(centers, points, strict=True)
    ]
  centers = np.stack([manifold.mean(axis=0) for manifold in points])
  within = np.concatenate([m - m.mean(axis=0) for m in points])
  between = centers - centers.mean(axis=0)
  W, B = within.T @ within / 36, between.T @ between / 4
  expected = np.trace(W @ np.linalg.pinv(B, rcond=1e-3)) / 4
  assert found_of(points)["nc1"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sizes", [(9, 9, 9, 9), (9, 7, 12, 8)])
def test_cdnv_and_nc2_are_means_over_pairs(sizes):
  points = clouds(sizes=sizes)
  centers = np.stack([manifold.mean(axis=0) for manifold in points])
  v = [((m - m.mean(axis=0)) ** 2).sum(axis=1).mean() for m in points]
  pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
  expected = np.mean(
    [
      (v[i] + v[j]) / 2 / ((centers[i] - centers[j]) ** 2).sum()
      for i, j in pairs
    ]
  )
  found = found_of(points)
  assert found["cdnv"] == pytest.approx(expected, rel=1e-4)
  unit = centers - centers.mean(axis=0)
  norms = np.linalg.norm(unit, axis=1)
  assert found["nc2_norms"] == pytest.approx(
    norms.std() / norms.mean(), rel=1e-4
  )
  unit /= norms[:, None]
  angles = np.mean([abs(unit[i] @ unit[j] + 1 / 3) for i, j in pairs])
  assert found["nc2_angles"] == pytest.approx(angles, rel=1e-3)


def test_the_nearest_class_mean_leaves_each_point_out():
  points = clouds(seed=3, spread=4.0)
  labels = np.repeat(range(4), [len(manifold) for manifold in points])
  flat = np.concatenate(points)
  right = 0
  for i in range(len(flat)):
    rest = np.arange(len(flat)) != i
    model = NearestCentroid().fit(flat[rest], labels[rest])
    right += model.predict(flat[i : i + 1])[0] == labels[i]
  assert 0.3 < right / len(flat) < 0.95
  assert found_of(points)["ncm_accuracy"] == pytest.approx(right / len(flat))


def test_a_collapsed_layer_has_collapsed():
  # Centres on a simplex: the unit vectors, and points almost upon them.
  rng = np.random.default_rng(0)
  points = np.eye(5)[:, None] + 1e-3 * rng.normal(size=(5, 6, 5))
  found = found_of(points)
  assert found["nc1"] < 1e-5
  assert found["cdnv"] < 1e-5
  assert found["nc2_norms"] < 1e-2
  assert found["nc2_angles"] < 1e-2
  assert found["ncm_accuracy"] == 1


def test_what_is_not_defined_is_missing():
  dead = found_of(np.zeros((4, 5, 3)))
  assert all(np.isnan(value) for value in dead.values())
  alone = found_of(clouds(sizes=(9, 1, 12, 8)))
  assert np.isnan([alone["ncm_accuracy"], alone["cdnv"]]).all()
  assert np.isfinite(alone["nc1"])
  # One point each: no manifold has collapsed, nor not.
  single = found_of(clouds(sizes=(1, 1, 1, 1)))
  assert np.isnan([single[n] for n in ("nc1", "cdnv", "ncm_accuracy")]).all()
  assert single["nc2_angles"] > 0
  for points in (
    clouds(sizes=(9,)),
    # The centres are equal, but for rounding.
    [np.concatenate([m, -m]) for m in clouds(sizes=(7, 7, 7, 7))],
  ):
    assert np.isnan([*found_of(points).values()]).all()


def test_a_centre_at_the_mean_of_all_has_no_angle():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(3, 8, 20))
  points -= points.mean(axis=1, keepdims=True)
  points += np.array([1.0, -1.0, 0.0])[:, None, None] * rng.normal(size=20)
  found = found_of(points)
  assert np.isnan(found["nc2_angles"])
  assert found["nc2_norms"] == pytest.approx(0.5**0.5, rel=1e-3)


def test_neither_unit_nor_offset_nor_rotation_matter():
  points = np.stack(clouds(sizes=(8, 8, 8, 8), spread=3.0))
  rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))
  expected = found_of(points)
  for changed in (1e-3 * points, points + 100, points @ rotation):
    assert found_of(changed) == pytest.approx(expected, rel=1e-3)


def test_variance_that_is_rounding_is_not_known():
  """Within R² of a constant, as R vanishes; then NaN, and 0 without spread."""
  rng = np.random.default_rng(0)
  centers, q = rng.normal(size=(4, 1, 30)), rng.normal(size=(4, 8, 30))
  expected = found_of(centers + 1e-2 * q)
  for spread in (1e-4, 1e-5, 1e-7, 3e-8, 1e-9):
    found = found_of((centers + spread * q).astype(np.float32))
    assert found["ncm_accuracy"] == 1
    for name in ("nc1", "cdnv"):
      if spread > 1e-6:
        ratio = (1e-2 / spread) ** 2 * found[name] / expected[name]
        assert ratio == pytest.approx(1, rel=0.02), name
      else:
        assert np.isnan(found[name]), name
  equal = found_of(np.repeat(centers, 7, axis=1))
  assert equal["nc1"] == equal["cdnv"] == 0
