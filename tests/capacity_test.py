"""Theory against simulation through the binary: whole, resumed, refused."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry, plots, runs, studies
from geomem.studies import capacity
from geomem.studies.capacity_findings import agreements
from tests.fakes import SMALL_RUN, curve

SMALL = {"num_draws": 5, "num_probes": 10, "num_shuffles": 2, "epochs": "last"}
COMPARISON = studies.CapacityConfig(**SMALL)
# As the run's: three classes, five points of each, and 64 pixels.
SHAPE = (3, 5, 64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The directory of a tiny finished run."""
  path = tmp_path_factory.mktemp("trained") / "run"
  config = studies.make_config(**SMALL_RUN | {"epochs": 1, "num_seeds": 1})
  studies.run(studies.Memorization(config), path)
  return path


def study_of(trained):
  return studies.Capacity(COMPARISON, studies.TrainedRun(trained))


@pytest.mark.slow
def test_layers_of_a_run_are_compared(trained, tmp_path):
  rows = studies.run(study_of(trained), tmp_path)
  # 3 layers x 4 subsets, with and without shared directions.
  assert len(study_of(trained).sets()) == 3 * 4 * 2
  for metric in ("capacity", "simulated_capacity", "null_capacity"):
    assert len(rows.where(metric)) == 3 * 4 * 2
  (said, *_) = studies.findings(tmp_path)
  assert "simulated over theory has median" in said
  config = studies.CapacityConfig(**SMALL | {"num_draws": 6})
  other = studies.Capacity(config, studies.TrainedRun(trained))
  with pytest.raises(runs.RunError, match="num_draws differs"):
    studies.run(other, tmp_path)


def test_points_of_layers_are_activations_of_the_run(trained):
  run = studies.TrainedRun(trained)
  (seed,), experiment = run.seeds, run.experiment
  sets = study_of(trained).sets()
  state = run.state(seed.number, run.last(seed.number))
  for subset in ("permuted", "test"):
    images = getattr(experiment, seed.subsets[subset].source).images
    chosen = np.asarray(images)[seed.manifolds[subset]].reshape(-1, 8, 8, 1)
    normalized = (np.float32(chosen) - experiment.mean) / experiment.std
    normalized = jnp.asarray(normalized)
    activations = experiment.network.apply(state, normalized).activations
    for layer in ("input", "fc1"):
      of_layer = [
        one.points()
        for one in sets
        if (one.columns["layer"], one.columns["subset"]) == (layer, subset)
      ]
      assert len(of_layer) == 2  # With shared directions and without.
      expected = np.reshape(activations[layer], (3, 5, -1))
      for points in of_layer:
        np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-5)


def test_the_subsets_of_the_run_are_compared(trained):
  run = studies.TrainedRun(trained)
  config = run.experiment.config.replace(subsets="test")
  run.experiment = run.experiment._replace(config=config)
  sets = studies.Capacity(COMPARISON, run).sets()
  assert {one.columns["subset"] for one in sets} == {"test"}
  assert len(sets) == 3 * 2


@pytest.mark.parametrize(
  ("fields", "sentence"),
  [
    ({"epochs": "first"}, "epochs 'first' is not known"),
    ({"num_draws": 4}, "num_draws is 4; at least 5"),
    ({"dimension": 500}, "dimension is 500"),
    ({"num_manifolds": 1}, "too few to compare"),
  ],
)
def test_bad_input_is_a_sentence(fields, sentence):
  with pytest.raises(ValueError, match=sentence):
    studies.CapacityConfig(**fields)


