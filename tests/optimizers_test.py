"""Optimizers and schedules, step by step against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import training
from geomem.training.optimizers import make_optimizer, make_schedule

STEPS = 40


def rates(schedule: str) -> list[float]:
  config = training.TrainingConfig(schedule=schedule, learning_rate=0.2)
  found = make_schedule(config, STEPS)
  return [float(found(step)) for step in range(STEPS + 1)]


def test_a_constant_rate_stays():
  assert rates("constant") == pytest.approx([0.2] * (STEPS + 1))


def test_steps_fall_to_a_tenth_after_one_half_and_after_three_quarters():
  expected = [0.2] * 20 + [0.02] * 10 + [0.002] * 11
  # Optax counts the step at which the rate changes to the old one.
  found = rates("step")
  changed = [i for i in range(STEPS) if found[i + 1] != found[i]]
  assert changed in ([19, 29], [20, 30])
  assert {round(x, 6) for x in found} == {round(x, 6) for x in expected}
  assert found[0] > found[25] > found[-1]


@pytest.mark.parametrize("num_steps", range(1, 13))
def test_steps_fall_in_trainings_of_any_length(num_steps):
  """A step is late if that share of all steps is over when it begins."""
  config = training.TrainingConfig(schedule="step", learning_rate=1.0)
  found = make_schedule(config, num_steps)
  for step in range(num_steps):
    over = step / num_steps
    expected = 0.1 ** ((over >= 1 / 2) + (over >= 3 / 4))
    assert float(found(step)) == pytest.approx(expected), step


def test_the_cosine_falls_from_the_peak_to_zero():
  expected = 0.1 * (1 + np.cos(np.pi * np.arange(STEPS + 1) / STEPS))
  np.testing.assert_allclose(rates("cosine"), expected, atol=1e-7)


def train(gradients, **options) -> list[float]:
  """The path of a weight that starts at 1, under given gradients."""
  options = {"learning_rate": 0.1, "momentum": 0.5, "epochs": 1} | options
  config = training.TrainingConfig(**options)
  optimizer = make_optimizer(config, len(gradients))
  weight, path = jnp.float32(1), []
  state = optimizer.init(weight)
  for gradient in gradients:
    update, state = optimizer.update(jnp.float32(gradient), state, weight)
    weight = weight + update
    path.append(float(weight))
  return path


def test_sgd_has_momentum():
  expected, weight, velocity = [], 1.0, 0.0
  for gradient in (1.0, -2.0, 0.5):
    velocity = 0.5 * velocity + gradient
    weight -= 0.1 * velocity
    expected.append(weight)
  assert train([1.0, -2.0, 0.5]) == pytest.approx(expected)


def test_weight_decay_is_a_part_of_the_gradient():
  expected, weight, velocity = [], 1.0, 0.0
  for gradient in (1.0, -2.0, 0.5):
    velocity = 0.5 * velocity + gradient + 0.3 * weight
    weight -= 0.1 * velocity
    expected.append(weight)
  assert train([1.0, -2.0, 0.5], weight_decay=0.3) == pytest.approx(expected)


def test_adam_is_that_of_its_paper():
  expected, weight, m, v = [], 1.0, 0.0, 0.0
  for step, gradient in enumerate((1.0, -2.0, 0.5), start=1):
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    mean, square = m / (1 - 0.9**step), v / (1 - 0.999**step)
    weight -= 0.1 * mean / (np.sqrt(square) + 1e-8)
    expected.append(weight)
  assert train([1.0, -2.0, 0.5], optimizer="adam") == pytest.approx(
    expected, rel=1e-5
  )


def test_the_schedule_is_that_of_the_whole_training():
  """Two epochs of two steps: the rate is a tenth in the last ones."""
  options = {"schedule": "cosine", "momentum": 0.0, "epochs": 2}
  config = training.TrainingConfig(learning_rate=0.1, **options)
  optimizer = make_optimizer(config, 2)
  state, updates = optimizer.init(jnp.zeros(())), []
  for _ in range(4):
    update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
    updates.append(-float(update))
  expected = 0.05 * (1 + np.cos(np.pi * np.arange(4) / 4))
  np.testing.assert_allclose(updates, expected, rtol=1e-5)


def test_recipes_that_cannot_be_are_refused():
  for options in ({"schedule": "linear"}, {"optimizer": "lion"}):
    with pytest.raises(ValueError, match="is not known"):
      training.TrainingConfig(**options)
  assert jax.tree.leaves(train([1.0])) == pytest.approx([0.9])


@pytest.mark.parametrize(
  "option",
  [
    {"batch_size": 2.5},
    {"epochs": 1.5},
    {"epochs": True},
    {"crop": 1.5},
    {"learning_rate": "a"},
    {"learning_rate": True},
    {"flip": 1},
    {"optimizer": None},
  ],
)
def test_options_have_their_types(option):
  ((name, value),) = option.items()
  with pytest.raises(ValueError, match=f"{name} is {value!r}; .* was expected"):
    checked(**option)


def test_numbers_of_numpy_are_options():
  checked(batch_size=np.int64(8), learning_rate=np.float32(0.5), momentum=0)


def checked(**options):
  """Runs the config's own checks, which the types of the tests come before."""
  config = training.TrainingConfig()
  for name, value in options.items():
    object.__setattr__(config, name, value)
  config.__post_init__()
