"""The training loop: epochs of compiled steps over on-device data."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from geomem.data import augment, epoch_order, normalize
from geomem.models import Network
from geomem.training.config import TrainingConfig
from geomem.training.optimizers import make_optimizer


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
  """A training set on the device.

  Attributes:
    images: `[n, H, W, C]` uint8.
    labels: `[n]` labels to train on.
    mean: `[C]` mean of the pixels, in units of 0 to 255.
    std: `[C]` their standard deviation.
  """

  images: UInt8[Array, "n H W C"]
  labels: Int[Array, " n"]
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
    images = data.images[indices]
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


def make_epoch(step: Callable) -> Callable:
  """Many steps in one call: `epoch(states, data, batches, keys)`.

  Accelerators get one compiled scan. On CPU each step is one dispatch, since
  XLA runs a convolution inside a loop some 25 times slower than outside.
  """
  if jax.default_backend() != "cpu":

    @jax.jit
    def scanned(states, data, batches, keys):
      return jax.lax.scan(
        lambda carry, xs: step(carry, data, *xs), states, (batches, keys)
      )

    return scanned

  compiled = jax.jit(step)

  def dispatched(states, data, batches, keys):
    losses = []
    for indices, key in zip(batches, keys, strict=True):
      states, loss = compiled(states, data, indices, key)
      losses.append(loss)
    return states, jnp.stack(losses)

  return dispatched


def _check_losses(losses: np.ndarray, epoch: int) -> None:
  bad = np.flatnonzero(~np.isfinite(losses))
  if bad.size:
    raise NonFiniteLossError(
      f"The loss is {losses[bad[0]]} at step {bad[0]} of epoch {epoch}; lower"
      " --learning_rate, or look for non-finite values in the data."
    )


def train(
  key: Key[Array, ""],
  network: Network,
  data: TrainingData,
  config: TrainingConfig,
  *,
  resume: Callable[[TrainState], TrainState] | None = None,
) -> Iterator[tuple[TrainState, float]]:
  """Trains, and hands on the state after every epoch.

  The same key gives the same states, whether or not training was interrupted:
  the order and the augmentation of an epoch follow from the key and its number.

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
  num_examples = data.images.shape[0]
  num_steps = steps_per_epoch(num_examples, config.batch_size)
  optimizer = make_optimizer(config, num_steps)
  init_key, order_key, augment_key = jax.random.split(key, 3)
  state = jax.jit(lambda k: init_state(k, network, optimizer))(init_key)
  state = state._replace(epoch=0)
  if resume is not None:
    state = resume(state)
  yield state, float("nan")
  run_epoch = make_epoch(make_step(network, config, optimizer))
  for epoch in range(state.epoch, config.epochs):
    order = epoch_order(jax.random.fold_in(order_key, epoch), num_examples)
    batches = order[: num_steps * config.batch_size].reshape(num_steps, -1)
    keys = jax.random.split(jax.random.fold_in(augment_key, epoch), num_steps)
    states, losses = run_epoch(state[:2], data, batches, keys)
    losses = np.asarray(losses)
    _check_losses(losses, epoch + 1)
    state = TrainState(*states, epoch + 1)
    yield state, float(losses.mean())