def test_synthetic_units_are_what_they_say():
  config = studies.CapacityConfig(
    num_manifolds=8, manifold_points=3, num_features=40, dimension=2
  )
  units = studies.Capacity(config).sets()
  assert len({u.name for u in units}) == len(units) - 4
  for unit in units:
    family = unit.columns["subset"]
    size = {"points": 1, "segments": 2}.get(family, 3)
    assert unit.points().shape == (8, size, 40)
    if family == "points":
      assert unit.exact == pytest.approx(2)
  segment = next(u for u in units if u.columns["subset"] == "segments")
  # Half the distance of the ends is the radius; the exact value is of the
  # radius in units of the centre's norm about the mean of all centres.
  ends = segment.points()[:, 1] - segment.points()[:, 0]
  np.testing.assert_allclose(np.linalg.norm(ends, axis=1) / 2, 0.1, rtol=1e-4)
  assert segment.exact == pytest.approx(
    float(geometry.segment_capacity(0.1 / np.sqrt(7 / 8)))
  )


def row(metric, value, **columns):
  base = {"seed": 0, "subset": "clouds", "centers": "none", "layer": None}
  return base | {"metric": metric, "value": value, "stderr": 0.01} | columns


def test_agreement_is_counted_from_rows():
  rows = runs.Rows(
    row(metric, value, manifold_radius=radius)
    for radius, theory, simulated in [
      (0.1, 1.0, 1.0),
      (0.3, 0.5, 0.55),
      (1.0, 0.25, 0.2),
      (3.0, 0.1, None),
    ]
    for metric, value in [
      ("capacity", theory),
      ("simulated_capacity", simulated),
    ]
  )
  (found,) = agreements(rows)
  assert (found.count, found.unknown) == (3, 1)
  assert found.ratios[0] == pytest.approx(0.8)
  assert found.ratios[-1] == pytest.approx(1.1)
  assert found.farthest == "clouds R=1.0"
  assert found.correlation > 0.97
  # Pairs of which both are known, and curves with a gap for the others.
  (ax,) = plots.CAPACITY["capacity"](rows).axes
  np.testing.assert_array_equal(
    curve(ax, "clouds"), [[1.0, 0.5, 0.25], [1.0, 0.55, 0.2]]
  )
  (ax,) = plots.CAPACITY["capacity_along"](rows).axes
  (theory,) = (x for x in ax.get_lines() if x.get_linestyle() == "-")
  (simulated,) = (bars.lines[0] for bars in ax.containers)
  for line, y in (
    (theory, [1.0, 0.5, 0.25, 0.1]),
    (simulated, [1.0, 0.55, 0.2, np.nan]),
  ):
    np.testing.assert_array_equal(line.get_data(), [[0.1, 0.3, 1.0, 3.0], y])


def test_what_is_not_to_be_believed_is_left_out_and_said():
  rows = runs.Rows(
    row(metric, value, manifold_radius=radius)
    for radius, theory, converged, simulated in [
      (0.1, 1.0, 1.0, 1.0),
      (0.3, 0.5, 0.9, 50.0),
      (1.0, 0.3, 1.0, 0.3),
      (3.0, None, 0.0, 0.4),
    ]
    for metric, value in [
      ("capacity", theory),
      ("converged", converged),
      ("simulated_capacity", simulated),
    ]
  )
  (found,) = agreements(rows)
  assert (found.count, found.unknown, found.doubted) == (2, 0, 2)
  assert set(found.ratios) == {1}
  assert str(found).endswith("(converged below 1): 2 more.")
  (ax,) = plots.plot_capacity(rows).axes
  assert 50 not in {y for line in ax.get_lines() for y in line.get_ydata()}
  bad = runs.Rows(r for r in rows if r["manifold_radius"] in (0.3, 3.0))
  assert plots.plot_capacity(bad) is None
  (said,) = studies.Capacity.findings({}, bad)
  assert said.startswith("centres as they are: no set has both")
  # Layers have names.
  place = {"layer": "fc3", "layer_index": 3, "epoch": 2}
  rows = runs.Rows(r | place for r in rows)
  doubt, _ = studies.Capacity.findings({}, rows)
  assert "fc3 of clouds examples" in doubt


