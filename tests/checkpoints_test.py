"""Checkpoints that load in part, and what they say where they cannot."""

import gc
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from geomem import training

TREE = {
  "conv": {"kernel": jnp.arange(6.0).reshape(2, 3)},
  "norm": {"mean": jnp.ones(3)},
  "logits": {"kernel": jnp.ones((3, 4))},
}


@pytest.fixture
def directory(tmp_path):
  with training.Checkpoints(tmp_path / "seed0") as saved:
    for epoch in (0, 1):
      saved.save(epoch, TREE)
  return tmp_path / "seed0"


def test_layers_are_restored_alone(directory):
  wanted = {name: TREE[name] for name in ("conv", "norm")}
  with training.Checkpoints(directory, must_exist=True) as saved:
    found = saved.load_layers(1, wanted)
  assert set(found) == set(wanted)
  np.testing.assert_array_equal(found["conv"]["kernel"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
  ("epoch", "like", "sentence"),
  [
    (1, {"fc": TREE["conv"]}, r"'fc' .* there are conv, "),
    (1, {"conv": TREE["logits"]}, r"another network: .*2, 3.*, not .*3, 4"),
    (1, {"conv": {"bias": TREE["norm"]["mean"]}}, r"not \{'bias': \(3,\)"),
    (7, {"conv": TREE["conv"]}, r"saved epochs are \[0, 1\]"),
  ],
)
def test_layers_that_are_not_there_are_named(directory, epoch, like, sentence):
  with (
    training.Checkpoints(directory) as saved,
    pytest.raises(training.CheckpointError, match=sentence),
  ):
    saved.load_layers(epoch, like)


def test_a_damaged_checkpoint_is_named_with_those_that_are_there(directory):
  (directory / "1" / "state" / "_METADATA").unlink()
  with (
    training.Checkpoints(directory) as saved,
    pytest.raises(training.CheckpointError, match=r"damaged .* \[0, 1\]"),
  ):
    saved.load_layers(1, {"conv": TREE["conv"]})


def test_a_failed_read_leaves_nothing_that_complains_later(directory):
  # Orbax reads several files at once, and drops the others when one is lost;
  # which of them were begun is another one each time.
  (directory / "1" / "state" / "manifest.ocdbt").unlink()
  with training.Checkpoints(directory) as saved:
    for _ in range(3):
      with pytest.raises(training.CheckpointError, match="damaged"):
        saved.load(1, TREE)
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    gc.collect()
  assert not said


def test_missing_checkpoints_are_refused_and_not_made(directory):
  missing = directory.parent / "seed1"
  with pytest.raises(training.CheckpointError, match="holds seed0"):
    training.Checkpoints(missing, must_exist=True)
  assert not missing.exists()
