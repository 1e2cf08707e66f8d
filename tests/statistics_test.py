"""Gram statistics: blocks, masks, streams and many devices."""

import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry

ROOT = pathlib.Path(__file__).parent.parent


def clouds(num_manifolds, num_points, num_features):
  rng = np.random.default_rng(0)
  shape = (num_manifolds, num_points, num_features)
  return rng.normal(size=shape).astype(np.float32)


POINTS = clouds(5, 10, 100)


def assert_same(a, b):
  for name in ("within", "cross", "centers"):
    np.testing.assert_allclose(
      getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-3, err_msg=name
    )


def test_products_are_those_of_the_definitions():
  points = POINTS.astype(np.float64) - POINTS.mean(axis=(0, 1))
  centers = points.mean(axis=1)
  inside = points - centers[:, None]
  stats = geometry.gram_statistics(POINTS + 1000)
  np.testing.assert_allclose(
    stats.within, inside @ inside.swapaxes(1, 2), atol=0.01
  )
  np.testing.assert_allclose(stats.cross, inside @ centers.T, atol=0.01)
  np.testing.assert_allclose(stats.centers, centers @ centers.T, atol=0.01)


def test_blocks_of_features_add_up():
  whole = geometry.gram_statistics(POINTS)
  assert_same(whole, geometry.gram_statistics(POINTS, block_size=33))


def test_manifolds_may_come_a_few_at_a_time():
  whole = geometry.gram_statistics(POINTS)
  streamed = geometry.statistics_by_manifold(
    lambda: (POINTS[i : i + 2] + 1000 for i in range(0, 5, 2))
  )
  for name in ("within", "cross", "centers"):
    # Half a digit less: the offset has cost the points themselves theirs.
    np.testing.assert_allclose(
      getattr(streamed, name), getattr(whole, name), atol=0.02
    )
  with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
    geometry.statistics_by_manifold(
      lambda: [POINTS[:2], np.zeros((2, 3, 4), np.float32)]
    )
  with pytest.raises(ValueError, match="no blocks"):
    geometry.statistics_by_manifold(list)


def test_missing_points_do_not_count():
  unequal = [POINTS[0][:4], POINTS[1], POINTS[2][:5], POINTS[3], POINTS[4]]
  stats = geometry.gram_statistics(unequal)
  padded = [np.pad(x, ((0, 13 - len(x)), (0, 0))) for x in unequal]
  mask = np.stack([np.arange(13) < len(x) for x in unequal])
  more = geometry.gram_statistics(np.stack(padded), mask=jnp.asarray(mask))
  for a, b in [
    (stats.within, more.within[:, :10, :10]),
    (stats.centers, more.centers),
  ]:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  a, b = (
    geometry.manifold_geometry(
      jax.random.key(0), x, num_probes=3000, centers=None
    )
    for x in (stats, more)
  )
  assert bool(b.converged.all())
  # The probes differ in number of axes, and so in value.
  np.testing.assert_allclose(a.capacity, b.capacity, rtol=0.03)
  np.testing.assert_allclose(a.radius, b.radius, rtol=0.03)
  np.testing.assert_allclose(a.dimension, b.dimension, rtol=0.03)


def test_random_projections_keep_the_products_in_the_mean():
  points = clouds(4, 3, 5000)
  projected = geometry.project_points(jax.random.key(0), points, 2000)
  assert projected.shape == (4, 3, 2000)
  norms = (np.asarray(projected) ** 2).sum(axis=-1) * 5000 / 2000
  np.testing.assert_allclose(norms, (points**2).sum(axis=-1), rtol=0.15)


def test_wrong_input_is_named():
  with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
    geometry.gram_statistics(np.zeros((3, 4)))
  points = clouds(3, 4, 5)
  points[1, 2, 0] = np.nan
  with pytest.raises(ValueError, match="Point 2 of manifold 1 is not finite"):
    geometry.gram_statistics(points)


def test_shards_on_eight_devices_give_the_same():
  script = """
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from geomem import geometry

    assert len(jax.devices()) == 8
    points = np.random.default_rng(0).normal(size=(8, 6, 64)).astype("f4")
    mesh = Mesh(np.array(jax.devices()), ("d",))
    whole = geometry.gram_statistics(points)
    for spec in (("d", None, None), (None, None, "d")):
      place = NamedSharding(mesh, PartitionSpec(*spec))
      stats = geometry.gram_statistics(jax.device_put(points, place))
      np.testing.assert_allclose(stats.within, whole.within, atol=1e-3)
      np.testing.assert_allclose(stats.cross, whole.cross, atol=1e-3)
      found = geometry.manifold_geometry(
        jax.random.key(0), stats, num_probes=16, centers=None)
      alone = geometry.manifold_geometry(
        jax.random.key(0), whole, num_probes=16, centers=None)
      np.testing.assert_allclose(found.capacity, alone.capacity, rtol=1e-4)
  """
  environment = os.environ | {
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_PLATFORMS": "cpu",
  }
  result = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)],
    capture_output=True,
    text=True,
    env=environment,
    cwd=ROOT,
  )
  assert result.returncode == 0, result.stderr
