"""Gram statistics: blocks, masks, streams and many devices."""

import functools
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


def in_float64(points):
  """Products of the definitions, of `[P, M, N]`, in NumPy."""
  points = np.asarray(points, np.float64)
  points = points - points.mean(axis=(0, 1))
  centers = points.mean(axis=1)
  inside = points - centers[:, None]
  return {
    "within": inside @ inside.swapaxes(1, 2),
    "cross": inside @ centers.T,
    "centers": centers @ centers.T,
  }


@pytest.mark.parametrize(
  ("first", "second", "offset"),
  [
    ("float64", "float32", 1000 + 1 / 3),
    ("float32", "float64", 1000 + 1 / 3),
    ("int64", "float64", 2**62),
    ("float64", "int64", 2**62),
    ("int32", "float32", 2**28 + 1),
  ],
)
def test_streams_of_two_types_have_one_origin(first, second, offset):
  """The first point was rounded to the type of each block."""
  scale = 2**12 if offset > 2**30 else 1
  whole = np.round(8 * scale * POINTS).astype(np.int64)
  blocks = [
    (whole + int(offset)).astype(kind)
    if "int" in first + second
    else (offset + whole / 8).astype(kind)
    for kind in (first, second)
  ]
  given = [jnp.asarray(x) if x.dtype.itemsize < 8 else x for x in blocks]
  found = geometry.statistics_by_manifold(lambda: given)
  # Python's whole numbers are exact, and so is float64 of the others.
  exact = np.concatenate(
    [
      np.reshape([int(v) - int(offset) for v in x.ravel()], x.shape)
      if "int" in first + second
      else x.astype(np.float64)
      for x in blocks
    ]
  )
  for part, expected in in_float64(exact).items():
    np.testing.assert_allclose(
      getattr(found, part), expected, atol=2e-6 * np.abs(expected).max()
    )


def _collapsed(index):
  points = 5 + POINTS
  points[index] = points[index, :1]
  return points


STREAMED = {
  "single points": 5 + POINTS[:, :1],
  "the first collapsed": _collapsed(0),
  "one collapsed": _collapsed(2),
  "all collapsed": np.repeat(5 + POINTS[:, :1], 10, axis=1),
  "the first zero, others large": np.float32(1e20)
  * POINTS
  * (np.arange(5) > 0)[:, None, None].astype(np.float32),
  "the first zero, others small": np.float32(1e-25)
  * POINTS
  * (np.arange(5) > 0)[:, None, None].astype(np.float32),
}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", STREAMED)
def test_streams_of_collapsed_manifolds_and_of_any_size(name, on_device):
  points = STREAMED[name]
  given = jnp.asarray(points) if on_device else points.astype(np.float64)
  found = geometry.statistics_by_manifold(
    lambda: (given[i : i + 1] for i in range(len(given)))
  )
  unit = 4.0 ** int(found.exponent)
  size = float((points.astype(np.float64) ** 2).sum(axis=-1).max())
  for part, expected in in_float64(points).items():
    np.testing.assert_allclose(
      np.asarray(getattr(found, part), np.float64) * unit,
      expected,
      atol=1e-5 * size,
      err_msg=part,
    )
  if "collapsed" not in name:
    return
  # What has no spread has none by rounding either.
  flat = np.ptp(points, axis=1).max(axis=-1) == 0
  assert np.abs(np.asarray(found.within)[flat]).max() < 1e-10 * size


def test_dead_features_in_a_stream_take_no_unit():
  """Products of tiny features underflowed beside them, in their sum."""
  tiny = np.float32(1e-31) * POINTS

  def stream(points):
    return geometry.statistics_by_manifold(lambda: [points])

  found = stream(tiny) + stream(np.zeros_like(tiny))
  np.testing.assert_array_equal(found.within, stream(tiny).within)
  assert found.exponent == stream(tiny).exponent


def test_streams_whose_distances_overflow_are_refused():
  points = np.float32(3e38) * np.sign(POINTS)
  with pytest.raises(ValueError, match="distances of the points overflow"):
    geometry.statistics_by_manifold(lambda: [points])


def test_streams_do_not_show_what_a_mask_hides():
  hidden = np.ma.masked_array(POINTS, np.zeros(POINTS.shape, bool))
  hidden[3, 2] = np.ma.masked
  with pytest.raises(ValueError, match="A mask hides points of a block"):
    geometry.statistics_by_manifold(lambda: [hidden])


@jax.jit
def measured_in_blocks(points):
  """Of features: added up here, or by the statistics."""
  blocks = [
    geometry.gram_statistics(points, block_size=30),
    geometry.sum_statistics(
      geometry.gram_statistics(x) for x in (points[..., :30], points[..., 30:])
    ),
  ]

  def measured(x):
    return geometry.within_spectrum(x), geometry.manifold_geometry(
      jax.random.key(0), x, num_probes=16
    )

  return jax.lax.map(measured, jax.tree.map(lambda *x: jnp.stack(x), *blocks))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [(0, 0), (2, 1)])
