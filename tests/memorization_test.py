"""The main job through its binary: results, log, resuming, refusals."""

import re

import jax
import numpy as np
import pytest
from scipy import stats

from geomem import runs, studies, training
from geomem.measures import statistics
from geomem.studies import train
from tests.binaries import execute
from tests.fakes import SMALL_RUN, fields_of
from tests.log_test import lines_of

SMALL = SMALL_RUN | {"epochs": 3}


def test_a_run_is_whole_and_the_second_start_does_nothing(tmp_path):
  out = tmp_path / "run"
  first = execute("memorization", pdf=True, out=out, **SMALL_RUN)
  assert first.returncode == 0, first.stderr
  lines = expect_log(out, first)
  rows = runs.read_rows(out)
  # 3 layers x 3 epochs x 4 subsets x 2 seeds; input to logits.
  capacities = [row for row in rows if row["metric"] == "capacity"]
  assert len(capacities) == 3 * 3 * 4 * 2
  assert all(row["value"] > 0 and row["stderr"] > 0 for row in capacities)
  sizes = {r["layer"]: r["value"] for r in rows.where("num_features", seed=1)}
  assert sizes == {"input": 64, "fc1": 4, "logits": 3}
  for name in ("accuracy", "geometry_by_layer", "capacity_by_epoch"):
    for suffix in (".png", ".pdf"):
      assert (out / "figures" / (name + suffix)).stat().st_size
  second = execute("memorization", out=out, **SMALL_RUN)
  assert "nothing to do" in second.stdout
  assert runs.read_rows(out) == rows
  assert lines_of(out) == lines  # A complete run is left alone.
  other = execute("memorization", out=out, **SMALL_RUN | {"width": 5})
  assert other.returncode == 1
  assert "width differs" in other.stderr
  assert runs.read_rows(out) == rows


def expect_log(out, told) -> list[str]:
  """Expects that the run has kept a log of what it told; returns its lines."""
  assert "F3.1" in told.stdout
  assert not (out / "resume").exists()  # Nothing is left to resume.
  lines = lines_of(out)
  assert lines[0].startswith("Command: ")
  text = "\n".join(lines)
  assert re.search(rf"Work on {out} begins: .*, process 0 of 1 on", text)
  assert "\ntraining, seeds 0 to 1: 2 of 2 [" in text
  assert "\ngeometry: 18 of 18 [" in text
  # What is printed is in it.
  for line in told.stdout.splitlines():
    assert line in text
  assert re.match(rf"Work on {out} is done after [\d.]+ s, [\d.]+ s", lines[-1])
  # Every line but those of tables has its time.
  stamped = re.findall(r"^\d{4}-\d\d-\d\d", (out / "log.txt").read_text(), re.M)
  assert len(stamped) > 8
  assert 0 < runs.read_duration(out) < 600
  # Without a terminal a bar is a line, and says what it waits for.
  first = told.stderr.splitlines()[0]
  assert first == "training, seeds 0 to 1: 0 of 2 [00:00<?, compiling]"
  return lines


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    ({"dataset": "nonesuch", "data_dir": "/nowhere"}, "no data set 'nonesuch'"),
    ({"model": "vgg"}, "'vgg' is not known"),
    ({"optimizer": "lion"}, "'lion' is not known"),
    ({"permuted_fraction": 1.2}, "permuted_fraction is 1.2"),
    ({"manifold_points": 500}, "lower --manifold_points"),
    (
      {"permuted_fraction": 0.02},
      "leave permuted examples out with --subsets",
    ),
    ({"batch_size": 5000}, "lower --batch_size"),
    ({"centers": "half"}, "'half' is not known"),
    ({"centers": "9"}, "from 3 manifolds; at most"),
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


@pytest.mark.parametrize(
  ("num_bytes", "sentence"),
  [
    (100, "The products of all 15 points"),
    # Four subsets of 15 points in 64 features: 15,360 bytes.
    (15_000, "Layer input takes"),
  ],
)
def test_measures_without_room_are_refused_before_training(
  num_bytes, sentence, monkeypatch, tmp_path
):
  monkeypatch.setattr(statistics, "_MOST_HELD_BYTES", num_bytes)
  config = studies.make_config(**SMALL_RUN, measures="mean_field,probe")
  study = studies.Memorization(config)  # Complete runs can be opened.
  with (
    runs.Run(tmp_path, study.as_dict()) as run,
    pytest.raises(ValueError, match=sentence),
  ):
    next(study.stages(run))
  other = studies.Memorization(config.replace(measures="mean_field"))
  with runs.Run(tmp_path, other.as_dict()) as run:
    next(other.stages(run))


