"""Layer rewinds: exact at both ends, resumed, and refused by sentences."""

import functools
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import models, runs, studies, training
from geomem.models.resnet import resnet
from geomem.studies import hybrids
from geomem.studies.trained import checkpoints
from tests.binaries import execute
from tests.fakes import commit, fields_of

FIELDS = {
  "model": "blocks",
  "width": 2,
  "epochs": 2,
  "examples_per_class": 40,
  "num_classes": 3,
  "manifold_points": 5,
  "num_probes": 10,
}
# A residual network with a block of each kind: with a shortcut, and without.
LAYERS = ["stem", "block1_1", "block1_2", "block2_1", "logits"]
DEPTH = len(LAYERS)


@pytest.fixture(scope="module", autouse=True)
def blocks():
  small = functools.partial(resnet, depths=(2, 1)), 2
  with pytest.MonkeyPatch.context() as patched:
    patched.setitem(models.MODELS, "blocks", small)
    yield


def random_state(network, rng):
  """Unlike fresh networks' at the vectors, batch statistics among them."""

  def draw(leaf):
    if len(leaf.shape) == 1:
      return rng.uniform(0.5, 1.5, leaf.shape).astype("f4")
    scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return rng.normal(0, scale, leaf.shape).astype("f4")

  return jax.tree.map(draw, network.abstract_state)


def write_random(path, config):
  """A run as if finished: a network of its own, at random, at every epoch."""
  experiment = studies.prepare(config)
  seed = studies.prepare_seed(experiment, 0)
  with (
    runs.Run(path, fields_of(config)) as run,
    checkpoints(run.path, 0) as saved,
  ):
    for epoch in range(3):
      state = random_state(experiment.network, np.random.default_rng(epoch))
      saved.save(epoch, state)
      rows = studies.score_subsets(experiment, seed, state)
      commit(run, [{"seed": 0, "epoch": epoch} | row for row in rows])
    for metric, value in (("best_epoch", 1), ("last_epoch", 2)):
      commit(run, [{"seed": 0, "metric": metric, "value": value}])
  return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return write_random(
    tmp_path_factory.mktemp("run"), studies.make_config(**FIELDS)
  )


