"""The training loop: epochs of compiled steps over on-device data."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from geomem import parallel
from geomem.data import augment, epoch_order, normalize
from geomem.models import Network
from geomem.training.config import TrainingConfig
from geomem.training.optimizers import make_optimizer
from geomem.training.together import Together, make_together
from geomem.training.windows import TrainingData, on_devices, windows

STEPS_BETWEEN_STATES = 1000


class TrainState(NamedTuple):
  """The state that training carries from one step to the next.

  Attributes:
    network: parameters and batch statistics, keyed by layer name.
    optimizer: state of the Optax optimizer.
    epoch: number of completed epochs.
    step: number of completed steps of the next epoch.
  """

  network: dict
  optimizer: optax.OptState
  epoch: int
  step: int = 0


class NonFiniteLossError(FloatingPointError):
  """The loss, or a number of the state, became NaN or infinite."""


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Counts the full batches of one epoch; the remainder is dropped."""
  if num_examples < batch_size:
    raise ValueError(
      f"batch_size {batch_size} is larger than the training set of"
      f" {num_examples} examples; lower --batch_size."
    )
  return num_examples // batch_size


def init_state(key: Key[Array, ""], network: Network, optimizer) -> TrainState:
  """Initializes a network and the state of its optimizer."""
  state = network.init(key)
  parameters, _ = network.split(state)
  return TrainState(state, optimizer.init(parameters), 0)


def make_step(network: Network, config: TrainingConfig, optimizer) -> Callable:
  """Makes one optimization step, augmentation included; a pure function.

  It is `step((network_state, optimizer_state), data, indices, key)`, and
  returns the updated states and the batch's mean cross-entropy before them.
  """

  def loss_of(parameters, statistics, images, labels):
    state = network.merge(parameters, statistics)
    output = network.apply(state, images, train=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      output.logits, labels
    )
    return jnp.mean(losses), output.state

  def step(states, data: TrainingData, indices, key):
    network_state, optimizer_state = states
    images = parallel.share(data.images[indices])
    if config.crop or config.flip:
      images = augment(key, images, crop=config.crop, flip=config.flip)
    images = normalize(images, data.mean, data.std)
    parameters, statistics = network.split(network_state)
    (loss, new_state), gradients = jax.value_and_grad(loss_of, has_aux=True)(
      parameters, statistics, images, data.labels[indices]
    )
    updates, optimizer_state = optimizer.update(
      gradients, optimizer_state, parameters
    )
    _, statistics = network.split(new_state)
    parameters = optax.apply_updates(parameters, updates)
    return (network.merge(parameters, statistics), optimizer_state), loss

  return step


def _check_losses(
  losses: np.ndarray, names: dict[int, str], epoch: int, first: int
) -> None:
  """Raises if a loss of a named network is not finite.

  Losses are `[steps, seeds]`, from the step of number `first` on.
  """
  bad = [
    (step, i) for step, i in np.argwhere(~np.isfinite(losses)) if i in names
  ]
  if bad:
    step, index = bad[0]
    whose = f" of {names[index]}" if losses.shape[1] > 1 else ""
    raise NonFiniteLossError(
      f"The loss{whose} is {losses[step, index]} at step {first + step} of"
      f" epoch {epoch}; lower --learning_rate, or look for non-finite values in"
      " the data."
    )


@jax.jit
def _is_finite(state) -> Bool[Array, ""]:
  leaves = map(jnp.isfinite, jax.tree.leaves(state))
  return jnp.stack([leaf.all() for leaf in leaves]).all()


def _check_states(
  carry, states: Sequence, names: dict[int, str], epoch: int, step: int
) -> None:
  """Raises if a state of a named network is not finite after a step.

  A loss is that before the update: losses do not show what the last one did.
  """
  if _is_finite(carry):
    return
  bad = [name for i, name in names.items() if not _is_finite(states[i][:2])]
  if not bad:
    return
  whose = f" of {bad[0]}" if len(states) > 1 else ""
  raise NonFiniteLossError(
    f"The parameters{whose}, or their optimizer's state, are not finite after"
    f" step {step} of epoch {epoch}; lower --learning_rate."
  )


def _make_plan(num_examples: int, num_steps: int, batch_size: int) -> Callable:
  """Compiles a function that draws the batches and keys of an epoch."""

  def plan(order_key, augment_key, epoch):
    order = epoch_order(jax.random.fold_in(order_key, epoch), num_examples)
    batches = order[: num_steps * batch_size].reshape(num_steps, batch_size)
    key = jax.random.fold_in(augment_key, epoch)
    return batches, jax.random.split(key, num_steps)

  return jax.jit(
    jax.vmap(plan, (0, 0, None), 1), out_shardings=parallel.everywhere()
  )


class SeedStates(Sequence):
  """The states of all seeds after the same step, unpacked on access."""

  def __init__(self, together, carry, num_seeds: int, epoch: int, step: int):
    self.epoch, self.step = epoch, step
    self._together, self._carry, self._num_seeds = together, carry, num_seeds

  def __len__(self) -> int:
    return self._num_seeds

  def __getitem__(self, index: int) -> TrainState:
    if not 0 <= index < self._num_seeds:
      raise IndexError(index)
    pair = self._together.unpack(self._carry, index)
    return TrainState(*pair, self.epoch, self.step)


