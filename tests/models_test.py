"""Networks: parameter counts, layers, and states that are one pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem.models import MODELS, ModelSpec, Network, build
from geomem.models.resnet import resnet
from tests.fakes import also_long

# Exact counts of the CIFAR-stem ResNet-18 with 100 classes, which also end
# the parameter axis of the paper's figure 4C-E.
RESNET18_COUNTS = {
  4: 47_592,
  8: 182_252,
  14: 547_682,
  16: 713_076,
  32: 2_820_740,
  44: 5_316_752,
  64: 11_220_132,
}


@pytest.mark.parametrize("width", [4, 64, *also_long(8, 14, 16, 32, 44)])
def test_resnet18_has_the_exact_number_of_parameters(width):
  network = build(
    "resnet18", num_classes=100, image_shape=(32, 32, 3), width=width
  )
  assert network.num_parameters == RESNET18_COUNTS[width]


def test_vgg16_has_the_papers_22_points():
  network = build("vgg16", num_classes=100, image_shape=(32, 32, 3))
  assert len(network.layer_names) == 22
  assert network.layer_names[0] == "input"
  assert network.layer_names[-1] == "logits"


def test_the_cifar_vgg16_count():
  # 13 convolutions of the original (14,714,688 with biases), then
  # 512 -> 512 -> 512 -> 100 with biases.
  network = build("vgg16", num_classes=100, image_shape=(32, 32, 3))
  head = 2 * (512 * 512 + 512) + 512 * 100 + 100
  assert network.num_parameters == 14_714_688 + head


# Counts that are published for 1,000 classes of 224 x 224 images.
@pytest.mark.parametrize(
  "name, count",
  [
    ("resnet18", 11_689_512),
    ("resnet50", 25_557_032),
    ("vgg16", 138_357_544),
    # Without the 4,224 biases that batch norm makes idle.
    ("vgg16_bn", 138_365_992 - 4_224),
  ],
)
def test_imagenet_networks_have_the_published_counts(name, count):
  network = build(name, num_classes=1000, image_shape=(224, 224, 3))
  assert network.num_parameters == count


def test_residual_networks_see_large_images_through_their_stem():
  layers = {}
  for side in (32, 64, 224):
    network = build("resnet18", num_classes=10, image_shape=(side, side, 3))
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    found = jax.eval_shape(network.apply, network.abstract_state, images)
    layers[side] = {n: x.shape[1:3] for n, x in found.activations.items()}
  assert "stem_pool" not in layers[32]
  assert layers[32]["block4_2"] == (4, 4)
  assert layers[64]["stem_pool"] == (16, 16)
  assert layers[224]["stem_pool"] == (56, 56)
  assert layers[224]["block4_2"] == (7, 7)


# Architectures whose activations may be negative.
SIGNED = ("deep_linear", "vit")


# Those that are compiled in a few seconds; blocks of ResNet-50 are below.
@pytest.mark.parametrize("name", [n for n in MODELS if n != "resnet50"])
def test_activations_follow_the_layers(name):
  network = build(name, num_classes=5, image_shape=(8, 8, 3), width=2)
  check_activations(network, name)


def test_bottlenecks_widen_their_input_fourfold():
  spec = ModelSpec(5, 2, jnp.float32, (64, 64, 3))
  layers = resnet(spec, depths=(1, 1), bottleneck=True)
  network = Network("small", tuple(layers), (64, 64, 3))
  shapes = check_activations(network, "small")
  assert shapes["stem"] == (32, 32, 2)
  assert shapes["block1_1"] == (16, 16, 8)
  assert shapes["block2_1"] == (8, 8, 16)


def check_activations(network, name):
  state = network.init(jax.random.key(0))
  images = jnp.ones((3, *network.image_shape))
  output = jax.jit(network.apply)(state, images)
  # jit hands dicts back with their keys sorted.
  assert sorted(output.activations) == sorted(network.layer_names)
  assert output.logits.shape == (3, 5)
  assert tuple(sorted(state)) == tuple(sorted(network.parameter_layers))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(output))
  # Most end in a ReLU; nothing else in the package takes it for granted.
  hidden = network.layer_names[1:-1] if name not in SIGNED else ()
  assert all(np.min(output.activations[n]) >= 0 for n in hidden)
  return {n: x.shape[1:] for n, x in output.activations.items()}


def test_split_and_merge_are_inverse():
  network = build("vgg16_bn", num_classes=5, image_shape=(8, 8, 3), width=2)
  state = network.init(jax.random.key(0))
  parameters, statistics = network.split(state)
  assert set(statistics["conv1_1"]["norm"]) == {"mean", "var"}
  merged = network.merge(parameters, statistics)
  jax.tree.map(np.testing.assert_array_equal, merged, state)
  assert jax.tree.structure(merged) == jax.tree.structure(state)


def test_batch_statistics_move_in_training_only():
  network = build("resnet18", num_classes=5, image_shape=(8, 8, 3), width=2)
  state = network.init(jax.random.key(0))
  images = np.random.default_rng(1).normal(3, size=(4, 8, 8, 3)).astype("f4")

  @jax.jit
  def train(state, images):
    assert network.apply(state, images).state is state
    return network.apply(state, images, train=True).state

  moved = train(state, images)
  before = network.split(state)[1]["stem"]["norm"]["mean"]
  after = network.split(moved)[1]["stem"]["norm"]["mean"]
  assert float(jnp.abs(after - before).max()) > 0
  assert jax.tree.structure(moved) == jax.tree.structure(state)


def test_stacked_states_run_under_vmap():
  network = build("convnet", num_classes=5, image_shape=(8, 8, 1), width=2)
  keys = jax.random.split(jax.random.key(0), 3)
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))

  def logits_of(state):
    return network.apply(state, images).logits

  stacked = jax.vmap(network.init)(keys)
  together = jax.jit(jax.vmap(logits_of))(stacked)
  logits = jax.jit(logits_of)
  for i, key in enumerate(keys):
    alone = logits(network.init(key))
    np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-5)


def test_unknown_models_are_refused_by_a_sentence():
  with pytest.raises(ValueError, match=r"'vgg' is not known; choose one of"):
    build("vgg", num_classes=5, image_shape=(8, 8, 1))


def test_the_same_network_is_built_once():
  """Programs are compiled once for each network."""
  first, second = (
    build("mlp", num_classes=5, image_shape=(8, 8, 1)) for _ in range(2)
  )
  assert first is second
