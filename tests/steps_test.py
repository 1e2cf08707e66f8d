"""Blocks and training steps, each computed once more by hand with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from geomem import data, models, training
from geomem.models import layers, vit
from geomem.training import loop
from geomem.training.optimizers import make_optimizer
from tests.fakes import also_long

_EPS = 1e-5  # Of batch norm; that of a layer norm is 1e-6.


def draw(shape, seed=0, dtype=np.float32):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def with_random_state(module, seed=1):
  """Sets all parameters and statistics of a module, variances above zero."""
  _, state = nnx.split(module)
  rng = np.random.default_rng(seed)
  drawn = jax.tree.map(
    lambda x: jnp.asarray(rng.uniform(0.3, 1.2, x.shape), x.dtype), state
  )
  nnx.update(module, drawn)
  return module


def convolved(x, kernel, stride=1):
  """A convolution with symmetric zero padding: a product for each offset."""
  size, margin = kernel.shape[0], kernel.shape[0] // 2
  x = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
  height, width = (n - 2 * margin for n in x.shape[1:3])
  total = 0
  for i in range(size):
    for j in range(size):
      total = total + x[:, i : i + height, j : j + width] @ kernel[i, j]
  return total[:, ::stride, ::stride]


def normed(x, norm):
  mean, var, scale, bias = (
    np.asarray(getattr(norm, name)[...], np.float64)
    for name in ("mean", "var", "scale", "bias")
  )
  return (x - mean) / np.sqrt(var + _EPS) * scale + bias


def of_conv(x, conv, stride=1):
  kernel = np.asarray(conv.conv.kernel[...], np.float64)
  return normed(convolved(x, kernel, stride), conv.norm)


def relu(x):
  return np.maximum(x, 0)


def test_a_block_whose_last_norm_is_zero_is_the_relu_of_its_shortcut():
  block = layers.Block(2, 2, stride=1, rngs=nnx.Rngs(0))
  norm = block.conv2.norm
  norm.scale[...] = jnp.zeros_like(norm.scale[...])
  x = draw((2, 4, 4, 2))
  np.testing.assert_array_equal(block(x, train=False), relu(x))


@pytest.mark.parametrize(
  "kind", [(2, 1, False), (3, 2, True), *also_long((3, 2, False), (8, 1, True))]
)
def test_a_block_adds_its_branch_to_its_shortcut(kind):
  inputs, stride, bottleneck = kind
  block = with_random_state(
    layers.Block(
      inputs, 2, stride=stride, bottleneck=bottleneck, rngs=nnx.Rngs(0)
    )
  )
  x = draw((2, 4, 4, inputs), dtype=np.float64)
  if bottleneck:
    y = relu(of_conv(x, block.conv1))
    y = of_conv(relu(of_conv(y, block.conv2, stride)), block.conv3)
  else:
    y = of_conv(relu(of_conv(x, block.conv1, stride)), block.conv2)
  is_same = stride == 1 and y.shape == x.shape
  own = x if is_same else of_conv(x, block.shortcut, stride)
  found = block(jnp.asarray(x, jnp.float32), train=False)
  np.testing.assert_allclose(found, relu(own + y), rtol=1e-4, atol=1e-4)
  # Neither of the two alone.
  assert np.abs(own).max() > 0.1
  assert np.abs(y).max() > 0.1


def layer_normed(x, norm):
  scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * scale + bias


def test_a_transformers_mlp_is_added_to_its_tokens():
  mlp = with_random_state(
    vit.Mlp(4, rngs=nnx.Rngs(0), dtype=jnp.float32), seed=2
  )
  x = draw((2, 3, 4))
  weights = [
    np.asarray(getattr(part, name)[...], np.float64)
    for part in (mlp.expand, mlp.project)
    for name in ("kernel", "bias")
  ]
  hidden = layer_normed(x, mlp.norm) @ weights[0] + weights[1]
  inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
  y = 0.5 * hidden * (1 + np.tanh(inner)) @ weights[2] + weights[3]
  np.testing.assert_allclose(mlp(x, train=False), x + y, rtol=1e-4, atol=1e-4)


def test_a_transformers_attention_is_added_to_its_tokens():
  """Two heads of 16 features."""
  width, heads = 32, 2
  layer = with_random_state(
    vit.Attention(width, rngs=nnx.Rngs(0), dtype=jnp.float32), seed=3
  )
  x = draw((2, 3, width))
  # The queries' weights are small, so that tokens share their attention.
  query = layer.attention.query
  query.kernel[...] = jnp.asarray(draw(query.kernel.shape, 4) / 100)
  tokens = layer_normed(x, layer.norm)

  def projected(part):
    kernel, bias = np.asarray(part.kernel[...]), np.asarray(part.bias[...])
    return np.einsum("btd,dhk->bhtk", tokens, kernel) + bias[:, None]

  q, k, v = (
    projected(getattr(layer.attention, n)) for n in ("query", "key", "value")
  )
  assert q.shape == (2, heads, 3, width // heads)
  scores = q @ k.swapaxes(-1, -2) / np.sqrt(width // heads)
  shares = np.exp(scores - scores.max(-1, keepdims=True))
  shares /= shares.sum(-1, keepdims=True)
  assert 0.34 < shares.max() < 0.999
  out = layer.attention.out
  mixed = np.einsum("bhtk,hkd->btd", shares @ v, np.asarray(out.kernel[...]))
  y = mixed + np.asarray(out.bias[...])
  np.testing.assert_allclose(layer(x, train=False), x + y, rtol=1e-4, atol=1e-3)


MEAN, STD = np.array([100, 120, 90], np.float32), np.float32([50, 60, 70])


def training_data(labels, side=1):
  rng = np.random.default_rng(5)
  shape = (len(labels), side, side, 3)
  images = rng.integers(0, 256, shape).astype(np.uint8)
  arrays = images, np.asarray(labels, np.int32), MEAN, STD
  return training.TrainingData(*map(jnp.asarray, arrays))


def network_of(side, *specs):
  return models.Network("by hand", specs, (side, side, 3))


def readout(size, relu=False):
  def make(shape, rngs):
    return layers.Dense(int(np.prod(shape)), size, relu=relu, rngs=rngs)

  return make


def normed_conv(shape, rngs):
  return layers.Conv(shape[-1], 4, size=1, norm=True, rngs=rngs)


def cross_entropy(logits, labels):
  """The mean loss, and its derivatives by the logits."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  at = np.arange(len(labels)), labels
  slopes = np.exp(logs)
  slopes[at] -= 1
  return -logs[at].mean(), slopes / len(labels)