def test_points_that_are_not_finite_give_nan_under_jit(value, where):
  """Also where they lie in one block of features, or are the reference."""
  points = POINTS.copy()
  points[(*where, 40)] = value
  spectrum, found = measured_in_blocks(points)
  assert np.isnan(spectrum[:, where[0]]).all()
  assert not found.converged.any()
  for name in ("capacity", "radius", "dimension", "center_correlation"):
    assert np.isnan(getattr(found, name)).all(), name
  spectrum, found = measured_in_blocks(POINTS)
  assert np.isfinite(spectrum).all()
  assert found.converged.all()


def test_sums_of_blocks_have_the_products_of_all_features():
  points = POINTS.astype(np.float64) - POINTS.mean(axis=(0, 1))
  centers = points.mean(axis=1)
  inside = points - centers[:, None]
  blocks = [POINTS[..., :7], POINTS[..., 7:60], POINTS[..., 60:]]
  found = geometry.sum_statistics(map(geometry.gram_statistics, blocks))
  for name, expected in (
    ("within", inside @ inside.swapaxes(1, 2)),
    ("cross", inside @ centers.T),
    ("centers", centers @ centers.T),
  ):
    np.testing.assert_allclose(getattr(found, name), expected, atol=1e-4)
  # Blocks may have units of their own.
  large = [np.float32(scale) * POINTS for scale in (1e20, 2e21)]
  stats = list(map(geometry.gram_statistics, large))
  assert int(stats[0].exponent) != int(stats[1].exponent)
  ratio = 2.0 ** (2 * (int(stats[1].exponent) - int(stats[0].exponent)))
  found, one, two = (
    np.asarray(x.within, np.float64)
    for x in (geometry.sum_statistics(stats), *stats)
  )
  np.testing.assert_allclose(found, one / ratio + two, rtol=1e-6)


def test_sums_are_of_the_same_points():
  mask = np.arange(10)[None] < np.array([10, 9, 8, 10, 10])[:, None]
  a, b = (
    geometry.gram_statistics(x, mask=m)
    for x, m in ((POINTS[..., :50], None), (POINTS[..., 50:], mask))
  )
  with pytest.raises(ValueError, match="different masks"):
    a + b
  with pytest.raises(ValueError, match="different masks"):
    geometry.sum_statistics([b, a])
  for other in (POINTS[:, :1], POINTS[:4]):
    with pytest.raises(ValueError, match=r"points \(5, 10\) and"):
      a + geometry.gram_statistics(other[..., 50:])
  with pytest.raises(ValueError, match="no blocks"):
    geometry.sum_statistics([])
  # Under jit and vmap the sum is NaN where the masks differ, and only there.
  pairs = [
    jax.tree.map(lambda *x: jnp.stack(x), *ab) for ab in ((a, b), (b, b))
  ]
  total = jax.jit(jax.vmap(lambda a, b: a + b))(*pairs)
  for name in ("within", "cross", "centers"):
    assert np.isnan(getattr(total, name)[0]).all()
    np.testing.assert_allclose(
      getattr(total, name)[1], 2 * getattr(b, name), rtol=1e-6
    )


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
  ratios = norms / (points**2).sum(axis=-1)
  # Of 2,000 squares, each ratio spreads by √(2/2000) = .032.
  assert abs(ratios.mean() - 1) < 4 * 0.032 / np.sqrt(ratios.size)
  assert 0.016 < ratios.std() < 0.055


def test_random_projections_are_those_of_gaussian_rows_of_unit_norm():
  """The matrix is what they make of the axes; each block has its own draws."""
  size, count = 60, 3000
  options = {"num_features": count, "block_size": 20}
  project = functools.partial(
    geometry.project_points, jax.random.key(0), **options
  )
  A = np.asarray(project(np.eye(size, dtype=np.float32)), np.float64).T
  np.testing.assert_allclose((A**2).sum(axis=1), 1, rtol=1e-5)
  points = clouds(2, 3, size)
  np.testing.assert_allclose(project(points), points @ A.T, atol=1e-5)
  # Of independent axes: products of rows, and of columns, are those of chance.
  for products, spread in (
    (A[:200] @ A[:200].T, 1 / np.sqrt(size)),
    (A.T @ A / count * size, 1 / np.sqrt(count)),
  ):
    others = products[~np.eye(len(products), dtype=bool)]
    assert abs(others.mean()) < 4 * spread / np.sqrt(others.size / 2)
    assert others.std() == pytest.approx(spread, rel=0.1)
  # Fourth moments of a Gaussian, divided by its norm: 3 N / (N + 2).
  assert (size**2 * A**4).mean() == pytest.approx(3 * size / 62, rel=0.05)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_random_projections_of_wide_integers_are_linear(dtype):
  """Also where 32 bits do not hold them."""
  points = np.arange(1, 13).reshape(3, 4).astype(dtype)
  small, large = (
    geometry.project_points(jax.random.key(0), x, 2)
    for x in (points, points << 33)
  )
  np.testing.assert_allclose(large, 2.0**33 * np.asarray(small), rtol=1e-6)