def test_shared_directions_are_removed_from_all_points(monkeypatch):
  """Theory and simulation are of what NumPy leaves of the points."""
  rng = np.random.default_rng(0)
  shift = 3 * rng.normal(size=(3, 1, 64))
  points = np.float32(rng.normal(size=SHAPE) + shift)
  key = jax.random.key(0)
  direction_key, probe_key, draw_key, _ = jax.random.split(key, 4)
  centered = points.astype(float)
  centered = centered - centered.mean(axis=(0, 1))
  centers = centered.mean(axis=1)
  A = np.array([[1.0, 0], [0.5, 0], [-2, 0]])

  def find(given_key, gram, rule):
    assert given_key == direction_key
    assert rule == "low_rank"
    np.testing.assert_allclose(gram, centers @ centers.T, rtol=1e-4, atol=1e-3)
    return types.SimpleNamespace(coefficients=A, rank=1)

  monkeypatch.setattr(capacity, "_shared_directions", find)
  columns = {"centers": "low_rank", "subset": "clouds"}
  one = capacity.ManifoldSet(key, columns, lambda: points)
  rows = runs.Rows(capacity.compare(one, COMPARISON))
  v = A[:, 0] @ centers / np.linalg.norm(A[:, 0] @ centers)
  left = centered - (centered @ v)[..., None] * v
  theory, whole = (
    geometry.manifold_geometry(
      probe_key, np.float32(x), num_probes=10, centers=None
    )
    for x in (left, centered)
  )
  # Of three centres that are left on a line most labels are inseparable.
  simulated, of_whole = (
    geometry.simulated_capacity(draw_key, x, num_draws=5).capacity
    for x in (left, centered)
  )
  assert np.isnan([simulated, of_whole]).tolist() == [True, False]
  for metric, value in (
    ("capacity", theory.mean_capacity),
    ("radius", theory.mean_radius),
    ("dimension", theory.mean_dimension),
    ("center_correlation", theory.center_correlation),
    ("simulated_capacity", simulated),
  ):
    (found,) = rows.where(metric).values
    assert found == pytest.approx(float(value), rel=1e-3, nan_ok=True)
  assert float(whole.mean_radius) < 0.9 * float(theory.mean_radius)


def test_rows_say_what_converged_and_the_error_of_the_null():
  rng = np.random.default_rng(0)
  points = rng.normal(size=SHAPE).astype(np.float32)
  points -= points.mean(axis=(0, 1))
  columns = {"centers": "none", "subset": "clouds"}
  key = jax.random.key(0)
  one = capacity.ManifoldSet(key, columns, lambda: points)
  rows = runs.Rows(capacity.compare(one, COMPARISON))
  *_, null_key = jax.random.split(key, 4)
  null = geometry.shuffled_null(
    null_key, points, num_samples=2, num_probes=10, centers=None
  )
  (found,) = rows.where("null_capacity")
  first, second = np.asarray(null.samples.capacity)
  assert found["value"] == pytest.approx((first + second) / 2, rel=1e-5)
  assert found["stderr"] == pytest.approx(abs(first - second) / 2, rel=1e-4)
  assert rows.where("converged").values == [1]


@pytest.mark.parametrize(("left", "converged"), [(1e-3, 1), (1e-5, 0)])
def test_centres_lost_in_rounding_are_in_doubt(left, converged):
  """Far from the origin all but `left` of the points is their offset."""
  rng = np.random.default_rng(0)
  points = np.float32(rng.normal(size=SHAPE) * left + 1)
  columns = {"centers": "none", "subset": "clouds"}
  one = capacity.ManifoldSet(jax.random.key(0), columns, lambda: points)
  rows = runs.Rows(capacity.compare(one, COMPARISON))
  assert rows.where("converged").values == [converged]


def test_what_does_not_agree_is_said():
  rows = runs.Rows(
    row(metric, value, manifold_radius=radius)
    for radius in (0.1, 0.3, 1.0)
    for metric, value in (
      ("capacity", radius),
      ("simulated_capacity", 1 / radius),
    )
  )
  (found,) = agreements(rows)
  assert found.correlation == pytest.approx(-1)
  assert found.ratios[-1] == pytest.approx(100)
  assert "correlation -1.000" in str(found)
