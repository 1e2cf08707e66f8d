"""Optax chains from a training recipe."""

import math

import optax

from geomem.training.config import TrainingConfig


def make_schedule(config: TrainingConfig, num_steps: int) -> optax.Schedule:
  """Makes the schedule of the learning rate over all `num_steps` steps."""
  if config.schedule == "cosine":
    return optax.cosine_decay_schedule(config.learning_rate, num_steps)
  if config.schedule == "step":
    # Rounded up: steps from one half on, and from three quarters on.
    drops = {math.ceil(num_steps * share): 0.1 for share in (0.5, 0.75)}
    return optax.piecewise_constant_schedule(config.learning_rate, drops)
  return optax.constant_schedule(config.learning_rate)


def make_optimizer(
  config: TrainingConfig, steps_per_epoch: int
) -> optax.GradientTransformation:
  """Makes the optimizer; weight decay is an L2 term of the gradient."""
  schedule = make_schedule(config, config.epochs * steps_per_epoch)
  if config.optimizer == "adam":
    rule = optax.adam(schedule)
  else:
    rule = optax.sgd(schedule, momentum=config.momentum)
  if config.weight_decay:
    return optax.chain(optax.add_decayed_weights(config.weight_decay), rule)
  return rule
