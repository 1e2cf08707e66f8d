"""A thousand degenerate inputs: solved, or said not to be; no silent NaN."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from scipy import optimize

from geomem import geometry

NUM_POINTS, NUM_FEATURES, NUM_PROBES = 6, 4, 8
EPS = np.finfo(np.float64).eps


def _repeat(points, rng):
  points[1:] = points[rng.integers(len(points), size=len(points) - 1)]


def _collapse(points, rng):
  del rng
  points[:] = points[:1]


def _line_up(points, rng):
  points[:] = points[:1] + rng.normal(size=(len(points), 1)) * points[1:2]


def _pair_up(points, rng):
  points[::2] = points[1::2] + 1e-6 * rng.normal(size=points[::2].shape)


def _flatten(points, rng):
  del rng
  points[:, 1:] = 0


def _vanish(points, rng):
  del rng
  points[:] = 0


def _spread(points, rng):
  points *= 10.0 ** rng.uniform(-4, 4)


def _stretch(points, rng):
  points *= 10.0 ** rng.uniform(-3, 3, size=points.shape[1])


DEFECTS = (
  _repeat,
  _collapse,
  _line_up,
  _pair_up,
  _flatten,
  _vanish,
  _spread,
  _stretch,
)
defects = st.lists(st.sampled_from(DEFECTS), min_size=1, max_size=3)
kappas = st.sampled_from((-2.0, -0.5, 0.0, 0.5, 3.0, 100.0))
seeds = st.integers(0, 2**31)
many = hypothesis.settings(
  max_examples=500, deadline=None, derandomize=True, database=None
)


@jax.jit
def _anchors(frame, probes, kappa):
  return geometry.anchors(frame, probes, kappa)


@many
@hypothesis.given(seeds, defects, kappas)
def test_single_problems_are_solved_or_say_that_they_are_not(
  seed, defects, kappa
):
  rng = np.random.default_rng(seed)
  points = rng.normal(size=(NUM_POINTS, NUM_FEATURES))
  for defect in defects:
    defect(points, rng)
  frame = np.hstack([points, np.ones((NUM_POINTS, 1))])
  probes = rng.normal(size=(NUM_PROBES, NUM_FEATURES + 1))
  with jax.enable_x64(True):
    found = _anchors(jnp.asarray(frame), jnp.asarray(probes), kappa)
  converged = np.asarray(found.converged)
  for value in (found.force, found.lam, found.anchor):
    assert np.isfinite(np.asarray(value)[converged]).all()
  assert (np.asarray(found.lam)[converged] >= 0).all()
  largest = (frame**2).sum(axis=1).max()
  for t, force, good in zip(probes, found.force, converged, strict=True):
    shifted = t.copy()
    shifted[-1] -= kappa
    lam, _ = optimize.nnls(frame.T, -shifted, maxiter=1000)
    exact = ((lam @ frame) ** 2).sum()
    # An entry of the Gram matrix is known to ε times the largest.
    rounding = 100 * EPS * largest * (1 + lam.sum()) ** 2
    if good:
      assert abs(float(force) - exact) < 1e-8 * (1 + exact) + rounding


def test_nearly_all_of_them_are_solved():
  """Without this, the tests around it could pass by solving nothing."""
  converged = []
  with jax.enable_x64(True):
    for seed in range(200):
      rng = np.random.default_rng(seed)
      points = rng.normal(size=(NUM_POINTS, NUM_FEATURES))
      DEFECTS[seed % len(DEFECTS)](points, rng)
      frame = np.hstack([points, np.ones((NUM_POINTS, 1))])
      probes = rng.normal(size=(NUM_PROBES, NUM_FEATURES + 1))
      found = _anchors(jnp.asarray(frame), jnp.asarray(probes), 0.5)
      converged.append(np.asarray(found.converged))
  assert np.mean(converged) > 0.97


@functools.partial(jax.jit, static_argnames="centers")
def _measure(points, kappa, centers):
  return geometry.manifold_geometry(
    jax.random.key(0),
    geometry.gram_statistics(points),
    kappa=kappa,
    num_probes=32,
    centers=centers,
  )


@many
@hypothesis.given(seeds, defects, kappas, st.sampled_from((None, "low_rank")))
def test_manifolds_are_measured_or_say_that_they_are_not(
  seed, defects, kappa, centers
):
  rng = np.random.default_rng(seed)
  points = rng.normal(size=(4, NUM_POINTS, NUM_FEATURES))
  for defect in defects:
    defect(points[rng.integers(4)], rng)
  found = _measure(jnp.asarray(points, jnp.float32), kappa, centers)
  good = np.asarray(found.converged)
  for name in ("capacity", "radius", "dimension", "radius_stderr"):
    values = np.asarray(getattr(found, name))[good]
    assert not np.isnan(values).any(), name
  assert not np.isnan(np.asarray(found.residual)).any() or not good.all()
