"""Every measure that there is: its rows, for a few points and a dead layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry, measures
from geomem.measures.layers import measure
from geomem.measures.measure import STATISTICS

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", measures.MEASURES)
def test_its_rows_are_those_of_its_metrics(name):
  one = measures.MEASURES[name]
  rng = np.random.default_rng(0)
  points = rng.normal(size=(4, 6, 9)) + 2 * rng.normal(size=(4, 1, 9))
  subsets = [
    STATISTICS[one.statistic](x.astype("f4")) for x in (points, 0 * points)
  ]
  # One layer of two subsets.
  stats = jax.tree.map(lambda *xs: jax.numpy.stack(xs)[None], *subsets)
  options = measures.Options(num_probes=8, centers=None)
  found = measure(KEY, (one,), {one.statistic: stats}, options)[name]
  found = jax.tree.map(lambda x: np.asarray(x)[0], found)
  rows = one.rows(found, ["permuted", "test"])
  assert [row["metric"] for row in rows] == 2 * [m.name for m in one.metrics]
  values = {(row["subset"], row["metric"]): row["value"] for row in rows}
  alive = [v for (subset, _), v in values.items() if subset == "permuted"]
  assert np.isfinite(alive).all()
  # Of a layer of dead units nothing is said, but that nothing was solved or
  # counted: 0.
  dead = {m: v for (subset, m), v in values.items() if subset == "test"}
  assert not any(v for v in dead.values() if np.isfinite(v)), dead


def test_options_are_those_of_the_geometry():
  # By default the direction that centres share would be removed.
  rng = np.random.default_rng(0)
  points = rng.normal(size=(5, 4, 9)) + 2 * rng.normal(size=(5, 1, 9)) + 3
  points += 30 * rng.normal(size=(5, 1, 1)) * rng.normal(size=9)
  points = points.astype(np.float32)
  options = measures.Options(
    kappa=0.2, num_probes=12, centers=None, labels="one_vs_rest"
  )
  known = {
    "mean_field": geometry.manifold_geometry(
      KEY, points, kappa=0.2, num_probes=12, centers=None
    ),
    "glue": geometry.glue(KEY, points, labels="one_vs_rest", num_probes=12),
  }
  for name, expected in known.items():
    one = measures.MEASURES[name]
    found = one.compute(KEY, STATISTICS[one.statistic](points), options)
    for field in ("capacity", "radius", "dimension"):
      np.testing.assert_allclose(
        getattr(found, field), getattr(expected, field), rtol=1e-4
      )


def test_options_and_the_key_are_given_to_all_layers():
  given = measures.Options(
    kappa=0.25, num_probes=12, centers=3, labels="one_vs_rest"
  )

  def compute(key, stats, options):
    assert options._replace(kappa=0.25) == given
    draw = jax.random.uniform(key) + options.kappa
    return {"draw": draw, "size": stats.within.sum()}

  metrics = measures.Metric("draw", "d"), measures.Metric("size", "s")
  fake = measures.Measure("fake", metrics, compute)
  images = np.ones((2, 3, 4, 4, 1), np.uint8)
  layers = ["h", "g"]
  found = measures.measure_layers(
    KEY,
    [fake],
    given,
    lambda _, x: dict.fromkeys(layers, x.astype(np.float32)),
    None,
    {"own": images, "other": images},
    layers,
  )
  draws = [
    row["value"] for _, rows in found for row in rows if row["metric"] == "draw"
  ]
  assert draws == pytest.approx([float(jax.random.uniform(KEY)) + 0.25] * 4)


def fields_of(kind, **known):
  """A result of which some fields are known, and all others 0."""
  names = getattr(kind, "_fields", None) or kind.__dataclass_fields__
  known = dict.fromkeys(names, np.zeros(2)) | known
  return kind(**jax.tree.map(jnp.asarray, known))


def test_summaries_are_by_hand():
  result = fields_of(
    geometry.ManifoldGeometry,
    capacity=np.array([0.1, 0.2]),
    capacity_stderr=np.array([0.01, 0.02]),
    radius=np.array([1.0, 2.0]),
    radius_stderr=np.array([0.3, 0.4]),
    dimension=np.array([10.0, 30.0]),
    dimension_stderr=np.array([0.6, 0.8]),
    center_correlation=np.array(0.7),
    rank=np.array(3),
    center_left=np.array([0.25, 0.5]),
    interior=np.array([0.125, 0.375]),
    converged=np.array([True, False]),
    residual=np.array([1e-5, 1e-4]),
  )
  # Inverse capacities are 10 ± 1 and 5 ± .5.
  harmonic = 2 / 15, (2 / 15) ** 2 * 1.25**0.5 / 2
  expected = {
    "capacity": harmonic,
    "radius": (1.5, 0.25),
    "dimension": (20, 0.5),
    "center_correlation": (0.7, None),
    "rank": (3, None),
    "interior": (0.25, None),
    "residual": (1e-4, None),
    "converged": (0.5, None),
    "center_left": (0.25, None),
  }
  expect(measures.MEASURES["mean_field"].summarize(result), expected)
  names = ("capacity", "radius", "dimension", "utility")
  known = {name: np.array(2.0 + i) for i, name in enumerate(names)}
  known |= {f"{name}_stderr": np.array(0.1 + i) for i, name in enumerate(names)}
  others = ("critical_features", "center_cosine", "axis_cosine", "interior")
  known |= {name: np.array(0.2 + i) for i, name in enumerate(others)}
  result = fields_of(
    geometry.Glue, **known, converged=np.array([True, True, True, False])
  )
  expected = {
    "glue_capacity": (2, 0.1),
    "glue_radius": (3, 1.1),
    "glue_dimension": (4, 2.1),
    "glue_utility": (5, 3.1),
    "critical_features": (0.2, 0.2 * 0.1 / 2),
    "glue_center_cosine": (1.2, None),
    "glue_axis_cosine": (2.2, None),
    "glue_interior": (3.2, None),
    "glue_converged": (0.75, None),
  }
  expect(measures.MEASURES["glue"].summarize(result), expected)
  values = {"accuracy": 0.5, "stderr": 0.1, "alignment": 0.25}
  expected = {"probe_accuracy": (0.5, 0.1), "label_alignment": (0.25, None)}
  expect(measures.MEASURES["probe"].summarize(values), expected)


def expect(found, expected):
  assert set(found) == set(expected)
  for name, numbers in expected.items():
    for number, known in zip(found[name], numbers, strict=True):
      assert (number is None) == (known is None), name
      assert known is None or float(number) == pytest.approx(known), name


@pytest.mark.parametrize(
  ("activations", "told"),
  [(lambda x: {"h": x}, "no layer 'g' among .* from h"), (lambda x: x, "dict")],
)
def test_functions_without_the_layers_are_refused(activations, told):
  args = (lambda _, x: activations(x), None)
  images = np.ones((2, 3, 4, 4, 1), np.uint8)
  for yields in (
    measures.layer_blocks(*args, images[0], ["g"]),
    measures.measure_layers(
      KEY,
      [measures.MEASURES["spectrum"]],
      measures.Options(),
      *args,
      {"own": images},
      ["g"],
    ),
  ):
    with pytest.raises(ValueError, match=told):
      next(yields)


def test_nothing_to_measure_and_unlike_subsets_are_refused():
  forward, images = lambda _, x: {"h": x}, np.ones((2, 3, 4, 4, 1), np.uint8)
  for names, of_subsets in (([], {"own": images}), (["spectrum"], {})):
    chosen = [measures.MEASURES[name] for name in names]
    what = (KEY, chosen, measures.Options(), forward, None, of_subsets, ["h"])
    with pytest.raises(ValueError, match="at least one of each"):
      next(measures.measure_layers(*what))
  for bound in ("batch_size", "max_bytes"):
    blocks = measures.layer_blocks(
      forward, None, images[0], ["h"], **{bound: 0}
    )
    with pytest.raises(ValueError, match=f"{bound} is 0"):
      next(blocks)
  unlike = {"own": images, "other": images[:, :2]}
  with pytest.raises(ValueError, match=r"'other': \(2, 2, 4, 4, 1\)"):
    next(measures.layer_statistics(forward, None, unlike, ["h"]))


def test_names_are_of_one_measure_each():
  metrics = [m.name for one in measures.MEASURES.values() for m in one.metrics]
  assert len(metrics) == len(set(metrics)) == len(measures.METRICS)
  assert all(one.statistic in STATISTICS for one in measures.MEASURES.values())
