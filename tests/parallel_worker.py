"""What the tests of many devices do, there and in processes of their own.

python -m tests.parallel_worker DIRECTORY [ADDRESS COUNT NUMBER]
"""

import pathlib
import pickle
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from geomem import geometry, models, parallel, studies, training
from geomem.measures import activations, layer_statistics
from geomem.measures import layers as measuring
from geomem.models import spec

CONFIG = studies.make_config(
  model="mlp1",
  width=16,
  epochs=3,
  batch_size=21,  # Goes up in no number of devices.
  manifold_points=8,
  num_probes=40,
  num_classes=3,
  examples_per_class=30,
  centers="none",
  subsets="permuted,unpermuted,test",
)


class Bar:
  """A progress bar that says each epoch of the training."""

  initial = 0

  def __init__(self, total, desc, **_):
    self.epoch, self.speaks = 0, desc.startswith("training")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def set_postfix(self, *_, **__):
    pass

  def update(self, size):
    self.epoch += size
    if self.speaks:
      sys.stdout.write(f"epoch {self.epoch}\n")
      sys.stdout.flush()


def do_run(path: pathlib.Path) -> None:
  """Trains, measures, and rewinds with geometry; says each epoch."""
  studies.run(studies.Memorization(CONFIG), path, progress=Bar)
  config = studies.RewindConfig(kinds=("prefix",), geometry=True, epochs=(1,))
  rewind = studies.LayerRewind(config, studies.TrainedRun(path))
  studies.run(rewind, path / "rewind")


def do_capacity(path: pathlib.Path) -> None:
  """Compares the run's theoretical capacities with simulated ones."""
  config = studies.CapacityConfig(
    epochs="last", num_draws=5, num_probes=10, num_shuffles=2
  )
  trained = studies.TrainedRun(path)
  studies.run(studies.Capacity(config, trained), path / "capacity")


def make_network(dtype=jnp.float32) -> models.Network:
  """Convolutions with batch norm."""
  layers = [
    spec.conv("conv1", 3, norm=True, dtype=dtype),
    spec.conv("conv2", 4, norm=True, dtype=dtype),
    spec.dense("logits", 5, relu=False, dtype=dtype),
  ]
  return models.Network("small", tuple(layers), (6, 6, 1))


def find_numbers() -> dict:
  """What steps, scores, statistics and geometry give, none of it divisible."""
  rng = np.random.default_rng(0)
  images = rng.integers(256, size=(41, 6, 6, 1), dtype=np.uint8)
  moments = np.full(1, 120, np.float32), np.full(1, 70, np.float32)
  labels = jnp.asarray(rng.integers(5, size=(1, 41), dtype=np.int32))
  data = training.TrainingData(
    jnp.asarray(images), labels, *map(jnp.asarray, moments)
  )
  recipe = training.TrainingConfig(
    batch_size=20, epochs=1, crop=1, flip=True, weight_decay=1e-3
  )
  network = make_network()
  keys = jax.random.key(1)[None]
  *_, (states, loss) = training.train_seeds(keys, network, data, recipe)
  state = states[0].network
  logits = training.predict_logits(network, state, images, *moments)
  found = {"loss": loss, "state": state, "logits": logits}

  def forward(state, images):
    return network.apply(state, images / 255.0).activations

  manifolds = {"all": images[:36].reshape(3, 12, *images.shape[1:])}
  for name, limit in (("one", 2**30), ("two", 0)):
    every = layer_statistics(
      forward, state, manifolds, ("conv2", "logits"), max_bytes=limit
    )
    found[name] = {layer: vars(stats["manifolds"]) for layer, stats in every}
  return jax.tree.map(lambda x: parallel.fetch(jnp.asarray(x)), found)


def find_geometry() -> dict:
  """The geometry of given points, through the program of the run."""
  points = np.random.default_rng(2).standard_normal((3, 3, 8, 40), np.float32)
  stats = [geometry.gram_statistics(one + 2) for one in points]
  stats = parallel.replicate(jax.tree.map(lambda *xs: jnp.stack(xs), *stats))
  found = measuring.measure(
    jax.random.key(3),
    tuple(CONFIG.measure.chosen),
    measuring.stack_layers(
      [{"manifolds": stats}], max(1, jax.device_count() // 3)
    ),
    CONFIG.measure.options,
  )["mean_field"]
  return {name: value[0] for name, (value, _) in found.items()}


def expect_shares() -> None:
  """Of 24 images every one of eight devices convolves three."""
  network = make_network()
  state = parallel.replicate(network.init(jax.random.key(0)))
  images = parallel.shard(np.zeros((24, 6, 6, 1), np.float32))

  def forward(state, images):
    return network.apply(state, images).activations

  program = activations._compiled_manifolds(forward, "conv2", (4, 6))
  text = program.lower(state, images).compile().as_text()
  found = re.findall(r"= f32\[(\d+),\S* convolution\(", text)
  assert set(found) == {"3"}, found


def main(path: pathlib.Path, *processes: str) -> None:
  if processes:
    address, count, number = processes
    parallel.start(address, int(count), int(number))
  do_run(path / "run")
  if processes:
    do_capacity(path / "run")
    return
  like = make_network().abstract_state
  with training.Checkpoints(path / "saved") as saved:
    loaded = saved.load(1, like)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(loaded))
    saved.save(2, jax.tree.map(lambda x: x + 1, loaded))
  expect_shares()
  found = find_numbers() | {"geometry": find_geometry()}
  (path / "found.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
