"""Whatever points come in: unit, offset, dtype, order, mask, list and blocks.

One grid: every public function that takes points, against every change of the
points that must not change its answer. The right answers are those of plain
NumPy and SciPy in float64.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import optimize

from geomem import geometry

KEY = jax.random.key(0)
P, M, N = 6, 5, 30
MASK = np.ones((P, M), bool)
MASK[0, 0] = MASK[2, 3:] = False


def integers(seed=0):
  """Points that int8 holds, with centres apart."""
  rng = np.random.default_rng(seed)
  x = 20 * rng.normal(size=(P, M, N)) + 25 * rng.normal(size=(P, 1, N))
  return np.clip(np.round(x), -100, 100)


POINTS = integers()
measure = functools.partial(
  geometry.manifold_geometry, KEY, num_probes=64, centers=None
)


def statistics(points, **kwargs):
  stats = geometry.gram_statistics(points, **kwargs)
  return np.asarray(stats.within) / np.trace(stats.centers)


def streamed(points, **kwargs):
  assert not kwargs
  stats = geometry.statistics_by_manifold(
    lambda: (points[i : i + 2] for i in range(0, P, 2))
  )
  return np.asarray(stats.within) / np.trace(stats.centers)


def capacity(points, **kwargs):
  return np.asarray(measure(points, **kwargs).capacity)


def with_directions(points, **kwargs):
  found = geometry.manifold_geometry(KEY, points, num_probes=64, **kwargs)
  return np.asarray(found.capacity)


def spectrum(points, **kwargs):
  values = np.asarray(geometry.spectrum(points, **kwargs))
  return values[:20] / values.max()


def subsamples(points, **kwargs):
  found = geometry.subsample(
    KEY,
    points,
    num_samples=2,
    num_points=3,
    num_probes=16,
    centers=None,
    **kwargs,
  )
  return np.asarray(found.samples.capacity)


def null(points, **kwargs):
  found = geometry.shuffled_null(
    KEY, points, num_samples=2, num_probes=16, centers=None, **kwargs
  )
  return np.asarray(found.samples.capacity)


FUNCTIONS = (
  statistics,
  streamed,
  capacity,
  with_directions,
  spectrum,
  subsamples,
  null,
)
FLOATS = {
  "float16": np.float16,
  "bfloat16": ml_dtypes.bfloat16,
  "float32": np.float32,
  "float64": np.float64,
}
SIGNED = {f"int{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)}
UNSIGNED = {f"uint{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)}


def device(points):
  return jnp.asarray(points, jnp.float32)


CHANGES = {
  **{
    f"times {unit:g}": lambda x, unit=unit: x * unit
    for unit in (1e-200, 1e-30, 1e-19, 1e-10, 1e10, 1e19, 1e30, 1e200)
  },
  **{
    f"on the device times {unit:g}": lambda x, unit=unit: (
      device(x) * np.float32(unit)
    )
    for unit in (1e-30, 1e-19, 1e19, 1e30)
  },
  **{f"plus {c:g}": lambda x, c=c: x + c for c in (1e3, -1e6, 1e9)},
  **{
    f"in {name}": lambda x, dtype=dtype: x.astype(dtype)
    for name, dtype in (FLOATS | SIGNED).items()
  },
  **{
    f"in {name}": lambda x, dtype=dtype: (x + 100).astype(dtype)
    for name, dtype in UNSIGNED.items()
  },
  **{
    f"on the device in {name}": lambda x, dtype=dtype: jnp.asarray(
      (x + 100).astype(dtype)
    )
    for name, dtype in (UNSIGNED | FLOATS).items()
    if name not in ("uint64", "float64")
  },
  "int32 near its end": lambda x: (x + 2**31 - 200).astype(np.int32),
  "int32 near its end on the device": lambda x: jnp.asarray(
    (x + 2**31 - 200).astype(np.int32)
  ),
  "int32 from end to end": lambda x: (x.astype(np.int64) * 2**24).astype(
    np.int32
  ),
  "int64 times 1e9": lambda x: x.astype(np.int64) * 10**9,
  "int64 near its end": lambda x: x.astype(np.int64) + (2**63 - 200),
  "uint64 near its end": lambda x: (
    (x + 100).astype(np.uint64) + np.uint64(2**64 - 1000)
  ),
  "features reversed": lambda x: x[..., ::-1],
  "as a list": list,
}
# Eigenvalues have a unit: their square must fit.
BEYOND_FLOAT32 = ("1e-200", "1e-30", "1e+19", "1e+30", "1e+200")


@functools.cache
def expected(function):
  return function(POINTS)


# Points come to both as they come to the statistics, which have every change.
FEW = (
  "times 1e-200",
  "times 1e+30",
  "plus -1e+06",
  "in bfloat16",
  "on the device in uint8",
  "int64 near its end",
  "as a list",
)
LONG = [
  (function, change)
  for function in (subsamples, null)
  for change in CHANGES
  if change not in FEW
]


@pytest.mark.parametrize(
  ("function", "change"),
  [
    pytest.param(
      *case,
      id=f"{case[0].__name__}-{case[1]}",
      marks=[pytest.mark.long] if case in LONG else [],
    )
    for case in itertools.product(FUNCTIONS, CHANGES)
    # Blocks are lists of their own.
    if case != (streamed, "as a list")
  ],
)
def test_what_must_not_matter_does_not(function, change):
  changed = CHANGES[change](POINTS)
  if function is spectrum and change.rsplit(maxsplit=1)[-1] in BEYOND_FLOAT32:
    with pytest.raises(ValueError, match="divide the points"):
      function(changed)
    return
  np.testing.assert_allclose(
    function(changed), expected(function), rtol=5e-3, atol=1e-6
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_expected_values_are_right(dtype):
  """By NumPy and NNLS: Gram matrices, spectrum, and capacity."""
  x = POINTS - POINTS.mean(axis=(0, 1))
  centers = x.mean(axis=1)
  inside = x - centers[:, None]
  size = (centers**2).sum()
  within = inside @ inside.swapaxes(1, 2) / size
  with jax.enable_x64(dtype == np.float64):
    points = POINTS.astype(dtype)
    np.testing.assert_allclose(statistics(points), within, atol=1e-5)
    np.testing.assert_allclose(streamed(points), within, atol=1e-5)
    values = np.linalg.svd(x.reshape(-1, N), compute_uv=False)[:20] ** 2
    np.testing.assert_allclose(
      spectrum(points), values / values.max(), atol=1e-5
    )
    found = measure(points, num_probes=1000)
  rng = np.random.default_rng(0)
  for i in range(P):
    S = np.hstack([inside[i] / np.linalg.norm(centers[i]), np.ones((M, 1))])
    force = [
      np.sum((optimize.nnls(S.T, -t)[0] @ S) ** 2)
      for t in rng.normal(size=(2000, N + 1))
    ]
    error = np.std(force) / np.sqrt(2000)
    assert abs(1 / float(found.capacity[i]) - np.mean(force)) < 4 * error


@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e36, -1e36, 1e20, 0.0])
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
  "function",
  [f for f in FUNCTIONS if f is not streamed],
  ids=lambda f: f.__name__,
)
def test_what_is_not_there_is_never_looked_at(function, on_device, filler):
  filled = np.where(MASK[..., None], POINTS, filler)
  mean = POINTS.mean()
  plain = function(np.where(MASK[..., None], POINTS, mean), mask=MASK)
  filled = device(filled) if on_device else filled
  np.testing.assert_allclose(
    function(filled, mask=MASK), plain, rtol=1e-3, atol=1e-6
  )


def test_fillers_reach_no_derivative():
  filled = device(np.where(MASK[..., None], POINTS, np.nan))

  @jax.jit
  def total(x):
    stats = geometry.gram_statistics(x, mask=jnp.asarray(MASK))
    return measure(stats, num_probes=16).mean_capacity

  gradient = np.asarray(jax.grad(total)(filled))
  assert np.isfinite(gradient).all()
  assert (gradient[~MASK] == 0).all()
  assert np.abs(gradient[MASK]).max() > 0


def unequal():
  return [x[m] for x, m in zip(POINTS, MASK, strict=True)]


@pytest.mark.parametrize(
  "make",
  [
    unequal,
    lambda: [x.astype(np.int8) for x in unequal()],
    lambda: [x.astype(ml_dtypes.bfloat16) for x in unequal()],
    lambda: [device(x) for x in unequal()],
    lambda: [np.ma.masked_array(x) for x in unequal()],
    lambda: [
      np.ma.masked_array(
        np.where(m[:, None], x, 1e30), np.broadcast_to(~m[:, None], x.shape)
      )
      for x, m in zip(POINTS, MASK, strict=True)
    ],
    lambda: np.ma.masked_array(
      POINTS, np.broadcast_to(~MASK[..., None], POINTS.shape)
    ),
  ],
)
def test_lists_and_masked_arrays_are_what_they_show(make):
  """Sizes of what is there do not depend on how it is given."""
  made = make()
  stats = geometry.gram_statistics(made)
  plain = geometry.gram_statistics(POINTS, mask=MASK)
  np.testing.assert_allclose(stats.centers, plain.centers, rtol=1e-4)
  traces = [jnp.trace(s.within, axis1=1, axis2=2) for s in (stats, plain)]
  np.testing.assert_allclose(*traces, rtol=1e-4)
  assert stats.mask.sum() == MASK.sum()
  for function in (spectrum, capacity, subsamples, null):
    assert np.isfinite(function(made)).all()
  np.testing.assert_allclose(spectrum(made), spectrum(POINTS, mask=MASK), 1e-3)
  one, other = (
    geometry.simulated_capacity(KEY, x, num_draws=30, **kwargs)
    for x, kwargs in ((made, {}), (POINTS, {"mask": MASK}))
  )
  assert one.capacity == pytest.approx(other.capacity, rel=0.2)


@pytest.mark.parametrize("size", [1, 7, 29, 30, 100])
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e25])
def test_blocks_of_features_add_up_in_any_unit(size, unit):
  """Also where blocks are of very different size."""
  points = device(POINTS * unit)
  points = points.at[..., :5].multiply(1e-12)
  whole = statistics(points)
  np.testing.assert_allclose(
    statistics(points, block_size=size), whole, rtol=1e-3, atol=1e-6
  )


def test_separability_knows_no_unit_and_all_labels():
  rng = np.random.default_rng(0)
  for trial in range(40):
    points = rng.integers(-5, 6, size=(9, 4))
    side = rng.random(9) < 0.5
    answer = geometry.is_separable(points, side)
    for labels in (np.where(side, 1, -1), side.astype(int), list(side)):
      assert geometry.is_separable(points, labels) == answer
    for unit in (1e-200, 1e-30, 1e30, 1e200):
      assert geometry.is_separable(points * unit, side) == answer
      biased = geometry.is_separable(points * unit, side, bias=True)
      assert biased == geometry.is_separable(points, side, bias=True)
    assert geometry.is_separable(points.astype(np.int8), side) == answer, trial
  with pytest.raises(ValueError, match=r"shape \(4,\); \(9,\) was expected"):
    geometry.is_separable(points, side[:4])
  with pytest.raises(ValueError, match="the values \\[0, 2\\]"):
    geometry.is_separable(points, 2 * side.astype(int))


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.float64])
def test_projections_sum_in_single_precision(dtype):
  """Half precision overflows, or gives zeros, at N = 70,000."""
  rng = np.random.default_rng(0)
  points = np.round(10 * rng.normal(size=(3, 70_000))).astype(dtype)
  found = geometry.project_points(KEY, points, 20)
  plain = geometry.project_points(KEY, points.astype(np.float32), 20)
  np.testing.assert_allclose(found, plain, rtol=1e-3, atol=1e-3)
  assert np.abs(found).max() > 1


@pytest.mark.parametrize(
  ("second", "what"),
  [
    (lambda blocks: [], "there are 0 manifolds, not 6"),
    (lambda blocks: blocks[:2], "there are 4 manifolds, not 6"),
    (lambda blocks: [*blocks, blocks[0]], "a block of 2 manifolds"),
    (lambda blocks: [np.concatenate(blocks)], "a block of 6 manifolds"),
    (lambda blocks: blocks[::-1], "the points differ"),
    (lambda blocks: [b + 50 for b in blocks], "the points differ"),
  ],
)
def test_a_second_pass_that_differs_is_named(second, what):
  blocks = [POINTS[i : i + 2] for i in range(0, P, 2)]
  passes = iter([blocks, second(blocks)])
  with pytest.raises(ValueError, match=what):
    geometry.statistics_by_manifold(lambda: next(passes))


def test_wrong_points_are_named():
  hidden = np.ma.masked_array(POINTS, np.zeros(POINTS.shape, bool))
  hidden[0, 0, 0] = np.ma.masked
  with pytest.raises(ValueError, match="hides some features"):
    geometry.gram_statistics(hidden)
  with pytest.raises(ValueError, match=r"look like \[N, M_i\]"):
    geometry.gram_statistics(
      [x[m].T for x, m in zip(POINTS, MASK, strict=True)]
    )
  with pytest.warns(UserWarning, match="taken as 30 points in 5 features"):
    geometry.gram_statistics([x.T for x in POINTS])
  with pytest.raises(ValueError, match="real numbers"):
    geometry.gram_statistics(POINTS + 1j)
  for function in (spectrum, subsamples, null):
    with pytest.raises(ValueError, match="not finite"):
      function(np.where(MASK[..., None], POINTS, np.nan))