def _run_epoch(together: Together, carry, data: TrainingData, plan, num_steps):
  """Yields the states and the losses `[steps, seeds]` since the last yield.

  It yields at the end of the epoch and, for streamed data, also every
  `STEPS_BETWEEN_STATES` steps. The plan holds the batches and keys of the steps
  that are left of `num_steps`.
  """
  batches, keys = plan
  losses, count = [], 0
  for window in windows(data, batches, keys, num_steps):
    carry, window_losses = together.epoch(carry, *window)
    losses.append(window_losses)
    if len(losses) > 1:  # Otherwise windows would queue up on the device.
      losses[-2].block_until_ready()
    count += len(window_losses)
    if count == len(batches) or sum(map(len, losses)) >= STEPS_BETWEEN_STATES:
      yield carry, np.concatenate(losses)
      losses = []


def train_seeds(
  keys: Key[Array, " seeds"],
  network: Network,
  data: TrainingData,
  config: TrainingConfig,
  *,
  resume: Callable[[list[TrainState]], list[TrainState]] | None = None,
  needed: Callable[[], dict[int, str]] | None = None,
) -> Iterator[tuple[SeedStates, Float[np.ndarray, " seeds"]]]:
  """Trains one network per key and yields all states after every epoch.

  Streamed sets have long epochs: they also yield every `STEPS_BETWEEN_STATES`
  steps.

  Each network equals the one trained with its key alone, up to rounding, and
  bit for bit where one seed's step is a separate program (see `make_together`).
  The same keys give the same states even if training is interrupted: an epoch's
  order and augmentation depend only on the key and the epoch's number.

  Args:
    keys: one for each network; it determines the initialization and all epochs.
    network: the network.
    data: the training set, with labels `[seeds, n]`.
    config: the recipe.
    resume: takes the initial states and returns the states to resume from, all
      after the same step.
    needed: returns the names of the networks that are still needed, by index:
      those of others may diverge. By default, all are.

  Yields:
    The states, first those to start from and then those after each epoch, and
    the mean losses of the steps since the last yield (NaN at first).

  Raises:
    NonFiniteLossError: a loss or a state of a needed network is not finite;
      names the network and the step.
  """
  num_seeds, num_examples = len(keys), data.images.shape[0]
  num_steps = steps_per_epoch(num_examples, config.batch_size)
  optimizer = make_optimizer(config, num_steps)
  init_keys, *epoch_keys = jax.vmap(
    lambda key: jax.random.split(key, 3), out_axes=1
  )(keys)
  init = jax.jit(
    lambda key: init_state(key, network, optimizer),
    out_shardings=parallel.everywhere(),
  )
  states = [init(key)._replace(epoch=0, step=0) for key in init_keys]
  data = parallel.replicate(data._replace(images=None))._replace(
    images=on_devices(data.images)
  )
  if resume is not None:
    states = resume(states)
  together = make_together(
    make_step(network, config, optimizer), network, num_seeds
  )
  carry = together.pack([state[:2] for state in states])
  start, step = states[0][2:]
  at = functools.partial(SeedStates, together)
  yield at(carry, num_seeds, start, step), np.full(num_seeds, np.nan)
  every = {i: f"network {i}" for i in range(num_seeds)}
  plan = _make_plan(num_examples, num_steps, config.batch_size)
  for epoch in range(start, config.epochs):
    remaining = [x[step:] for x in plan(*epoch_keys, epoch)]
    parts = _run_epoch(together, carry, data, remaining, num_steps)
    for carry, losses in parts:
      names = needed() if needed else every
      _check_losses(losses, names, epoch + 1, step)
      step += len(losses)
      passed, done = divmod(step, num_steps)
      states = at(carry, num_seeds, epoch + passed, done)
      _check_states(carry, states, names, epoch + 1, step - 1)
      yield states, losses.mean(axis=0)
    step = 0


def train(
  key: Key[Array, ""],
  network: Network,
  data: TrainingData,
  config: TrainingConfig,
  *,
  resume: Callable[[TrainState], TrainState] | None = None,
) -> Iterator[tuple[TrainState, float]]:
  """Trains one network: `train_seeds` with one key.

  Args:
    key: determines the initialization and all epochs.
    network: the network.
    data: the training set.
    config: the recipe.
    resume: takes the initial state and returns the state to resume from.

  Yields:
    The state, first the one to start from and then the one after each epoch,
    and the mean loss of the steps since the last yield (NaN at first).

  Raises:
    NonFiniteLossError: as in `train_seeds`.
  """
  stacked = data._replace(labels=data.labels[None])
  resume_all = resume and (lambda states: [resume(states[0])])
  for states, losses in train_seeds(
    key[None], network, stacked, config, resume=resume_all
  ):
    yield states[0], float(losses[0])
