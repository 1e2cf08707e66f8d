"""What the tests of many devices do, there and in processes of their own.

python -m tests.parallel_worker DIRECTORY [ADDRESS COUNT NUMBER]
"""

import pathlib
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np

from geomem import analysis, geometry, models, parallel, training
from geomem.analysis import memorization
from geomem.analysis.layer_statistics import layer_statistics
from geomem.models import architectures

CONFIG = analysis.ExperimentConfig(
  model="mlp",
  width=16,
  epochs=3,
  batch_size=21,  # Goes up in no number of devices.
  manifold_points=8,
  num_probes=40,
  num_classes=3,
  examples_per_class=30,
  centers="none",
  subsets="permuted,test",
)


def do_run(path: pathlib.Path) -> None:
  """Trains, measures, and rewinds with geometry; says each epoch."""
  experiment = analysis.prepare(CONFIG)
  seed = analysis.prepare_seed(experiment, 0)
  with analysis.open_run(path, analysis.config_dict(CONFIG)) as run:
    for epoch, _ in analysis.train_seeds(run, experiment, [seed]):
      sys.stdout.write(f"epoch {epoch}\n")
      sys.stdout.flush()
    for _ in analysis.measure_seed(run, experiment, seed):
      pass
  config = analysis.RewindConfig(kinds=("suffix",), geometry=True, epochs=(1,))
  job = path, experiment, seed, config
  with analysis.open_run(path / "rewind", config.as_dict()) as run:
    for work in (analysis.score_rewinds, analysis.measure_rewinds):
      for _ in work(run, *job):
        pass


def make_network(dtype=jnp.float32) -> models.Network:
  """Convolutions with batch norm."""
  layers = [
    architectures._conv("conv1", 3, norm=True, dtype=dtype),
    architectures._conv("conv2", 4, norm=True, dtype=dtype),
    architectures._dense("logits", 5, relu=False, dtype=dtype),
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

  manifolds = images[:36].reshape(1, 3, 12, *images.shape[1:])
  for name, limit in (("one", 2**30), ("two", 0)):
    every = layer_statistics(
      forward, state, manifolds, ("conv2", "logits"), max_bytes=limit
    )
    found[name] = {layer: vars(stats) for layer, stats in every}
  return jax.tree.map(lambda x: parallel.fetch(jnp.asarray(x)), found)


def find_geometry() -> dict:
  """The geometry of given points, through the program of the run."""
  points = np.random.default_rng(2).standard_normal((2, 3, 8, 40), np.float32)
  stats = [geometry.gram_statistics(one + 2) for one in points]
  stats = jax.tree.map(lambda *xs: jnp.stack(xs), *stats)
  found = memorization._measure(
    jax.random.key(3),
    memorization._stacked([("layer", stats)], max(1, jax.device_count() // 2)),
    kappa=CONFIG.kappa,
    num_probes=CONFIG.num_probes,
    centers=None,
  )
  return {name: parallel.fetch(x)[0] for name, x in vars(found).items()}


def main(path: pathlib.Path, *processes: str) -> None:
  if processes:
    address, count, number = processes
    parallel.start(address, int(count), int(number))
  do_run(path / "run")
  if processes:
    return
  like = make_network().abstract_state
  with training.Checkpoints(path / "saved") as saved:
    loaded = saved.load(1, like)
    assert all(x.is_fully_replicated for x in jax.tree.leaves(loaded))
    saved.save(2, jax.tree.map(lambda x: x + 1, loaded))
  found = find_numbers() | {"geometry": find_geometry()}
  (path / "found.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
