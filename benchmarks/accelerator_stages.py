"""Stages of the accelerator benchmark, on synthetic data."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from geomem import geometry, measures, models, shares, training
from geomem.data import normalize
from geomem.measures import layers
from geomem.studies import hybrids
from geomem.training import loop, optimizers, together

Row = dict[str, Any]

_MOST_REPEATS = 9
# Mean and standard deviation of the pixels, by channel.
_MOMENTS = (np.full(3, 127.5, "f4"), np.full(3, 73.6, "f4"))


class Sizes(NamedTuple):
  """Problem sizes of the stages."""

  square: int  # Side of the matrices that measure the peak rates.
  qp_sets: tuple[int, ...]  # Sets whose programmes form one batch.
  layer: tuple[int, int, int]  # P, M, N.
  probes: int
  layers: int  # Each is measured on four subsets.
  model: tuple[str, int]  # Name and width.
  train: int  # Training images.
  images: int  # Images to score.
  rewinds: int  # Hybrid networks at most.
  many: tuple[str, tuple[int, ...]]  # Name and widths, trained with seeds.
  seeds: int
  batch: int


FULL = Sizes(
  square=8192,
  qp_sets=(1, 20),
  layer=(100, 50, 5000),
  probes=300,
  layers=23,
  model=("vgg16", 64),
  train=50_000,
  images=60_000,
  rewinds=20,
  many=("resnet18", (4, 16, 64)),
  seeds=5,
  batch=128,
)
TINY = Sizes(
  square=64,
  qp_sets=(1, 2),
  layer=(5, 4, 30),
  probes=10,
  layers=2,
  model=("convnet", 2),
  train=16,
  images=20,
  rewinds=3,
  many=("mlp1", (2,)),
  seeds=2,
  batch=8,
)


def timed(call: Callable[[], Any], most: float = 2.0) -> Row:
  """Times a first call, then the median and quartiles of repeated calls."""
  first, low, median, high = timing.timed(call, _MOST_REPEATS, most)
  return {"first": first, "seconds": median, "spread": (low, high)}


def peaks(sizes: Sizes) -> Iterator[Row]:
  """Measures peak operations and bytes per second, which set the floors."""
  n = sizes.square
  for name in ("bfloat16", "float32"):
    a = jax.random.normal(jax.random.key(0), (n, n), name)
    product = jax.jit(lambda a: a @ a)
    times = timed(functools.partial(product, a))
    yield {"name": name, "rate": 2 * n**3 / times["seconds"]} | times
  a = jnp.zeros((n, n, 2), jnp.float32)
  times = timed(functools.partial(jax.jit(lambda a: a + 1), a))
  yield {"name": "memory", "rate": 2 * a.nbytes / times["seconds"]} | times


def _clouds(key, shape, radius):
  num_manifolds, _, N = shape
  a, b = jax.random.split(key)
  centers = jax.random.normal(a, (num_manifolds, 1, N))
  return (centers + radius * jax.random.normal(b, shape)) / np.sqrt(N)


def families(shape) -> dict[str, jax.Array]:
  """Returns `[P, M, N]` points of several families."""
  key = jax.random.key(0)
  iid = jax.random.normal(key, shape)
  return {
    "clouds R=1": _clouds(key, shape, 1.0),
    "clouds R=10": _clouds(key, shape, 10.0),
    "iid": iid,
    "ReLU": jax.nn.relu(iid),
  }


def qps(sizes: Sizes) -> Iterator[Row]:
  """Times batches of quadratic programmes of many probes, by family."""
  P, M, _ = sizes.layer
  for family, points in families((P, M, M + 10)).items():
    relative = points - points.mean(axis=(0, 1), keepdims=True)
    for num_sets in sizes.qp_sets:
      S = jnp.tile(relative, (num_sets, 1, 1))
      S = S / jnp.linalg.norm(
        S.mean(axis=1, keepdims=True), axis=2, keepdims=True
      )
      t = jax.random.normal(
        jax.random.key(1), (len(S), sizes.probes, S.shape[2])
      )
      G = jnp.einsum("pmd,pkd->pmk", S, S, precision="highest")
      b = -jnp.einsum("ptd,pmd->ptm", t, S, precision="highest")
      solve = functools.partial(geometry.solve_nonnegative_qp, G, b)
      count = b.shape[0] * b.shape[1]
      yield {
        "name": f"{count:,} of {family}",
        "bytes": G.nbytes + 2 * b.nbytes,
        "float32_operations": 2 * count * M**2,
        "converged": float(solve().converged.mean()),
      } | timed(solve)


def geometry_of_sets(sizes: Sizes) -> Iterator[Row]:
  """Times one manifold set, then many, with and without the centre search."""
  points = families(sizes.layer)["ReLU"]
  stats = geometry.gram_statistics(points)
  key = jax.random.key(0)
  for centers in (None, "low_rank"):
    options = {"num_probes": sizes.probes, "centers": centers}
    call = functools.partial(geometry.manifold_geometry, key, stats, **options)
    yield {"name": f"one set, centers={centers}"} | timed(call)
  at_once = max(1, shares.entries_at_once() // 4)
  stacked = layers.stack_layers([{"manifolds": stats}], at_once)
  stacked = jax.tree.map(lambda x: jnp.repeat(x[:, None], 4, axis=1), stacked)
  chosen = (measures.MEASURES["mean_field"],)
  batches = -(-sizes.layers // at_once)
  for centers in (None, "low_rank"):
    options = measures.Options(num_probes=sizes.probes, centers=centers)

    def call(options=options):
      return [
        layers.measure(key, chosen, stacked, options) for _ in range(batches)
      ]

    name = f"{4 * at_once * batches} sets, centers={centers}"
    yield {"name": name} | timed(call)


def _network(model: str, width: int, dtype=jnp.bfloat16) -> models.Network:
  shape = (32, 32, 3)
  return models.build(
    model, num_classes=100, image_shape=shape, width=width, dtype=dtype
  )


@functools.partial(jax.jit, static_argnums=0)
def _images(count: int) -> jax.Array:
  return jax.random.bits(jax.random.key(0), (count, 32, 32, 3), "uint8")


def _operations(network: models.Network) -> int:
  """Counts the operations of a forward pass on one image."""
  image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
  forward = jax.jit(lambda state, x: network.apply(state, x).logits)
  return int(
    forward.lower(network.abstract_state, image).cost_analysis()["flops"]
  )


def _recipe(sizes: Sizes, epochs: int) -> training.TrainingConfig:
  return training.TrainingConfig(
    batch_size=sizes.batch, epochs=epochs, learning_rate=1e-3
  )


def _training_data(count: int) -> training.TrainingData:
  moments = map(jnp.asarray, _MOMENTS)
  return training.TrainingData(
    _images(count), jnp.arange(count) % 100, *moments
  )


def epochs_of_training(sizes: Sizes) -> Iterator[Row]:
  """Times one epoch of training, in bfloat16 and in float32."""
  for name in ("bfloat16", "float32"):
    network = _network(*sizes.model, jnp.dtype(name))
    states = training.train(
      jax.random.key(0),
      network,
      _training_data(sizes.train),
      _recipe(sizes, 1 + _MOST_REPEATS),
    )
    next(states)
    times = timed(lambda states=states: next(states)[0].network)
    examples = sizes.train // sizes.batch * sizes.batch
    yield {
      "name": f"an epoch, {name}",
      f"{name}_operations": 3 * examples * _operations(network),
    } | times


def scores_of_images(sizes: Sizes) -> Iterator[Row]:
  """Times the logits and scores of many images."""
  network = _network(*sizes.model)
  state = network.init(jax.random.key(0))
  images, labels = _images(sizes.images), jnp.arange(sizes.images) % 100

  def call():
    logits = training.predict_logits(network, state, images, *_MOMENTS)
    return training.scores({"all": (logits, labels)})

  yield {
    "name": f"{sizes.images:,} images",
    "bfloat16_operations": sizes.images * _operations(network),
  } | timed(call)


def statistics_of_layers(sizes: Sizes) -> Iterator[Row]:
  """Times the statistics of all layers on four subsets."""
  network = _network(*sizes.model)
  state = network.init(jax.random.key(0))
  P, M, _ = sizes.layer
  images = _images(P * M).reshape(P, M, 32, 32, 3)

  def forward(state, x):
    return network.apply(state, normalize(x, *_MOMENTS)).activations

  def call():
    statistics = measures.layer_statistics(
      forward, state, dict.fromkeys("abcd", images), network.layer_names[1:]
    )
    return [stats for _, stats in statistics]

  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
  shapes = jax.eval_shape(forward, network.abstract_state, image)
  features = sum(shapes[name].size for name in network.layer_names[1:])
  yield {
    "name": f"{len(network.layer_names) - 1} layers x 4 x {P * M:,} images",
    "bfloat16_operations": 4 * P * M * _operations(network),
    "float32_operations": 4 * 2 * P * M * (M + P) * features,
    "bytes": 4 * 4 * P * M * features,
  } | timed(call, most=0.0)


def _shared_operations(network: models.Network, masks) -> int:
  """Counts the hybrids' operations on one image, with shared layers once."""
  image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
  inputs = jax.eval_shape(network.apply, network.abstract_state, image)
  names, total = network.layer_names, 0
  for depth in range(1, len(names)):
    layer = jax.jit(
      lambda state, x, name=names[depth]: network.apply_layer(name, state, x)[0]
    )
    state = network.abstract_state.get(names[depth], {})
    lowered = layer.lower(state, inputs.activations[names[depth - 1]])
    nodes = {mask[:depth] for mask in masks}
    total += len(nodes) * int(lowered.cost_analysis().get("flops", 0))
  return total


