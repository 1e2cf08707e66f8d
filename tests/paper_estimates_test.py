"""Estimates of the paper's stages: counted work, calibration, rehearsal."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

from geomem import models, shares, studies, training
from geomem.studies import paper
from geomem.studies.paper import calibration, estimates, work
from geomem.studies.paper.work import Work
from tests.fakes import SMALL_RUN

# Sizes, which a rehearsal may change.
SIZES = {
  *("num_classes", "examples_per_class", "epochs", "width", "num_seeds"),
  *("manifold_points", "num_probes", "num_draws", "num_shuffles", "draws"),
}
PRICES = Work(0.01, 1e-4, 0.02, 0.1, 0.03, 1.0, 5.0, 0.5, 0.0)


def test_the_rehearsal_differs_from_the_paper_in_sizes_only():
  whole, few = (paper.SCALES[name].fields for name in ("paper", "rehearsal"))
  defaults = {
    "gradients": studies.GradientConfig(),
    "capacity": studies.CapacityConfig(),
    "rewind": studies.RewindConfig(),
  }
  for name, default in defaults.items():
    configs = [
      vars(dataclasses.replace(default, **fields.get(name, {})))
      for fields in (whole, few)
    ]
    assert {k for k in configs[0] if configs[0][k] != configs[1][k]} <= SIZES
  for name in ("memorization", "model_size"):
    configs = [
      studies.make_config(name, **fields[name]).flat() | {"width": None}
      for fields in (whole, few)
    ]
    changed = {k for k in configs[0] if configs[0][k] != configs[1][k]}
    assert changed <= SIZES
    assert changed  # It is smaller.


@pytest.mark.parametrize(
  ("model", "width", "image_shape"),
  [
    ("convnet", 4, (8, 8, 1)),
    ("mlp1", 16, (8, 8, 1)),
  ],
)
def test_operations_are_those_that_the_compiler_counts(
  model, width, image_shape
):
  network = models.build(
    model, num_classes=10, image_shape=image_shape, width=width
  )
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  forward = jax.jit(lambda state, x: network.apply(state, x).logits)
  lowered = forward.lower(network.abstract_state, image)
  counted = lowered.cost_analysis()["flops"]
  # It leaves out products with the padding, and we what is not a product.
  assert work.operations(network) == pytest.approx(counted, rel=0.3)


@pytest.fixture(scope="module")
def study():
  return studies.Memorization(studies.make_config(**SMALL_RUN))


def test_the_work_of_a_run_is_counted(study):
  config = study.config
  whole = work.of_training(study)
  seeds, epochs = config.training.num_seeds, config.training.epochs
  saved = len(training.checkpoint_epochs(epochs))
  train, test = (
    len(s.labels) for s in (study.experiment.train, study.experiment.test)
  )
  assert whole.steps == epochs * (train // config.training.batch_size)
  layers = len(study.experiment.network.layer_names)
  assert whole.sets == seeds * saved * layers * len(study.seeds[0].manifolds)
  points = sum(x.size for x in study.seeds[0].manifolds.values())
  assert whole.images == seeds * saved * (train + test + points)


def test_what_is_done_is_not_counted_again(study):
  numbers = [seed.number for seed in study.seeds]
  scores = [
    {"stage": "scores", "seed": seed, "epoch": epoch}
    for seed in numbers
    for epoch in (0, 1)
  ]
  whole = work.of_training(study)
  rest = work.of_training(study, scores)
  epochs = study.config.training.epochs
  assert rest.steps == pytest.approx(whole.steps * (epochs - 1) / epochs)
  measured = [{"stage": "geometry", "seed": numbers[0], "epoch": 0}]
  less = work.of_training(study, [*scores, *measured])
  networks = work.Sizes(study).saved * len(numbers)
  assert less.sets == pytest.approx(whole.sets * (networks - 1) / networks)


def test_simulations_search_for_directions_in_half_of_their_sets(study):
  """The theory and each of five shuffles is a measured set without a search."""
  one, five = (
    work.of_simulations(study, studies.CapacityConfig(num_shuffles=n))
    for n in (1, 5)
  )
  solved = (five.sets - one.sets) / 4  # Of one shuffle.
  at_once = shares.entries_at_once()
  searched = one.sets - 2 * solved
  assert searched > 0
  assert one.units == 2 * one.networks * len(study.seeds[0].manifolds)
  # A search and what is without it are a whole set.
  whole = (solved + 2 * searched) / one.units
  assert whole == pytest.approx(at_once)


def estimates_of(path, only=("fig3",)):
  said = []
  small = paper.Scale(
    "for tests",
    {
      "memorization": SMALL_RUN | {"num_seeds": 1},
      "model_size": SMALL_RUN | {"width": (2, 4, 8), "subsets": "test"},
    },
  )
  made = paper.Estimates(paper.choose(only), small, path, None, said.append)
  return made, said


@pytest.fixture
def calls(monkeypatch):
  """The widths that were timed."""
  timed = []

  def calibrate(study, path):
    del path
    timed.append(study.config.model.width)
    return PRICES

  monkeypatch.setattr(estimates, "calibrate", calibrate)
  return timed


def test_a_device_is_timed_once(tmp_path, calls, monkeypatch):
  fig3 = paper.STAGES[0]
  first = estimates_of(tmp_path)[0].of(fig3)
  made, said = estimates_of(tmp_path)
  assert made.of(fig3) == first
  assert len(calls) == 1
  assert not said
  # The directory moves to another machine of the same kind.
  there = estimates.device() | {"boot": "another"}
  monkeypatch.setattr(estimates, "device", lambda: there)
  made, said = estimates_of(tmp_path)
  made.of(fig3)
  assert len(calls) == 2
  assert said[0].startswith("Timing ")
  file = tmp_path / "calibration.json"
  content = json.loads(file.read_text())
  content["run"]["seconds"]["sets"] = None
  for number, damaged in enumerate(("{", "[]", json.dumps(content)), start=3):
    file.write_text(damaged)
    estimates_of(tmp_path)[0].of(fig3)
    assert len(calls) == number


def test_the_sweep_is_timed_when_its_turn_comes(tmp_path, calls):
  only = ("fig3", "fig4ce")
  made, _ = estimates_of(tmp_path, only)
  sweep = paper.choose(["fig4ce"])[0]
  rough = made.of(sweep, exact=False)
  assert rough.is_rough
  assert str(rough).startswith("roughly ")
  assert len(calls) == 1
  assert not made.of(sweep).is_rough
  # The width of about average cost.
  assert calls[1] == 4


def test_an_estimate_says_what_it_is_made_of():
  seconds = Work(steps=72, sets=48, programs=3, solvers=3, figures=1)
  assert str(paper.Estimate(seconds)) == (
    "about 2.1 min: 57% training, 38% geometry"
  )
  gradients = paper.Estimate(Work(steps=60), steps="gradients")
  assert str(gradients) == "about 1.0 min: 100% gradients"
  assert str(paper.Estimate(Work())) == "about 0.0 min"
  assert [paper.duration(x) for x in (1.04, 99, 120, 2880, 60000)] == [
    *("1.0 min", "99.0 min", "2.0 h", "2 days", "42 days")
  ]


def test_calibration_times_every_kind_and_leaves_nothing(tmp_path, study):
  # As a start leaves it that was killed while it timed the disk.
  (tmp_path / ".calibration" / "first" / "0").mkdir(parents=True)
  prices = calibration.calibrate(study, tmp_path)
  for kind, seconds in prices._asdict().items():
    assert math.isfinite(seconds)
    assert seconds > 0 or kind in ("programs", "solvers", "units")
  assert not list(tmp_path.iterdir())
  json.dumps(prices._asdict())
