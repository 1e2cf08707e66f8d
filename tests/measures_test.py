"""Every measure that there is: its rows, for a few points and a dead layer."""

import jax
import numpy as np
import pytest

from geomem import measures
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
