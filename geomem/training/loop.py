"""The training loop: epochs of compiled steps over on-device data."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from geomem import parallel
from geomem.data import StreamedImages, augment, epoch_order, normalize
from geomem.models import Network
from geomem.training.config import TrainingConfig
from geomem.training.optimizers import make_optimizer
from geomem.training.together import Together, make_together
from geomem.training.windows import on_devices, windows


class TrainState(NamedTuple):
  """Everything that training carries from one step to the next.

  Attributes:
    network: parameters and batch statistics, keyed by layer name.
    optimizer: Optax's state.
    epoch: epochs done.
  """

  network: dict
  optimizer: optax.OptState
  epoch: int


class NonFiniteLossError(FloatingPointError):
  """The loss became NaN or infinite."""


class TrainingData(NamedTuple):
  """A training set, on the device or with images that are streamed to it.

  Attributes:
    images: `[n, H, W, C]` uint8.
    labels: `[n]` labels to train on; `[seeds, n]` for several networks.
    mean: `[C]` mean of the pixels, in units of 0 to 255.
    std: `[C]` their standard deviation.
  """

  images: UInt8[Array | StreamedImages, "n H W C"]
  labels: Int[Array, "*seeds n"]
  mean: Float[Array, " C"]
  std: Float[Array, " C"]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Full batches in one epoch; the remainder waits for the next shuffle."""
  if num_examples < batch_size:
    raise ValueError(
      f"batch_size {batch_size} is larger than the training set of"
      f" {num_examples} examples; lower --batch_size."
    )
  return num_examples // batch_size


def init_state(key: Key[Array, ""], network: Network, optimizer) -> TrainState:
  """A freshly initialized network with its optimizer's state."""
  state = network.init(key)
  parameters, _ = network.split(state)
  return TrainState(state, optimizer.init(parameters), 0)


def make_step(network: Network, config: TrainingConfig, optimizer) -> Callable:
  """One optimization step as a pure function.

  Args:
    network: the network.
    config: the recipe; its augmentation happens inside the step.
    optimizer: from `make_optimizer`.

  Returns:
    `step((network_state, optimizer_state), data, indices, key)`, which gives
    the next pair of states and the batch's mean cross-entropy before it.
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


def _check_losses(losses: np.ndarray, epoch: int) -> None:
  bad = np.argwhere(~np.isfinite(losses))
  if bad.size:
    step, seed = bad[0]
    whose = f" of network {seed}" if losses.shape[1] > 1 else ""
    raise NonFiniteLossError(
      f"The loss{whose} is {losses[step, seed]} at step {step} of epoch"
      f" {epoch}; lower --learning_rate, or look for non-finite values in the"
      " data."
    )


def _make_plan(num_examples: int, num_steps: int, batch_size: int) -> Callable:
  """`(order_keys, augment_keys, epoch)` to all batches and keys of an epoch."""

  def plan(order_key, augment_key, epoch):
    order = epoch_order(jax.random.fold_in(order_key, epoch), num_examples)
    batches = order[: num_steps * batch_size].reshape(num_steps, batch_size)
    key = jax.random.fold_in(augment_key, epoch)
    return batches, jax.random.split(key, num_steps)

  return jax.jit(
    jax.vmap(plan, (0, 0, None), 1), out_shardings=parallel.everywhere()
  )


class SeedStates(Sequence):
  """The states of all seeds after an epoch, taken apart when asked for."""

  def __init__(self, together: Together, carry, epoch: int, num_seeds: int):
    self.epoch = epoch
    self._together, self._carry, self._num_seeds = together, carry, num_seeds

  def __len__(self) -> int:
    return self._num_seeds

  def __getitem__(self, index: int) -> TrainState:
    if not 0 <= index < self._num_seeds:
      raise IndexError(index)
    pair = self._together.unpack(self._carry, index)
    return TrainState(*pair, self.epoch)


def _run_epoch(together: Together, carry, data: TrainingData, batches, keys):
  """The states after an epoch, and its losses `[steps, seeds]`."""
  losses = []
  for window in windows(data, batches, keys):
    carry, found = together.epoch(carry, *window)
    losses.append(found)
    if len(losses) > 1:  # Or windows would queue up on the device.
      losses[-2].block_until_ready()
  return carry, np.concatenate(losses)


def train_seeds(
  keys: Key[Array, " seeds"],
  network: Network,
  data: TrainingData,
  config: TrainingConfig,
  *,
  resume: Callable[[list[TrainState]], list[TrainState]] | None = None,
) -> Iterator[tuple[SeedStates, Float[np.ndarray, " seeds"]]]:
  """Trains one network for each key, and hands on all after every epoch.

  Each becomes what its key alone would give, to rounding; where one step of one
  seed is a program of its own (see `make_together`), bit for bit. The same keys
  give the same states, whether or not training was interrupted: the order and
  the augmentation of an epoch follow from the key and its number.

  Args:
    keys: for each network, its initialization and every epoch.
    network: the network.
    data: the training set, with labels `[seeds, n]`.
    config: the recipe.
    resume: takes the initial states, and gives the states to go on from, all
      of the same epoch.

  Yields:
    The states after each epoch, those to start from first, and the epoch's
    mean losses (NaN at first).

  Raises:
    NonFiniteLossError: it names the network and the step.
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
  states = [init(key)._replace(epoch=0) for key in init_keys]
  data = on_devices(data)
  if resume is not None:
    states = resume(states)
  step = make_step(network, config, optimizer)
  together = make_together(step, network, num_seeds)
  carry = together.pack([state[:2] for state in states])
  start = states[0].epoch
  yield (
    SeedStates(together, carry, start, num_seeds),
    np.full(num_seeds, np.nan),
  )
  plan = _make_plan(num_examples, num_steps, config.batch_size)
  for epoch in range(start, config.epochs):
    carry, losses = _run_epoch(together, carry, data, *plan(*epoch_keys, epoch))
    _check_losses(losses, epoch + 1)
    states = SeedStates(together, carry, epoch + 1, num_seeds)
    yield states, losses.mean(axis=0)


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
    key: one key for the initialization and every epoch.
    network: the network.
    data: the training set.
    config: the recipe.
    resume: takes the initial state, and gives the state to go on from.

  Yields:
    The state after each epoch, the one to start from first, and the epoch's
    mean loss (NaN for the first).

  Raises:
    NonFiniteLossError: it names the step.
  """
  stacked = data._replace(labels=data.labels[None])
  resume_all = resume and (lambda states: [resume(states[0])])
  for states, losses in train_seeds(
    key[None], network, stacked, config, resume=resume_all
  ):
    yield states[0], float(losses[0])
