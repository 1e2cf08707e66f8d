"""The vision transformer: its count, its attention, and the main job."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import models, studies


def build(width=64, shape=(32, 32, 3), **options):
  return models.build(
    "vit", num_classes=100, image_shape=shape, width=width, **options
  )


def test_the_count_is_that_of_its_matrices():
  d, tokens = 64, 64
  block = 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * 2 * d
  patches = 4 * 4 * 3 * d + d + tokens * d
  expected = patches + 4 * block + 2 * d + 100 * d + 100
  assert build().num_parameters == expected


def test_tokens_attend_to_each_other_and_positions_count():
  network = build(16, (8, 8, 1))
  state = network.init(jax.random.key(0))
  images = np.zeros((1, 8, 8, 1), np.float32)
  images[0, 0, 0] = 1.0  # In the first of four patches.
  blank = network.apply(state, jnp.zeros((1, 8, 8, 1))).activations
  found = network.apply(state, jnp.asarray(images)).activations
  moved = {
    n: jnp.abs(found[n] - blank[n]).max(-1)[0] for n in ("patches", "mlp1")
  }
  assert moved["patches"][0] > 0
  np.testing.assert_array_equal(moved["patches"][1:], 0)
  assert (moved["mlp1"] > 0).all()
  assert float(jnp.ptp(blank["patches"][0], axis=0).max()) > 0


@pytest.mark.parametrize(
  ("width", "shape", "sentence"),
  [
    (24, (8, 8, 1), "a multiple of 16 was expected"),
    (16, (10, 8, 1), "multiples of its patches' 4"),
  ],
)
def test_sizes_that_do_not_divide_are_refused(width, shape, sentence):
  with pytest.raises(ValueError, match=sentence):
    build(width, shape)


@pytest.mark.long
def test_it_trains_is_measured_and_rewound_like_any_other(tmp_path):
  config = studies.make_config(
    model="vit",
    width=16,
    num_classes=3,
    examples_per_class=60,
    permuted_fraction=0.2,
    epochs=20,
    batch_size=30,
    optimizer="adam",
    learning_rate=0.003,
    manifold_points=5,
    num_probes=20,
    layers="pool",
  )
  rows = studies.run(studies.Memorization(config), tmp_path)
  accuracy = rows.at("best").where("accuracy", subset="test").values
  assert accuracy > 0.8
  assert rows.where("converged").values.min() == 1
  rewind = studies.LayerRewind(
    studies.RewindConfig(kinds=("suffix",)), studies.TrainedRun(tmp_path)
  )
  whole = studies.run(rewind).where("accuracy", kind="suffix", subset="test")
  names = "+".join(rewind.trained.experiment.network.parameter_layers)
  best = whole.where(rewound=names, epoch=rewind.trained.best(0))
  assert best.values == accuracy