def step_of(network, config, examples, indices, key=0):
  """Takes the first step of training; returns states before and after."""
  optimizer = make_optimizer(config, 1)
  step = jax.jit(loop.make_step(network, config, optimizer))
  before, state, *_ = loop.init_state(jax.random.key(1), network, optimizer)
  (after, _), loss = step(
    (before, state), examples, jnp.asarray(indices), jax.random.key(key)
  )
  return before, after, float(loss)


def test_a_step_with_batch_norm_is_that_by_hand():
  """The batch's own statistics, their derivatives, and the running ones."""
  labels, indices = [0, 1, 2, 1, 0, 2, 0, 1], [5, 0, 3, 7, 6]
  examples = training_data(labels)
  network = network_of(1, ("conv", normed_conv), ("logits", readout(3)))
  config = training.TrainingConfig(
    learning_rate=0.1, momentum=0.0, weight_decay=0.01
  )
  before, after, loss = step_of(network, config, examples, indices)
  start = jax.tree.map(lambda x: np.asarray(x, np.float64), before)
  # Pixels one by one: a 1 x 1 convolution of one pixel is a dense layer.
  x = (np.asarray(examples.images)[indices, 0, 0] - MEAN) / STD
  kernel = start["conv"]["conv"]["kernel"][0, 0]
  norm, dense = start["conv"]["norm"], start["logits"]["dense"]
  y = x @ kernel
  mean, var = y.mean(axis=0), y.var(axis=0)
  unit = (y - mean) / np.sqrt(var + _EPS)
  z = unit * norm["scale"] + norm["bias"]
  expected, d_logits = cross_entropy(
    relu(z) @ dense["kernel"] + dense["bias"], np.array(labels)[indices]
  )
  assert loss == pytest.approx(expected, rel=1e-5)
  d_z = (d_logits @ dense["kernel"].T) * (z > 0)
  d_unit = d_z * norm["scale"]
  along = (d_unit * unit).mean(axis=0)
  d_y = (d_unit - d_unit.mean(axis=0) - unit * along) / np.sqrt(var + _EPS)
  gradients = {
    "logits": {"kernel": relu(z).T @ d_logits, "bias": d_logits.sum(axis=0)},
    "norm": {"scale": (d_z * unit).sum(axis=0), "bias": d_z.sum(axis=0)},
    "conv": {"kernel": x.T @ d_y},
  }
  places = {
    "logits": (dense, after["logits"]["dense"]),
    "norm": (norm, after["conv"]["norm"]),
    "conv": ({"kernel": kernel}, after["conv"]["conv"]),
  }
  for place, by_name in gradients.items():
    old, new = places[place]
    for name, gradient in by_name.items():
      assert np.abs(gradient).max() > 1e-3, (place, name)
      moved = old[name] - 0.1 * (gradient + 0.01 * old[name])
      found = np.asarray(new[name]).reshape(moved.shape)
      np.testing.assert_allclose(found, moved, rtol=1e-4, atol=1e-6)
  # Running statistics go a tenth of the way to those of the batch.
  new = after["conv"]["norm"]
  np.testing.assert_allclose(new["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(new["var"], 0.9 + 0.1 * var, rtol=1e-4)


def loss_of_linear(state, images, labels):
  x = ((np.asarray(images) - MEAN) / STD).reshape(len(images), -1)
  dense = jax.tree.map(np.asarray, state["logits"]["dense"])
  return cross_entropy(x @ dense["kernel"] + dense["bias"], labels)[0]


@pytest.mark.parametrize(
  "how", [{"crop": 1}, {"flip": True}, *also_long({"crop": 2, "flip": True})]
)
def test_a_step_sees_augmented_images(how):
  labels, indices = [0, 1, 2, 1, 0, 2], [5, 0, 3, 1]
  examples = training_data(labels, side=4)
  network = network_of(4, ("logits", readout(3)))
  config = training.TrainingConfig(**how)
  before, _, loss = step_of(network, config, examples, indices, key=7)
  images, chosen = examples.images[np.array(indices)], np.array(labels)[indices]
  options = {"crop": 0, "flip": False} | how
  seen = data.augment(jax.random.key(7), images, **options)
  assert loss == pytest.approx(loss_of_linear(before, seen, chosen), rel=1e-4)
  plain = loss_of_linear(before, images, chosen)
  assert abs(loss - plain) > 1e-3
  # Without augmentation it is the loss of the images as they are.
  _, _, loss = step_of(network, training.TrainingConfig(), examples, indices, 7)
  assert loss == pytest.approx(plain, rel=1e-4)


def test_every_epoch_has_an_order_and_keys_of_its_own():
  plan = loop._make_plan(10, 3, 3)
  keys = jax.random.split(jax.random.key(0), 2)
  found = [plan(keys, keys[::-1], epoch) for epoch in range(3)]
  batches = np.stack([np.asarray(batches) for batches, _ in found])
  assert batches.shape == (3, 3, 2, 3)  # Epochs, steps, seeds, examples.
  by_epoch = batches.swapaxes(1, 2).reshape(3 * 2, 9)
  # No example comes twice, and no two epochs or seeds have one order.
  assert all(len(set(order)) == 9 for order in by_epoch)
  assert len({tuple(order) for order in by_epoch}) == 6
  drawn = {
    tuple(key)
    for _, keys in found
    for key in np.asarray(jax.random.key_data(keys)).reshape(6, -1)
  }
  assert len(drawn) == 18


def test_two_epochs_of_a_cosine_are_those_by_hand():
  """Six steps of momentum: their order, and a rate that falls to the last."""
  labels = [0, 1, 2, 1, 0, 2, 0]
  examples = training_data(labels, side=2)
  network = network_of(2, ("logits", readout(3)))
  options = {"schedule": "cosine", "batch_size": 2, "epochs": 2}
  config = training.TrainingConfig(learning_rate=0.1, momentum=0.9, **options)
  key = jax.random.key(3)
  (first, _), *epochs = (
    (jax.tree.map(np.asarray, state.network), loss)
    for state, loss in training.train(key, network, examples, config)
  )
  weights = first["logits"]["dense"]
  kernel, bias = (weights[n].astype(np.float64) for n in ("kernel", "bias"))
  x = ((np.asarray(examples.images) - MEAN) / STD).reshape(len(labels), -1)
  order_key = jax.random.split(key, 3)[1]
  speeds, step, orders = [0.0, 0.0], 0, []
  for epoch, (found, mean_loss) in enumerate(epochs):
    of_epoch = jax.random.fold_in(order_key, epoch)
    order = np.asarray(data.epoch_order(of_epoch, len(labels)))
    orders.append(tuple(order))
    losses = []
    for batch in order[:6].reshape(3, 2):
      chosen = np.array(labels)[batch]
      loss, slopes = cross_entropy(x[batch] @ kernel + bias, chosen)
      losses.append(loss)
      gradients = x[batch].T @ slopes, slopes.sum(axis=0)
      speeds = [0.9 * v + g for v, g in zip(speeds, gradients, strict=True)]
      rate = 0.1 * (1 + np.cos(np.pi * step / 6)) / 2
      kernel, bias = kernel - rate * speeds[0], bias - rate * speeds[1]
      step += 1
    assert mean_loss == pytest.approx(np.mean(losses), rel=1e-4)
    weights = found["logits"]["dense"]
    np.testing.assert_allclose(weights["kernel"], kernel, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(weights["bias"], bias, rtol=1e-3, atol=1e-5)
  assert len(set(orders)) == 2
