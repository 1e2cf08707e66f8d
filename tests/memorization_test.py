"""The main job through its binary: results, resuming, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import runs, studies, training
from tests.binaries import execute

SMALL = {
  "model": "mlp",
  "width": 16,
  "epochs": 3,
  "manifold_points": 5,
  "num_probes": 10,
  "num_classes": 4,
}


def test_a_run_is_whole_and_the_second_start_does_nothing(tmp_path):
  first = execute("memorization", out=tmp_path / "run", **SMALL)
  assert first.returncode == 0, first.stderr
  rows = runs.read_rows(tmp_path / "run")
  # 5 layers x 4 epochs x 4 subsets; input to logits.
  capacities = [row for row in rows if row["metric"] == "capacity"]
  assert len(capacities) == 5 * 4 * 4
  assert all(row["value"] > 0 and row["stderr"] > 0 for row in capacities)
  for name in ("accuracy", "geometry_by_layer", "capacity_by_epoch"):
    for suffix in (".png", ".pdf"):
      assert (tmp_path / "run" / "figures" / (name + suffix)).stat().st_size
  second = execute("memorization", out=tmp_path / "run", **SMALL)
  assert "nothing to do" in second.stdout
  assert runs.read_rows(tmp_path / "run") == rows
  other = execute(
    "memorization", out=tmp_path / "run", **(SMALL | {"width": 17})
  )
  assert other.returncode == 1
  assert "another width" in other.stderr
  assert runs.read_rows(tmp_path / "run") == rows


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    ({"dataset": "nonesuch", "data_dir": "/nowhere"}, "no data set 'nonesuch'"),
    ({"model": "vgg"}, "'vgg' is not known"),
    ({"optimizer": "lion"}, "'lion' is not known"),
    ({"permuted_fraction": 1.2}, "permuted_fraction is 1.2"),
    ({"manifold_points": 500}, "lower --manifold_points"),
    ({"batch_size": 5000}, "lower --batch_size"),
    ({"centers": "half"}, "'half' is not known"),
    ({"centers": "9"}, "from 4 manifolds; at most"),
    ({"num_seeds": 0}, "num_seeds is 0; at least 1 was expected"),
    ({"num_probes": 0}, "num_probes is 0; at least 1 was expected"),
    ({"manifold_points": 1}, "manifold_points is 1; at least 2"),
    ({"kappa": float("nan")}, "kappa is nan; a finite number was expected"),
    ({"learning_rate": float("nan")}, "learning_rate is nan; a finite number"),
    ({"crop": -1}, "crop is -1; a finite number of at least 0"),
    ({"dataset": "npz:nowhere.npz"}, "There is no file"),
  ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(tmp_path, flags, sentence):
  def prepare():
    config = studies.make_config(**(SMALL | flags))
    return studies.prepare_seed(studies.prepare(config), 0)

  with pytest.raises(ValueError, match=sentence):
    prepare()
  assert not list(tmp_path.iterdir())


def test_training_resumes_bit_for_bit(tmp_path):
  config = studies.make_config(**SMALL)
  experiment = studies.prepare(config)
  seed = studies.prepare_seed(experiment, 0)
  from geomem.studies import experiment as experiments

  data = experiments.training_data(experiment, seed)
  run = [seed.training_key, experiment.network, data, experiment.recipe]
  states = [state for state, _ in training.train(*run)]
  *_, (resumed, _) = training.train(*run, resume=lambda _: states[1])
  jax.tree.map(
    np.testing.assert_array_equal, resumed.network, states[-1].network
  )


def test_a_loss_that_is_not_finite_stops_with_the_step():
  config = studies.make_config(**(SMALL | {"learning_rate": 1e6}))
  experiment = studies.prepare(config)
  seed = studies.prepare_seed(experiment, 0)
  from geomem.studies import experiment as experiments

  data = experiments.training_data(experiment, seed)
  with pytest.raises(training.NonFiniteLossError, match="at step"):
    list(
      training.train(
        seed.training_key, experiment.network, data, experiment.recipe
      )
    )


def test_scores_have_their_closed_forms():
  logits = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
  found = training.scores({"all": (logits, np.array([0, 1]))})["all"]
  assert found["accuracy"][0] == 0.5
  assert found["loss"][0] == pytest.approx(-np.log([0.5, 0.2]).mean())


@pytest.mark.parametrize("margin", [-30.0, -1.0, 0.0, 1.0, 12.0, 30.0, 80.0])
def test_losses_of_fitted_examples_keep_their_digits(margin):
  """In float64, -log softmax of a logit that leads two others by a margin."""
  logits = np.array([[margin, 0, 0], [margin + 50, 50, 50]], np.float32)
  found = training.scores({"all": (logits, np.array([0, 0]))})["all"]
  expected = np.log1p(2 * np.exp(-np.float64(margin)))
  assert found["loss"][0] == pytest.approx(expected, rel=1e-6)


def test_checkpoint_epochs_are_dense_first():
  assert training.checkpoint_epochs(20) == (0, 1, 2, 3, 5, 8, 13, 20)
  assert training.checkpoint_epochs(1) == (0, 1)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
  tree = {"fc": {"kernel": jnp.ones((2, 3))}}
  with training.Checkpoints(tmp_path) as saved:
    for epoch in (1, 2):
      saved.save(epoch, tree)
  for file in (tmp_path / "2").rglob("*"):
    if file.is_file() and file.stat().st_size > 100:
      file.write_bytes(file.read_bytes()[:10])
  with training.Checkpoints(tmp_path) as saved:
    with pytest.raises(training.CheckpointError, match="damaged"):
      saved.load(2, tree)
    epoch, loaded = saved.load_latest(tree)
    assert epoch == 1
    np.testing.assert_array_equal(loaded["fc"]["kernel"], tree["fc"]["kernel"])
    with pytest.raises(
      training.CheckpointError, match="no checkpoint of epoch"
    ):
      saved.load(7, tree)