def rewinds(sizes: Sizes) -> Iterator[Row]:
  """Times the logits of hybrid networks on all images."""
  network = _network(*sizes.model)
  last, other = (network.init(jax.random.key(i)) for i in range(2))
  names = network.parameter_layers
  masks = {
    hybrids.mask_of(network, chosen)
    for i in range(len(names))
    for chosen in (names[i : i + 1], names[i:])
  }
  masks = sorted(masks)[: sizes.rewinds]
  mixed = hybrids.Hybrids(network, last, other, {})
  images = _images(sizes.images)

  def call():
    return list(hybrids.hybrid_logits(mixed, masks, images, *_MOMENTS))

  yield {
    "name": f"{len(masks)} networks, {sizes.images:,} images",
    "bfloat16_operations": sizes.images * _shared_operations(network, masks),
  } | timed(call, most=0.0)


def many_networks(sizes: Sizes) -> Iterator[Row]:
  """Times steps of several seeds in each form, and of one seed alone."""
  config, count = _recipe(sizes, 1), 2 * sizes.batch
  data = _training_data(count)
  model, widths = sizes.many
  for width in widths:
    network = _network(model, width, jnp.float32)
    optimizer = optimizers.make_optimizer(config, 1)
    step = loop.make_step(network, config, optimizer)
    init = jax.jit(
      lambda key, n=network, o=optimizer: loop.init_state(key, n, o)
    )
    forms = [("one_by_one", 1), *((n, sizes.seeds) for n in together.FORMS)]
    for form, num_seeds in forms:
      strategy = together.make_together(step, network, num_seeds, form)
      keys = jax.random.split(jax.random.key(0), num_seeds)
      carry = strategy.pack([tuple(init(key)[:2]) for key in keys])
      labels = jnp.tile(data.labels, (num_seeds, 1))
      batches = jnp.broadcast_to(
        jnp.arange(sizes.batch), (2, num_seeds, sizes.batch)
      )
      each = jnp.stack([keys, keys])
      seeds_data = data._replace(labels=labels)
      epoch = functools.partial(
        strategy.epoch, carry, seeds_data, batches, each
      )
      operations = 2 * 3 * num_seeds * sizes.batch * _operations(network)
      name = f"width {width}, {num_seeds} x {form}, two steps"
      yield {"name": name, "float32_operations": operations} | timed(epoch)


STAGES: dict[str, Callable[[Sizes], Iterator[Row]]] = {
  "peaks": peaks,
  "qps": qps,
  "geometry": geometry_of_sets,
  "training": epochs_of_training,
  "scores": scores_of_images,
  "statistics": statistics_of_layers,
  "rewinds": rewinds,
  "networks": many_networks,
}
