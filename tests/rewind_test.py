"""Layer rewinds: exact at both ends, resumed, and refused by sentences."""

import itertools
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import analysis, models, plots, runs, training
from geomem.analysis import hybrids

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = analysis.ExperimentConfig(
  model="resnet18",
  width=2,
  epochs=2,
  examples_per_class=40,
  num_classes=3,
  manifold_points=4,
  num_probes=5,
)
LAYERS = ["stem", *(f"block{s}_{i}" for s in range(1, 5) for i in (1, 2))]
LAYERS += ["logits"]
DEPTH = len(LAYERS)


def execute(path, *options):
  """The binary: its flags and another's do not fit in one process."""
  module = "experiments.rewind"
  return subprocess.run(
    [sys.executable, "-m", module, f"--run={path}", *options],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )


def random_state(network, rng):
  """Unlike fresh networks' at the vectors, batch statistics among them."""

  def draw(leaf):
    if len(leaf.shape) == 1:
      return rng.uniform(0.5, 1.5, leaf.shape).astype("f4")
    scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return rng.normal(0, scale, leaf.shape).astype("f4")

  return jax.tree.map(draw, network.abstract_state)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run as if finished: a network of its own, at random, at every epoch."""
  path = tmp_path_factory.mktemp("run")
  experiment = analysis.prepare(CONFIG)
  seed = analysis.prepare_seed(experiment, 0)
  with (
    runs.Run(path, analysis.config_dict(CONFIG)) as run,
    analysis.checkpoints_of(run, 0) as saved,
  ):
    for epoch in range(3):
      state = random_state(experiment.network, np.random.default_rng(epoch))
      saved.save(epoch, state)
      rows = analysis.score_subsets(experiment, seed, state)
      run.append([{"seed": 0, "epoch": epoch} | row for row in rows])
    for metric, value in (("best_epoch", 1), ("last_epoch", 2)):
      run.append([{"seed": 0, "metric": metric, "value": value}])
  return path


@pytest.fixture
def copy(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def parts(finished):
  """Experiment, seed, and the states of all epochs."""
  experiment = analysis.load_experiment(finished)
  with analysis.checkpoints_of(finished, 0) as saved:
    like = experiment.network.abstract_state
    states = {epoch: saved.load(epoch, like) for epoch in saved.epochs}
  return experiment, analysis.prepare_seed(experiment, 0), states


def rewound_rows(path, **config):
  config = analysis.RewindConfig(**config)
  experiment = analysis.load_experiment(path)
  seed = analysis.prepare_seed(experiment, 0)
  with runs.Run(path / config.directory, config.as_dict()) as run:
    for _ in analysis.score_rewinds(run, path, experiment, seed, config):
      pass
    return [row for row in run.rows() if "kind" in row]


def scores_of(rows, **columns):
  return {
    (row["subset"], row["metric"]): (row["value"], row["stderr"])
    for row in rows
    if row["metric"] in ("accuracy", "loss")
    and all(row[name] == value for name, value in columns.items())
  }


def test_the_last_epoch_changes_nothing_and_all_layers_change_all(finished):
  own = [row for row in runs.read_rows(finished) if row["layer"] is None]
  for reading in ("together", "parameters"):
    rows = rewound_rows(finished, batch_norm=reading)
    last = scores_of(own, epoch=2)
    assert len(last) == 8
    for kind, j in itertools.product(("suffix", "prefix"), range(DEPTH)):
      names = LAYERS[DEPTH - 1 - j :] if kind == "suffix" else LAYERS[: j + 1]
      name = "+".join(names)
      assert scores_of(rows, kind=kind, rewound=name, epoch=2) == last
    for name in LAYERS:
      assert scores_of(rows, kind="single", rewound=name, epoch=2) == last
  rows = rewound_rows(finished)
  for kind, epoch in itertools.product(("suffix", "prefix"), (0, 1, 2)):
    found = scores_of(rows, kind=kind, rewound="+".join(LAYERS), epoch=epoch)
    assert found == scores_of(own, epoch=epoch)
  assert len(rows) == 3 * 3 * DEPTH * 9
  # The test accuracy of an epoch's own network is recovered, the best is 1.
  recovered = {
    row["epoch"]: row["value"]
    for row in rows
    if row["metric"] == "recovered" and row["rewound"] == "+".join(LAYERS)
  }
  assert recovered[1] == 1
  assert recovered[2] == 0
  drawn = plots.draw_all(finished / "rewind")
  assert {path.stem for path in drawn} == {
    "accuracy_by_epoch",
    "heatmaps",
    "recovered",
  }


@pytest.mark.parametrize("layers", [LAYERS[:3], LAYERS[4:5], LAYERS[-2:]])
def test_hybrids_are_the_networks_of_their_states_bit_for_bit(parts, layers):
  experiment, _, states = parts
  network = experiment.network
  mixed = hybrids.Hybrids(network, states[2], states[1], {})
  # The other networks share their beginnings with it.
  masks = [hybrids.mask_of(network, LAYERS[:i]) for i in range(DEPTH)]
  mask = hybrids.mask_of(network, layers)
  images = experiment.test.images[:50]
  normal = images, experiment.mean, experiment.std
  found = {
    m: logits
    for m, _, logits in hybrids.hybrid_logits(mixed, [*masks, mask], *normal)
  }
  state = {
    n: states[1 if n in layers else 2][n] for n in network.parameter_layers
  }
  jax.tree.map(np.testing.assert_array_equal, mixed.state(mask), state)
  expected = training.predict_logits(network, state, *normal)
  np.testing.assert_array_equal(found[mask], expected)
  assert not np.array_equal(found[mask], found[masks[0]])


def test_reestimated_statistics_are_those_of_the_layers_inputs(parts):
  experiment, _, states = parts
  network = experiment.network
  mask = hybrids.mask_of(network, LAYERS[:2])
  mixed = hybrids.Hybrids(network, states[2], states[1], {})
  images = experiment.train.images
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
    finished, layers=("block3_1",), epochs=(1,), batch_norm="parameters"
  )
  paths = jax.tree_util.tree_flatten_with_path(states[1]["block3_1"])[0]
  kept = [path[-1].key in ("mean", "var") for path, _ in paths]
  assert sum(kept) == 6
  leaves = [jax.tree.leaves(states[e]["block3_1"]) for e in (1, 2)]
  chosen = [
    last if keep else old for keep, old, last in zip(kept, *leaves, strict=True)
  ]
  structure = jax.tree.structure(states[1]["block3_1"])
  mixed = states[2] | {"block3_1": jax.tree.unflatten(structure, chosen)}
  expected = scores_of(analysis.score_subsets(experiment, seed, mixed))
  assert scores_of(rows, kind="custom", rewound="block3_1") == expected


def test_the_binary_measures_and_the_second_start_does_nothing(copy):
  options = ("--layers=logits", "--epochs=1", "--geometry")
  first = execute(copy, *options)
  assert "Best custom rewind: logits, to epoch 1" in first.stdout, first.stderr
  out = copy / "rewind-logits-1-geometry"
  for figure in ("accuracy_by_epoch", "heatmaps", "recovered"):
    assert (out / "figures" / f"{figure}.png").stat().st_size
  rows = runs.read_rows(out)
  measured = {row["layer"] for row in rows if row["metric"] == "capacity"}
  # The layers below are the last network's, which the run itself measured.
  assert measured == {"logits"}
  second = execute(copy, *options)
  assert "nothing to do" in second.stdout
  assert runs.read_rows(out) == rows


def test_mixed_layers_have_both_epochs_below(parts):
  network = parts[0].network

  def mixed(*layers):
    return hybrids.mixed_layers(network, hybrids.mask_of(network, layers))

  assert mixed("block4_2") == ["block4_2", "pool", "logits"]
  assert mixed(*LAYERS[:-2]) == ["block4_2", "pool", "logits"]
  assert mixed(*LAYERS[:-1]) == ["logits"]
  assert mixed(*LAYERS) == []


def made_rows(suffix, single):
  """Rows of two seeds and two epochs: recovered, and (permuted, unpermuted)."""
  rows = []
  for seed, subset in itertools.product((0, 1), ("unpermuted", "permuted")):
    rows += [
      {"seed": seed, "metric": "best_epoch", "value": 1},
      {"seed": seed, "metric": "last_epoch", "value": 9},
      {"seed": seed, "metric": "chance_accuracy", "value": 0.1},
    ]
    last = {"subset": subset, "metric": "accuracy", "value": 1.0}
    rows.append({"seed": seed, "epoch": 9} | last)
  for seed, epoch in itertools.product((0, 1), (1, 9)):
    columns = {"seed": seed, "epoch": epoch, "kind": "suffix"}
    for count, value in enumerate(suffix, 1):
      found = {"rewound": "+".join("abcd"[4 - count :]), "subset": "test"}
      value = (value + 0.1 * (seed - 0.5)) * (epoch == 1)
      rows.append(columns | found | {"metric": "recovered", "value": value})
      other = {"subset": "permuted", "metric": "accuracy", "value": 0.2}
      rows.append(columns | found | other)
    for layer, values in single.items():
      for subset, value in zip(("permuted", "unpermuted"), values, strict=True):
        found = {"kind": "single", "rewound": layer, "subset": subset}
        found |= {"metric": "accuracy", "value": value if epoch == 1 else 1.0}
        rows.append(columns | found)
  return [dict.fromkeys(runs.COLUMNS) | row for row in rows]


def test_findings_follow_the_rows():
  single = {"a": (0.3, 0.5), "b": (0.4, 0.9), "c": (0.9, 1.0), "d": (0.8, 1.0)}
  last, outside = analysis.find_rewinds(made_rows([0.1, 0.5, 0.9, 1], single))
  assert not last.holds
  assert "the last 2 layers (from c on) of 4 recover 50% ± 7%" in last.sentence
  assert "80% takes the last 3 layers (from b on): 90% ± 7%" in last.sentence
  assert outside.holds
  assert "is b at epoch 1 (permuted accuracy 1.000 to 0.400" in outside.sentence
  assert "In the last third (c, d) it is d at epoch 1" in outside.sentence
  single["d"] = (0.1, 1.0)
  rows = made_rows([0.1, 0.85, 0.9, 1], single)
  last, outside = analysis.find_rewinds(rows)
  assert last.holds
  assert not outside.holds
  assert "is d at epoch 1" in outside.sentence
  assert analysis.best_rewinds(rows)[0].startswith(
    "Best suffix rewind: the last 3 layers (from b on), to epoch 1; 90% ± 7%"
  )


def test_killed_it_ends_with_the_same_rows(copy):
  calm = rewound_rows(copy, kinds=("suffix",))
  file = copy / "rewind-suffix" / "results.jsonl"
  whole = file.read_bytes()
  for cut in (0.1, 0.55, 0.9):
    file.write_bytes(whole[: int(cut * len(whole))])
    assert rewound_rows(copy, kinds=("suffix",)) == calm
    assert file.read_bytes() == whole


def test_equal_rewinds_are_evaluated_once(parts):
  experiment, _, _ = parts
  config = analysis.RewindConfig()
  assert analysis.num_networks(experiment, config)[0] == 3 * DEPTH - 3


@pytest.mark.parametrize(
  ("values", "sentence"),
  [
    ({"layers": ("stem", "fc")}, r"'fc' is no layer .* there are stem,"),
    ({"layers": ("pool",)}, r"'pool' is no layer .* with something"),
    ({"kinds": ("middle",)}, r"'middle' is not known .* single, suffix,"),
    ({"batch_norm": "no"}, r"'no' is not known .* together, parameters,"),
    ({"epochs": (7,)}, r"Epoch 7 of seed 0 is not saved; there are 0, 1, 2"),
  ],
)
def test_bad_input_is_a_sentence(finished, parts, values, sentence):
  config = analysis.RewindConfig(**values)

  def prepare():
    analysis.make_rewinds(parts[0].network, config)
    analysis.epochs_to_rewind(finished, config, 0)

  with pytest.raises(ValueError, match=sentence):
    prepare()


def test_readings_need_batch_norm():
  network = models.build("mlp", num_classes=3, image_shape=(8, 8, 1))
  config = analysis.RewindConfig(batch_norm="parameters")
  with pytest.raises(ValueError, match="not known for mlp; choose of together"):
    analysis.make_rewinds(network, config)


def test_a_run_without_checkpoints_names_what_is_there(copy):
  shutil.rmtree(copy / "checkpoints" / "seed0")
  with pytest.raises(training.CheckpointError, match=r"checkpoints holds not"):
    rewound_rows(copy)
  shutil.rmtree(copy / "checkpoints")
  with pytest.raises(training.CheckpointError, match=r"holds .*config\.json,"):
    rewound_rows(copy)
  assert not (copy / "checkpoints").exists()


def test_layers_are_restored_alone(copy, parts):
  experiment, _, states = parts
  like = experiment.network.abstract_state
  with analysis.checkpoints_of(copy, 0) as saved:
    found = saved.load_layers(
      1, {name: like[name] for name in ("stem", "logits")}
    )
    assert set(found) == {"stem", "logits"}
    expected = {name: states[1][name] for name in found}
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(
      training.CheckpointError, match=r"'fc' .* there are block"
    ):
      saved.load_layers(1, {"fc": like["stem"]})
    with pytest.raises(training.CheckpointError, match="of another network"):
      saved.load_layers(1, {"stem": like["logits"]})
  for file in (copy / "checkpoints" / "seed0" / "1").rglob("_METADATA"):
    file.unlink()
  with (
    analysis.checkpoints_of(copy, 0) as saved,
    pytest.raises(training.CheckpointError, match=r"damaged.* \[0, 1, 2\]"),
  ):
    saved.load_layers(1, {"stem": like["stem"]})