def test_a_run_without_any_geometry_says_so(tmp_path, monkeypatch, caplog):
  """All seeds end before the only epoch that was to be measured."""
  monkeypatch.setattr(train, "MEMORIZED", 0.0)
  options = {"stop_when_memorized": True, "measure_epochs": "3"}
  study = studies.Memorization(studies.make_config(**SMALL | options))
  rows = studies.run(study, tmp_path)
  assert not rows.where("capacity")
  assert rows.epochs("last") == {0: 0, 1: 0}
  assert "measure_epochs is 3, and the networks are of epochs 0." in caplog.text


def test_training_stops_once_the_permuted_labels_are_memorized(
  tmp_path, monkeypatch
):
  by_epoch = [0.1, 0.98, 0.991, 1.0], [0.1, 0.6, 0.8, 0.9]
  left = [iter(accuracies) for accuracies in by_epoch]

  def scores(_, seed, state):
    del state
    values = {"permuted": next(left[seed.number]), "test": 1.0}
    at = {"metric": "accuracy", "stderr": 0.0}
    return [at | {"subset": s, "value": value} for s, value in values.items()]

  monkeypatch.setattr(train, "score_subsets", scores)
  config = studies.make_config(**SMALL | {"stop_when_memorized": True})
  experiment = studies.prepare(config)
  seeds = [studies.prepare_seed(experiment, i) for i in (0, 1)]
  with runs.Run(tmp_path, fields_of(config)) as run:
    list(train.train_seeds(run, experiment, seeds))
    scored = run.rows.where("accuracy", subset="permuted")
  for number, accuracies in ((0, by_epoch[0][:3]), (1, by_epoch[1])):
    assert scored.where(seed=number).values.tolist() == accuracies


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
  # Of few units all may be dead at once, and the loss is finite.
  options = {"model": "mlp", "width": 16, "learning_rate": 1e6}
  config = studies.make_config(**SMALL | options)
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


def test_errors_of_scores_are_those_of_a_mean_over_examples():
  """Of the accuracy, what SciPy's Beta(hits + 1, misses + 1) leaves open."""
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
  found = training.scores(
    {"all": (logits, labels), "one": (logits[:1], labels[:1])}
  )
  hits = (logits.argmax(axis=1) == labels).astype(float)
  assert 0 < hits.mean() < 1
  losses = -np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
  losses = losses[np.arange(7), labels]
  expected = runs.mean_and_error(losses)
  assert found["all"]["loss"] == pytest.approx(expected, rel=1e-5)
  assert np.isnan(found["one"]["loss"][1])
  for name, some in (("all", hits), ("one", hits[:1])):
    unknown = stats.beta(some.sum() + 1, (1 - some).sum() + 1).std()
    expected = some.mean(), unknown
    assert found[name]["accuracy"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_of_a_few_examples_leave_something_unknown(share):
  error = runs.error_of_share(share, 20)
  assert error == pytest.approx(stats.beta(21, 1).std())
  assert error > 0.04


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_decide_nothing(bad):
  logits = np.zeros((20, 5), np.float32)
  labels = np.arange(20) % 5
  every, one = np.full_like(logits, bad), logits.copy()
  one[3, 4] = bad
  found = training.scores({"every": (every, labels), "one": (one, labels)})
  for name in found:
    assert np.isnan(found[name]["accuracy"]).all(), name


@pytest.mark.parametrize("num_seeds", [1, 2])
@pytest.mark.parametrize(
  ("decay", "sentence"), [(0.0, "logits .* overflow"), (1e30, "parameters")]
)
def test_a_last_update_that_is_too_large_stops_before_it_is_saved(
  tmp_path, num_seeds, decay, sentence
):
  """One step an epoch: only the next loss would show what it did."""
  options = {"batch_size": 180, "epochs": 1, "learning_rate": 1e30}
  # Of few units all may be dead then, and the logits are the last bias.
  options |= {"model": "mlp", "width": 16, "num_seeds": num_seeds}
  options |= {"weight_decay": decay}
  study = studies.Memorization(studies.make_config(**(SMALL | options)))
  sentence += ".*lower --learning_rate"
  with pytest.raises(training.NonFiniteLossError, match=sentence):
    studies.run(study, tmp_path)
  assert runs.read_rows(tmp_path).where("accuracy", epoch=1) == []
  assert not list(tmp_path.glob("checkpoints/*/1"))


@pytest.mark.parametrize("unknown", [np.nan, None])
@pytest.mark.parametrize("order", [1, -1])
def test_the_first_of_the_best_known_accuracies_is_the_best(order, unknown):
  """In whatever order the rows are: repaired runs have another."""
  study = studies.Memorization(studies.make_config(**SMALL))
  scores = [
    {"metric": "accuracy", "subset": "test", "seed": 0, "epoch": epoch}
    | {"value": value}
    for epoch, value in enumerate([unknown, 0.5, unknown, 0.8, 0.7, 0.8])
  ]
  rows = runs.Rows(scores[::order])
  facts = runs.Rows(study._facts_of(rows, study.seeds[0]))
  assert facts.fact("best_epoch") == {0: 3}


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