@pytest.fixture
def copy(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def parts(finished):
  """Experiment, seed, and the states of all epochs."""
  experiment = studies.TrainedRun(finished).experiment
  with checkpoints(finished, 0) as saved:
    like = experiment.network.abstract_state
    states = {epoch: saved.load(epoch, like) for epoch in saved.epochs}
  return experiment, studies.prepare_seed(experiment, 0), states


def study_of(path, **config):
  config = studies.RewindConfig(**config)
  return studies.LayerRewind(config, studies.TrainedRun(path))


def rewound_rows(path, **config):
  """The rows of rewinds, done in part already or not; never complete."""
  study = study_of(path, **config)
  rows = studies.run(study)
  (study.directory / "done").unlink()
  return [row for row in rows if "kind" in row]


def scores_of(rows, **columns):
  return {
    (row["subset"], row["metric"]): (row["value"], row["stderr"])
    for row in rows
    if row["metric"] in ("accuracy", "loss")
    and all(row[name] == value for name, value in columns.items())
  }


def assert_same(found, expected):
  """Accuracies are equal; losses are to the rounding of other programs."""
  assert found.keys() == expected.keys()
  for name, pair in found.items():
    error = 0 if "accuracy" in name else 1e-5
    assert pair == pytest.approx(expected[name], rel=error, abs=0), name


def test_a_run_whose_data_moved_opens(finished):
  moved = studies.TrainedRun(finished, data_dir="elsewhere").experiment
  assert moved.config.data.data_dir == "elsewhere"


def test_the_last_epoch_changes_nothing_and_all_layers_change_all(finished):
  own = [row for row in runs.read_rows(finished) if row["layer"] is None]
  for reading in ("together", "parameters"):
    rows = rewound_rows(finished, batch_norm=reading)
    last = scores_of(own, epoch=2)
    assert len(last) == 8
    for kind, j in itertools.product(("suffix", "prefix"), range(DEPTH)):
      names = LAYERS[DEPTH - 1 - j :] if kind == "suffix" else LAYERS[: j + 1]
      name = "+".join(names)
      assert_same(scores_of(rows, kind=kind, rewound=name, epoch=2), last)
    for name in LAYERS:
      assert_same(scores_of(rows, kind="single", rewound=name, epoch=2), last)
  rows = rewound_rows(finished)
  for kind, epoch in itertools.product(("suffix", "prefix"), (0, 1, 2)):
    found = scores_of(rows, kind=kind, rewound="+".join(LAYERS), epoch=epoch)
    assert_same(found, scores_of(own, epoch=epoch))
  assert len(rows) == 3 * 3 * DEPTH * 9
  # The test accuracy of an epoch's own network is recovered, the best is 1.
  recovered = {
    row["epoch"]: (row["value"], row["stderr"])
    for row in rows
    if row["metric"] == "recovered" and row["rewound"] == "+".join(LAYERS)
  }
  assert recovered[1][0] == 1
  assert recovered[2][0] == 0
  # With the error of its accuracy, in units of what was lost.
  accuracy = {e: scores_of(own, epoch=e)["test", "accuracy"] for e in (0, 1, 2)}
  lost = accuracy[1][0] - accuracy[2][0]
  assert recovered[0][1] == pytest.approx(accuracy[0][1] / lost)
  drawn = studies.draw(finished / "rewind")
  assert {path.stem for path in drawn} == {
    "accuracy_by_epoch",
    "heatmaps",
    "recovered",
  }


@pytest.mark.parametrize("layers", [LAYERS[:3], LAYERS[3:4], LAYERS[-2:]])
def test_hybrids_are_the_networks_of_their_states(parts, layers):
  experiment, _, states = parts
  network = experiment.network
  mixed = hybrids.Hybrids(network, states[2], states[1], {})
  # The other networks share their beginnings with it.
  masks = [hybrids.mask_of(network, LAYERS[:i]) for i in range(DEPTH)]
  mask = hybrids.mask_of(network, layers)
  images = experiment.test.images[:50]
  normal = images, experiment.mean, experiment.std
  (found,) = hybrids.hybrid_logits(mixed, [*masks, mask], *normal)
  state = {
    n: states[1 if n in layers else 2][n] for n in network.parameter_layers
  }
  jax.tree.map(np.testing.assert_array_equal, mixed.state(mask), state)
  expected = training.predict_logits(network, state, *normal)
  np.testing.assert_allclose(found[-1], expected, rtol=1e-4, atol=1e-5)
  assert not np.array_equal(found[-1], found[0])


def test_reestimated_statistics_are_those_of_the_layers_inputs(parts):
  experiment, _, states = parts
  network = experiment.network
  mask = hybrids.mask_of(network, LAYERS[:2])
  mixed = hybrids.Hybrids(network, states[2], states[1], {})
  images = np.asarray(experiment.train.images)
  normal = images, experiment.mean, experiment.std
  state = hybrids.reestimate(mixed, [mask], *normal).state(mask)
  inputs = jnp.asarray((images - experiment.mean) / experiment.std)
  # Batch norm by hand: what enters each norm of the re-estimated network has
  # the mean and the variance that the norm keeps.
  stem = network.apply(state, inputs).activations["stem"]
  block = state["block1_1"]
  for x, layer in [(inputs, state["stem"]), (stem, block["conv1"])]:
    convolved = jax.lax.conv_general_dilated(
      x,
      layer["conv"]["kernel"],
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    norm = layer["norm"]
    mean, var = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
    np.testing.assert_allclose(norm["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm["var"], var, rtol=1e-4)
  for name, epoch in [("stem", 1), ("block1_1", 1), ("block1_2", 2)]:
    found, own = (
      network.split({name: x[name]}) for x in (state, states[epoch])
    )
    jax.tree.map(np.testing.assert_array_equal, found[0], own[0])
    assert not any(
      jax.tree.leaves(jax.tree.map(np.array_equal, found[1], own[1]))
    )


def test_only_parameters_are_rewound_where_asked(parts, finished):
  experiment, seed, states = parts
  rows = rewound_rows(
    finished, layers=("block2_1",), epochs=(1,), batch_norm="parameters"
  )
  paths = jax.tree_util.tree_flatten_with_path(states[1]["block2_1"])[0]
  kept = [path[-1].key in ("mean", "var") for path, _ in paths]
  assert sum(kept) == 6
  leaves = [jax.tree.leaves(states[e]["block2_1"]) for e in (1, 2)]
  chosen = [
    last if keep else old for keep, old, last in zip(kept, *leaves, strict=True)
  ]
  structure = jax.tree.structure(states[1]["block2_1"])
  mixed = states[2] | {"block2_1": jax.tree.unflatten(structure, chosen)}
  expected = scores_of(studies.score_subsets(experiment, seed, mixed))
  assert_same(scores_of(rows, kind="custom", rewound="block2_1"), expected)


@pytest.mark.long
def test_the_binary_measures_and_the_second_start_does_nothing(tmp_path):
  # Another process knows no network of ours.
  config = studies.make_config(**FIELDS | {"model": "resnet18"})
  run = write_random(tmp_path / "run", config)
  options = ("--layers=logits", "--epochs=1", "--geometry")
  first = execute("rewind", *options, run=run)
  assert "Recovered shares cannot be told" in first.stdout, first.stderr
  out = run / "rewind-logits-1-geometry"
  for figure in ("accuracy_by_epoch", "heatmaps", "recovered"):
    assert (out / "figures" / f"{figure}.png").stat().st_size
  rows = runs.read_rows(out)
  measured = {row["layer"] for row in rows if row["metric"] == "capacity"}
  # The layers below are the last network's, which the run itself measured.
  assert measured == {"logits"}
  second = execute("rewind", *options, run=run)
  assert "nothing to do" in second.stdout
  assert runs.read_rows(out) == rows


def test_geometry_of_some_subsets_is_measured_once(copy, monkeypatch):
  study = study_of(copy, layers=("logits",), epochs=(1,), geometry=True)
  config = study.trained.experiment.config.replace(subsets="test")
  experiment = study.trained.experiment._replace(config=config)
  study.trained.experiment = experiment
  study.trained.seeds = studies.prepare_seeds(experiment)
  rows = studies.run(study)
  assert rows.where("capacity").subsets == ["test"]
  (study.directory / "done").unlink()
  monkeypatch.setattr("geomem.studies.rewind.measure_network", pytest.fail)
  assert studies.run(study) == rows


def test_equal_rewinds_are_evaluated_once(finished):
  assert len(study_of(finished).mixed) == 3 * DEPTH - 3


def test_an_epoch_that_is_not_saved_is_refused_by_those_that_are(finished):
  with pytest.raises(ValueError, match=r"Epoch 7 of seed 0 .* 0, 1, 2\."):
    study_of(finished, epochs=(1, 7))


def test_a_run_without_checkpoints_names_what_is_there(copy):
  shutil.rmtree(copy / "checkpoints" / "seed0")
  with pytest.raises(training.CheckpointError, match=r"checkpoints holds not"):
    rewound_rows(copy)
  shutil.rmtree(copy / "checkpoints")
  with pytest.raises(training.CheckpointError, match=r"holds .*config\.json,"):
    rewound_rows(copy)
  assert not (copy / "checkpoints").exists()


def test_reestimated_statistics_are_those_of_training_images(parts, finished):
  """The scores of one rewind, from batch statistics of all of them at once."""
  experiment, seed, states = parts
  network = experiment.network
  options = {"layers": ("block1_1",), "epochs": (1,)}
  rows = rewound_rows(finished, batch_norm="reestimated", **options)
  assert {row["batch_norm"] for row in rows} == {"reestimated"}
  mixed = states[2] | {"block1_1": states[1]["block1_1"]}
  images = np.asarray(experiment.train.images)
  assert len(images) == 120
  inputs = jnp.asarray((images - experiment.mean) / experiment.std)
  # In training, layers are normalized by their batch, and running statistics
  # go a tenth of the way to it.
  trained = jax.jit(lambda x: network.apply(mixed, x, train=True).state)(inputs)
  parameters, before = network.split(mixed)
  _, after = network.split(trained)
  own = jax.tree.map(lambda old, new: 10 * new - 9 * old, before, after)
  expected = scores_of(
    studies.score_subsets(experiment, seed, network.merge(parameters, own))
  )
  found = scores_of(rows, kind="custom", rewound="block1_1", epoch=1)
  assert found.keys() == expected.keys()
  assert len(found) == 8
  for name, (value, _) in found.items():
    # At most one decision of an image hangs on the rounding.
    error = 1 / 50 if "accuracy" in name else 2e-3
    assert value == pytest.approx(expected[name][0], abs=error, rel=error)
  kept = scores_of(studies.score_subsets(experiment, seed, mixed))
  losses = [(found[n][0], kept[n][0]) for n in found if "loss" in n]
  assert all(abs(a - b) > 0.1 * b for a, b in losses)
