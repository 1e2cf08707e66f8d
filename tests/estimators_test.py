"""Estimates from few probes: no worse than plain ones, and their errors so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import geometry
from geomem.geometry import mean_field
from geomem.geometry.estimators import control_variates, mean_over_probes
from tests.fakes import also_long

NUM_PROBES = 48_000
MARGINS = (-1.0, 0.5)
# As one program each: their operations one by one would be many.
controls_of = jax.jit(control_variates)
mean_of = jax.jit(mean_over_probes)
means_of_groups = jax.jit(jax.vmap(mean_over_probes))


def frames():
  """Points of two kinds with the last coordinate 1: a ball, and ReLU units."""
  rng = np.random.default_rng(0)
  ball = rng.normal(size=(30, 60)) / np.sqrt(60)
  units = np.maximum(rng.normal(size=(30, 12)), 0)
  units = 2 * (units - units.mean(axis=0)) / np.sqrt(12)
  found = {}
  for name, points in (("ball", ball), ("units", units)):
    q, r = np.linalg.qr(points.T)
    del q
    found[name] = np.hstack([r.T, np.ones((30, 1))])
  return found


@pytest.fixture(scope="module")
def probed():
  """Frame, probes and anchors of many probes, by kind and margin."""
  found = {}
  with jax.enable_x64(True):
    for name, frame in frames().items():
      rng = np.random.default_rng(1)
      probes = jnp.asarray(rng.normal(size=(NUM_PROBES, frame.shape[1])))
      frame = jnp.asarray(frame)
      for kappa in MARGINS:
        anchors = geometry.anchors(frame, probes, kappa)
        assert np.asarray(anchors.converged).all()
        found[name, kappa] = frame, probes, anchors
  return found


def estimates(probed, case, count, reduce_variance):
  """Estimates of all groups of `count` probes, and their standard errors."""
  frame, probes, anchors = probed[case]
  groups = jax.tree.map(
    lambda x: x.reshape(-1, count, *x.shape[1:]), (probes, anchors)
  )
  with jax.enable_x64(True):
    found = of_groups(frame, *groups, case[1], reduce_variance)
    return {name: np.asarray(x) for name, x in found.items()}


@functools.partial(jax.jit, static_argnums=4)
def of_groups(frame, probes, anchors, kappa, reduce_variance):
  rank = jnp.float64(frame.shape[1] - 1)

  def of_group(probes, found):
    got = mean_field._estimates(
      frame, probes, rank, found, kappa, reduce_variance
    )
    got["inverse"] = 1 / got["capacity"]
    got["inverse_stderr"] = got["capacity_stderr"] / got["capacity"] ** 2
    return got

  return jax.vmap(of_group)(probes, anchors)


NAMES = ("inverse", "radius", "dimension")


@pytest.mark.parametrize(
  "count",
  [48, *also_long(16, 32, 100, 300)],
)
def test_control_variates_are_never_worse(probed, count):
  """But for what the spreads of some hundred groups are known by."""
  groups = NUM_PROBES // count
  # With fewer than 48 probes no controls are used at all.
  allowed = 1.05 + (2 / groups) ** 0.5 if count >= 48 else 1 + 1e-12
  for case in probed:
    plain = estimates(probed, case, count, False)
    reduced = estimates(probed, case, count, True)
    for name in NAMES:
      ratio = reduced[name].std() / plain[name].std()
      assert ratio < allowed, (case, name, ratio)
    assert (reduced["capacity"] > 0).all()


def test_they_pay_where_there_are_many_probes(probed):
  for kappa in MARGINS:
    case = ("ball", kappa)
    plain, reduced = (
      estimates(probed, case, 300, reduce)["inverse"].std()
      for reduce in (False, True)
    )
    assert reduced < 0.5 * plain


@pytest.mark.parametrize(
  "count",
  [48, 300, *also_long(16, 100)],
)
def test_error_bars_are_what_estimates_spread_by(probed, count):
  """Within a quarter from 48 probes on; with fewer they are vague."""
  allowed = 1.25 if count >= 48 else 1.45
  for case in probed:
    found = estimates(probed, case, count, True)
    for name in NAMES:
      errors = np.sqrt((found[f"{name}_stderr"] ** 2).mean())
      ratio = found[name].std() / errors
      assert ratio < allowed, (case, name, ratio)


@pytest.mark.parametrize(
  "count",
  [4, 48, *also_long(16, 300)],
)
def test_few_probes_do_not_bias(probed, count):
  """The mean square radius and the dimension, against all probes at once."""
  for case in probed:
    found = estimates(probed, case, count, False)
    whole = estimates(probed, case, NUM_PROBES, False)
    for name, power in (("inverse", 1), ("radius", 2), ("dimension", 1)):
      values = found[name] ** power
      error = values.std() / np.sqrt(len(values))
      expected = float(whole[name][0]) ** power
      # At most 3 % is what the floor at 0 of the dimension adds.
      assert abs(values.mean() - expected) < 4 * error + 0.003 * expected, (
        case,
        name,
      )


def test_one_probe_has_no_error_bar(probed):
  found = estimates(probed, ("ball", 0.5), 1, True)
  for name in ("inverse", "radius", "dimension"):
    assert np.isnan(found[f"{name}_stderr"]).all()
  assert np.isfinite(found["capacity"][found["inverse"] > 0]).all()


def test_controls_have_mean_zero_at_every_margin():
  """Their means are what makes them controls."""
  rng = np.random.default_rng(0)
  frame = frames()["units"]
  probes = rng.normal(size=(400_000, frame.shape[1]))
  with jax.enable_x64(True):
    for kappa in (*MARGINS, 0.0):
      x = np.asarray(
        controls_of(frame, probes, jnp.float64(frame.shape[1] - 1), kappa)
      )
      error = x.std(axis=0) / np.sqrt(len(x))
      assert (np.abs(x.mean(axis=0)) < 4.5 * error).all()


def test_what_goes_along_with_nothing_is_left_alone():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, 2)).astype(np.float32)
  controls = rng.normal(size=(64, 9)).astype(np.float32)
  found, plain = mean_of(x, controls), mean_of(x)
  assert (np.abs(found[0] - plain[0]) < plain[1]).all()
  assert (np.asarray(found[1]) <= np.asarray(plain[1])).all()


@pytest.mark.parametrize("count", [48, 100])
def test_intervals_hold_where_controls_explain_nearly_all(count):
  """Of segments, whose mean force is known, as others' intervals do."""
  R, groups = 1.3, 2000
  frame = jnp.array([[R, 1], [-R, 1]])
  probes = jax.random.normal(jax.random.key(0), (groups * count, 2))
  force = geometry.anchors(frame, probes).force
  controls = controls_of(frame, probes, jnp.float32(1), 0.0)
  mean, error = means_of_groups(
    force.reshape(groups, count, 1), controls.reshape(groups, count, -1)
  )
  exact = 0.5 + 2 / np.pi * np.arctan(R)
  plain = np.std(force) / np.sqrt(count)
  assert np.std(mean) < plain / 4
  held = np.abs(mean - exact) < 1.96 * error
  assert 0.915 < held.mean() < 0.97
