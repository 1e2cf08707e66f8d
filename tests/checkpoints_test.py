"""Checkpoints that load in part, and what they say where they cannot."""

import gc
import json
import warnings

import jax
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


def noise(seed: int) -> np.ndarray:
  """Bits that cannot be compressed, so that the file holds them as they are."""
  bits = np.random.default_rng(seed).integers(2**32, size=(64, 64))
  return bits.astype(np.uint32).view(np.int32)


@pytest.fixture
def flipped(tmp_path):
  """One bit of `conv.kernel` differs from what was saved."""
  tree = {
    "conv": {"kernel": jnp.asarray(noise(0))},
    "fc": [jnp.asarray(noise(1))],
  }
  with training.Checkpoints(tmp_path) as saved:
    saved.save(0, jax.tree.map(jnp.zeros_like, tree))
    saved.save(1, tree)
  number = noise(0)[30, 50].tobytes()
  (file,) = (
    path
    for path in (tmp_path / "1").rglob("*")
    if path.is_file() and number in path.read_bytes()
  )
  content = bytearray(file.read_bytes())
  content[content.index(number) + 2] ^= 1
  file.write_bytes(content)
  return tmp_path, tree


def test_a_flipped_bit_is_found(flipped):
  directory, tree = flipped
  with training.Checkpoints(directory) as saved:
    with pytest.raises(training.CheckpointError, match=r"numbers of conv\.ker"):
      saved.load(1, tree)
    with pytest.raises(training.CheckpointError, match=r"numbers of conv\.ker"):
      saved.load_layers(1, {"conv": tree["conv"]})
    np.testing.assert_array_equal(
      saved.load_layers(1, {"fc": tree["fc"]})["fc"][0], noise(1)
    )
    assert saved.load_latest(tree)[0] == 0


def test_damaged_checkpoints_can_be_replaced(directory):
  """A state that cannot be read would otherwise be taken for a good one."""
  for file in (directory / "1").rglob("*"):
    if file.is_file() and "METADATA" not in file.name:
      file.write_bytes(b"")
  with training.Checkpoints(directory, keep=2) as saved:
    found, _ = saved.load_latest(TREE)
    assert found == 0
    # Nothing is lost before something is saved.
    assert saved.epochs == [0, 1]
    saved.save(1, TREE)
    assert saved.load_latest(TREE)[0] == 1


def test_checkpoints_of_older_versions_have_no_checksums(flipped):
  directory, tree = flipped
  file = directory / "1" / "_CHECKPOINT_METADATA"
  content = json.loads(file.read_text())
  assert content.pop("custom_metadata")
  file.write_text(json.dumps(content | {"custom_metadata": {}}))
  with training.Checkpoints(directory) as saved:
    found = saved.load(1, tree)["conv"]["kernel"]
  assert (np.asarray(found) != noise(0)).sum() == 1


@pytest.mark.parametrize("damage", ["cut", "renamed", "lost"])
def test_damaged_metadata_are_no_older_version(directory, damage):
  file = directory / "1" / "_CHECKPOINT_METADATA"
  text = file.read_text()
  file.unlink()
  if damage != "lost":
    renamed = text.replace("init_", "jnit_")
    file.write_text(text[:200] if damage == "cut" else renamed)
  with (
    pytest.raises(training.CheckpointError, match="damaged"),
    training.Checkpoints(directory) as saved,
  ):
    saved.load(1, TREE)


def test_rounded_networks_have_their_own_checksums(tmp_path):
  kernel = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  tree = {"conv": {"kernel": jnp.asarray(kernel)}}
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
  with training.Checkpoints(tmp_path) as saved:
    saved.save(0, rounded)
    for found in (saved.load(0, tree), saved.load_layers(0, tree)):
      assert found["conv"]["kernel"].dtype == jnp.float32
      np.testing.assert_array_equal(
        found["conv"]["kernel"], rounded["conv"]["kernel"].astype(jnp.float32)
      )


def test_numpy_integers_are_epochs(tmp_path):
  with training.Checkpoints(tmp_path) as saved:
    saved.save(np.int64(3), TREE)
    for found in (
      saved.load(np.int64(3), TREE),
      saved.load_layers(np.int32(3), TREE),
    ):
      np.testing.assert_array_equal(found["norm"]["mean"], np.ones(3))
    assert saved.shapes(np.uint8(3))["norm"]["mean"].shape == (3,)
    with pytest.raises(TypeError):
      saved.load(3.0, TREE)


def test_a_tree_is_replaced_only_on_request(tmp_path):
  ones, zeros = {"a": jnp.ones(3)}, {"a": jnp.zeros(3)}
  with training.Checkpoints(tmp_path) as saved:
    saved.save(2, ones)
    saved.save(2, zeros)
    np.testing.assert_array_equal(saved.load(2, ones)["a"], 1)
    saved.save(2, zeros, replace=True)
    saved.save(3, ones, replace=True)
    np.testing.assert_array_equal(saved.load(2, ones)["a"], 0)
    assert saved.epochs == [2, 3]