def test_random_projections_of_what_is_no_number_are_refused():
  project = functools.partial(geometry.project_points, jax.random.key(0))
  with pytest.raises(ValueError, match="complex64; real numbers"):
    project(POINTS + 1j, 2)
  hidden = np.ma.masked_array(POINTS, np.zeros(POINTS.shape, bool))
  np.testing.assert_array_equal(project(hidden, 2), project(POINTS, 2))
  hidden[0, 0] = np.ma.masked
  with pytest.raises(ValueError, match="A mask hides"):
    project(hidden, 2)


TYPES = [">f2", ">f4", ">f8", ">i2", ">i4", ">i8", ">u8", np.longdouble]


@pytest.mark.parametrize("dtype", TYPES)
def test_bytes_of_other_machines_and_long_doubles_are_numbers(dtype):
  native = np.dtype(dtype).newbyteorder("=")
  native = np.float64 if native == np.longdouble else native
  points = np.abs(10 * POINTS).astype(native)
  expected = geometry.gram_statistics(points)
  for given in (points.astype(dtype), list(points.astype(dtype))):
    found = geometry.gram_statistics(given)
    for name in ("within", "cross", "centers"):
      np.testing.assert_array_equal(
        getattr(found, name), getattr(expected, name)
      )


# Without the checks of types that tests add: what a user sees.
WRONG = {
  "g.manifold_geometry(key, g.point_products(x))": "points are PointProducts",
  "g.subsample(key, g.gram_statistics(x))": "points are GramStatistics",
  "g.shuffled_null(key, g.gram_statistics(x))": "points are GramStatistics",
  "g.manifold_geometry(key, x, num_probes=9.0)": "num_probes is 9.0; a whole",
  "g.gram_statistics(x, block_size=9.0)": "block_size is 9.0; a whole",
  "g.subsample(key, x, num_samples=2.0)": "num_samples is 2.0; a whole",
  "g.subsample(key, x, num_points=2.0)": "num_points is 2.0; a whole",
  "g.subsample(key, x, num_manifolds=2.0)": "num_manifolds is 2.0; a whole",
  "g.shuffled_null(key, x, num_samples=2.0)": "num_samples is 2.0; a whole",
  "g.project_points(key, x, 2.5)": "num_features is 2.5; a whole",
  "g.manifolds(x[0], [0, 1] * 5, per_class=2.0, key=key)": "per_class is 2.0",
  "g.manifolds(x[0], [0, 1] * 5, per_class=True, key=key)": "per_class is True",
  "g.manifolds(x[0], None, key=key)": r"labels (); [n, ...]",
  "g.manifolds(x[0], {1, 2}, key=key)": r"labels (); [n, ...]",
  "g.manifolds(x[0], (i for i in 'ab'), key=key)": r"labels (); [n, ...]",
  "g.manifolds(x[0], [[1], [1, 2]], key=key)": "given, which is not an array",
  "g.manifold_geometry(x, key)": "The key is float64 of shape (5, 10, 20); one",
  "g.manifold_geometry(key, key)": "key was given where an array was expected",
  "g.manifold_geometry(0, x)": "The key is int; one key was expected",
  "g.glue(jax.random.split(key), x)": "shape (2,); one key was expected",
  "g.manifold_geometry(key, x, kappa='0.5')": "kappa is '0.5'; real numbers",
  "g.manifold_geometry(key, x, kappa=1 + 0j)": "kappa is (1+0j); real numbers",
  "g.manifold_geometry(key, x, kappa=True)": "kappa is True; real numbers",
  "g.manifold_geometry(key, x, relative_error='a')": "relative_error is 'a'; a",
  "g.manifold_geometry(key, x, relative_error=[.1])": "relative_error is [0.1]",
  "g.manifold_geometry(key, x, relative_error=True)": "relative_error is True",
  "g.manifold_geometry(key, x, centers=[1])": "centers=[1] is not known",
  "g.manifold_geometry(key, x, centers=jnp.int32(1))": "is not known; use",
  "g.manifold_geometry(key, x, num_probes=True)": "num_probes is True; a whole",
  "g.manifold_geometry(key, x, padded='no')": "padded is 'no'; True or False",
  "g.shuffled_null(key, x, batch_size=0)": "batch_size is 0; a whole number",
  "g.shuffled_null(key, x, batch_size=-1)": "batch_size is -1; a whole number",
  "g.subsample(key, x, batch_size=1.5)": "batch_size is 1.5; a whole number",
  "g.subsample(key, x, batch_size='a')": "batch_size is 'a'; a whole number",
  "g.subsample(key, x, num_probes=9.0)": "num_probes is 9.0; a whole",
  "g.subsample(key, x, centers=1.0)": "centers=1.0 is not known",
  "g.detectable_difference(1.0, level='a')": "level is 'a'; a real number",
  "jax.jit(lambda p: g.detectable_difference(1.0, power=p))(0.8)": "traces",
  "jax.jit(lambda f: g.explained_variance_dimension([1.0], f))(1)": "traces",
  "g.simulated_capacity(key, x, num_draws=1.5)": "num_draws is 1.5; a whole",
  "g.simulated_capacity(key, x, bias='no')": "bias is 'no'; True or False",
  "g.is_separable(x[0], [None] * 10)": "labels have the values [None]",
  "g.point_products(x, block_size='a')": "block_size is 'a'; a whole number",
  "g.project_points(key, np.zeros((3, 0)), 2)": "at least one feature",
  "g.sum_statistics([x])": "ndarray was given; Gram statistics were expected",
  "g.within_spectrum(x)": "ndarray was given; Gram statistics were expected",
  "g.statistics_by_manifold(x)": "ndarray was given; a function that returns",
  "g.statistics_by_manifold(lambda: None)": "call for the blocks gave NoneType",
  "g.draw_labels(key, 'balanced', 0, 4)": "num_labellings is 0; a whole",
  "g.draw_labels(key, [1, -1], 3, 2, tilt='a')": "tilt is 'a'; a real number",
  "g.draw_labels(key, [True, True], 3, 2)": "labels has the values [True]",
  "g.center_correlation(x)": "shape (5, 10, 20); their Gram matrix [P, P]",
  "g.shared_directions(key, np.eye(5) * np.nan)": "centres are not finite",
  "g.shared_directions(key, np.eye(5), num_starts=0)": "num_starts is 0",
  "g.check_centers({}, 5)": "centers={} is not known",
  "g.participation_ratio([])": "eigenvalues have shape (0,); at least one",
  "g.participation_ratio([[1], [1, 2]])": "given, which is not an array",
  "g.explained_variance_dimension([1.0], 'a')": "fraction is 'a'; a real",
  "g.point_capacity('a')": "argument is 'a'; real numbers were expected",
  "g.ellipsoid_geometry(key, [1.0], num_probes=0)": "num_probes is 0; a whole",
  "g.ellipsoid_geometry(key, [1.0], kappa=[0])": "kappa is [0]; a real number",
  "g.independent_centers(key, 0, 5)": "num_manifolds is 0; a whole number",
  # Under jit.
  "jax.jit(lambda x: g.simulated_capacity(key, x))(x)": "works on the host",
  "jax.jit(lambda x: g.is_separable(x[0], [0, 1] * 5))(x)": "works on the host",
  "jax.jit(lambda k: g.manifolds(x[0], [0, 1] * 5, key=k))(key)": (
    "manifolds by labels and key works on the host"
  ),
  "jax.jit(lambda m: g.subsample(key, x, mask=m))(x[..., 0] < 9)": (
    "works on the host"
  ),
  "jax.jit(lambda m: g.glue(key, jnp.asarray(x[..., :1]), mask=m,"
  " num_probes=1))(x[..., 0] < 9)": "num_probes is 1; a whole number",
  "jax.jit(lambda x: g.manifold_geometry(key, x, relative_error=.1))(x)": (
    "search for relative_error works on the host"
  ),
}


def test_arguments_of_the_wrong_type_are_named():
  script = f"""
    import jax, jax.numpy as jnp, numpy as np
    from geomem import geometry as g

    key = jax.random.key(0)
    x = np.random.default_rng(0).normal(size=(5, 10, 20))
    for case in {list(WRONG)!r}:
      try:
        eval(case)
        print("Nothing was refused.")
      except ValueError as error:
        print(" ".join(str(error).split()))
      except Exception as error:
        print(type(error).__name__)
  """
  result = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  said = result.stdout.splitlines()
  assert len(said) == len(WRONG), result.stdout + result.stderr
  for sentence, (case, expected) in zip(said, WRONG.items(), strict=True):
    assert expected in sentence, case


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
      if spec[0]:  # parallel_test measures statistics that devices replicate.
        found, alone = (geometry.manifold_geometry(
          jax.random.key(0), x, num_probes=16, centers=None)
          for x in (stats, whole))
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
