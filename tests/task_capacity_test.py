"""The four questions about the task's labels: tables that must come out so."""

import numpy as np
import pytest

from geomem import runs, studies
from geomem.plots.task import half_rise, half_rise_with_error, plot_task
from geomem.studies.task_capacity import TaskCapacity, TaskConfig
from tests.fakes import assert_distinct, curve

EPOCHS = (0, 5, 10, 20)


def row(metric, value, epoch=None, subset=None, layer=None, index=None):
  return {
    "seed": 0,
    "epoch": epoch,
    "layer": layer,
    "layer_index": index,
    "subset": subset,
    "metric": metric,
    "value": value,
    "stderr": 0.0,
  }


def table(mean_field, glue, interior, fitted, test, probe, early=(1, 1, 1, 1)):
  """Rows of two hidden layers and the logits, by epoch."""
  rows = [row("best_epoch", 10), row("last_epoch", 20)]
  for i, epoch in enumerate(EPOCHS):
    for subset, accuracy in (("permuted", fitted), ("test", test)):
      rows.append(row("accuracy", accuracy[i], epoch, subset))
    for index, name in enumerate(("fc1", "fc2", "logits")):
      at = {"epoch": epoch, "layer": name, "index": index}
      grown = early[i] if index == 0 else 1.0
      values = {
        "capacity": mean_field[i] * (1 if index else 1 / mean_field[i]),
        "glue_capacity": glue[i] if index else grown,
        "glue_interior": interior[i],
      }
      for metric, value in values.items():
        rows.append(row(metric, value, subset="permuted", **at))
      rows.append(row("probe_accuracy", probe[i], subset="test", **at))
  return runs.Rows(rows)


ANSWERS = {
  "mean_field": (1, 1, 1.2, 2),
  "glue": (1, 1.8, 2, 2),
  "interior": (0.9, 0.1, 0, 0),
  "fitted": (0.1, 0.2, 0.4, 0.9),
  "test": (0.1, 0.5, 0.7, 0.5),
  "probe": (0.2, 0.6, 0.8, 0.6),
  "early": (1, 1, 1.5, 1.5),
}


def assert_drawn(rows, values, epochs=EPOCHS):
  """Asserts that all curves have their numbers, and gaps at unknown ones."""
  by_epoch, by_layer, fitted, readouts = plot_task(rows).axes
  at = np.isin(EPOCHS, epochs)
  known = {n: np.array(x, float)[at] for n, x in values.items()}
  # The networks themselves were scored at every epoch.
  scored = {n: np.array(values[n], float) for n in ("fitted", "test")}
  inside = known["interior"]

  def assert_curve(ax, label, y):
    x, found = curve(ax, label)
    np.testing.assert_array_equal(x, EPOCHS if len(y) == 4 else epochs)
    np.testing.assert_allclose(found, y)

  grown = {}
  for label, name in (("mean field", "mean_field"), ("GLUE", "glue")):
    grown[label] = known[name] / known[name][0]
    assert_curve(by_epoch, label, grown[label])
  assert_curve(fitted, "separable labellings", 1 - inside)
  assert_curve(fitted, "permuted accuracy", scored["fitted"])
  assert_curve(readouts, "the network's readout", scored["test"])
  assert_curve(readouts, "a new readout", known["probe"])
  # Up to the last epoch, of fc1, fc2 and the logits.
  early = known["early"][-1] / known["early"][0]
  factors = {
    "mean field": [1, grown["mean field"][-1], grown["mean field"][-1]],
    "GLUE": [early, grown["GLUE"][-1], grown["GLUE"][-1]],
  }
  for label, expected in factors.items():
    if EPOCHS[-1] not in epochs or (label == "GLUE" and inside[-1] > 0.5):
      expected = []  # At its bound, GLUE says nothing.
    x, found = curve(by_layer, label)
    np.testing.assert_array_equal(x, range(len(expected)))
    np.testing.assert_allclose(found, expected)


def verdicts(**changed):
  found = TaskCapacity.findings({}, table(**ANSWERS | changed))
  return [each.holds for each in found if hasattr(each, "holds")]


def test_answers_hold_where_they_should():
  assert verdicts() == [True, True, True, True]
  half = {"interior": (0.9, 0.55, 0.45, 0), "fitted": (0.1, 0.2, 0.45, 0.55)}
  assert verdicts(**half) == [True, True, True, True]


@pytest.mark.parametrize(
  ("changed", "place"),
  [
    ({"glue": (1, 1, 1, 2)}, 0),
    ({"early": (1, 1, 1, 1)}, 1),
    ({"interior": (0.9, 0.9, 0.9, 0.1)}, 2),
    ({"interior": (0.9, 0.55, 0.55, 0.45)}, 2),
    ({"interior": (0.9, 0.55, 0.45, 0), "fitted": (0.1, 0.2, 0.55, 0.9)}, 2),
    ({"probe": (0.2, 0.6, 0.8, 0.79)}, 3),
  ],
)
def test_each_can_come_out_otherwise(changed, place):
  expected = [True] * 4
  expected[place] = False
  assert verdicts(**changed) == expected


@pytest.mark.parametrize(
  ("changed", "place"),
  [
    ({"glue": (1, 0.9, 0.8, 0.7)}, 0),
    ({"test": (0.1, 0.5, 0.7, 0.7)}, 3),
    ({"probe": (0.2, 0.6, float("nan"), 0.6)}, 3),
  ],
)
def test_what_the_rows_cannot_answer_is_not_answered(changed, place):
  found = verdicts(**changed)
  assert [i for i, holds in enumerate(found) if holds is None] == [place]


NAN = float("nan")


@pytest.mark.parametrize(
  ("changed", "answers"),
  [
    # Growth and half rises need the first epoch, and all of them.
    ({"glue": (NAN, NAN, NAN, NAN)}, [None, None, True, True]),
    ({"glue": (NAN, 1.8, 2, 2)}, [None, None, True, True]),
    ({"mean_field": (1, NAN, 1.2, 2)}, [None, True, True, True]),
    # Half of the examples are fitted at the last epoch.
    ({"interior": (NAN, NAN, NAN, NAN)}, [True, True, None, True]),
    ({"interior": (0.9, 0.9, NAN, 0)}, [True, True, None, True]),
    ({"interior": (NAN, NAN, 0, 0)}, [True, True, True, True]),
    ({"interior": (0.9, 0.9, 0.9, NAN)}, [True, True, False, True]),
    ({"fitted": (0.1, 0.2, 0.3, 0.4)}, [True, True, None, True]),
    ({"fitted": (0.1, NAN, 0.3, 0.9)}, [True, True, None, True]),
    ({"test": (0.1, 0.5, 0.7, NAN)}, [True, True, True, None]),
  ],
)
def test_what_hangs_on_an_unknown_number_is_not_told(changed, answers):
  # Where fc1 grows by GLUE alone, the other layers may be unknown.
  early = {"early": (1, 1, 1, 1)} if answers[1] is None else {}
  rows = table(**ANSWERS | changed | early)
  found = [f for f in TaskCapacity.findings({}, rows) if hasattr(f, "holds")]
  assert [each.holds for each in found] == answers
  assert_drawn(rows, ANSWERS | changed | early)


def test_each_theory_names_its_own_layers():
  """Of GLUE the first epoch is unknown, but in fc1."""
  rows = table(**ANSWERS | {"glue": (NAN, 1, 3, 4)})
  first, second, *_ = (
    f for f in TaskCapacity.findings({}, rows) if hasattr(f, "holds")
  )
  assert first.sentence == "capacity is unknown by GLUE at epoch 0"
  assert second.holds is True  # Of fc1, by .5 at no error.
  assert (
    "grows by 20% in fc1 (unknown in fc2, logits) by GLUE, in fc2, logits by"
    " mean-field theory" in second.sentence
  )
  by_epoch, by_layer, *_ = plot_task(rows).axes
  lines = {line.get_label(): line for line in by_epoch.get_lines()}
  np.testing.assert_allclose(lines["mean field"].get_ydata()[-1], 2)
  # Without the first epoch there is nothing to divide by.
  assert np.isnan(lines["GLUE"].get_ydata()).all()
  lines = {line.get_label(): line for line in by_layer.get_lines()}
  np.testing.assert_allclose(lines["GLUE"].get_ydata(), [1.5, NAN, NAN])


def test_unknown_epochs_are_named():
  rows = table(**ANSWERS | {"interior": (NAN, 0.9, 0, 0)})
  found = TaskCapacity.findings({"glue_labels": "pairs"}, rows)[2]
  assert (
    "separable first at epoch 10 (unknown at epoch 0); half" in found.sentence
  )
  assert "are fitted first at epoch 20" in found.sentence


@pytest.mark.parametrize(
  ("errors", "answer"),
  [
    # The network loses .2, the probe .2 of which half is .1.
    ({"accuracy": 0.01, "probe_accuracy": 0.03}, True),
    ({"accuracy": 0.01, "probe_accuracy": 0.04}, None),
    ({"accuracy": 0.08, "probe_accuracy": 0.0}, None),
    ({"accuracy": float("nan"), "probe_accuracy": 0.0}, None),
  ],
)
def test_whose_the_fall_is_is_not_told_within_its_error(errors, answer):
  rows = table(**ANSWERS)
  for each in rows:
    each["stderr"] = errors.get(each["metric"])
  found = TaskCapacity.findings({}, rows)[-1]
  assert found.holds is answer
  error = 2**0.5 * errors["probe_accuracy"]
  assert f"layer measured (fc2) 0.200 ± {error:.3f}" in found.sentence


@pytest.mark.parametrize(("error", "answer"), [(0.05, True), (0.2, None)])
def test_layers_are_not_told_apart_within_their_errors(error, answer):
  """In fc1 GLUE grows 1.5 times, mean-field capacity not at all."""
  rows = table(**ANSWERS)
  for each in rows:
    if "capacity" in each["metric"]:
      each["stderr"] = error * each["value"]
  found = TaskCapacity.findings({}, rows)[1]
  assert found.holds is answer
  assert "in fc1, fc2, logits by GLUE, in fc2, logits" in found.sentence
  assert ("within two errors" in found.sentence) is (answer is None)


def test_layers_where_nothing_is_separable_are_not_compared():
  """GLUE's capacity is at its bound there, whatever has been memorized."""
  rows = table(**ANSWERS | {"early": (1, 1, 1, 1), "glue": (1, 1, 1.2, 2)})
  for each in rows:
    if (each["layer"], each["metric"]) == ("logits", "glue_interior"):
      each["value"] = 1.0
    if (each["layer"], each["metric"]) == ("logits", "glue_capacity"):
      each["value"] = 1.05
  task = TaskCapacity.findings({}, rows)[1]
  assert task.holds is False
  assert "in fc2 by GLUE, in fc2 by mean-field" in task.sentence
  assert "left out: logits" in task.sentence
  assert verdicts(interior=(1, 1, 1, 1)) == [True, None, False, True]
  glue = plot_task(rows).axes[1].get_lines()[1]
  assert glue.get_label() == "GLUE"
  assert list(glue.get_xdata()) == [0, 1]


def test_one_layer_says_nothing_of_others():
  rows = table(**ANSWERS)
  alone = runs.Rows(row for row in rows if row["layer"] in (None, "fc2"))
  found = TaskCapacity.findings({"glue_labels": "balanced"}, alone)
  assert [each.holds for each in found] == [True, None, True, True]
  assert "is undecided: one layer was measured" in str(found[1])
  assert "half of the labellings (balanced)" in str(found[2])


@pytest.mark.parametrize(
  ("epochs", "told", "named"),
  [
    ((10, 20), {"Task 4"}, "0, 5"),
    ((0, 20), {"Task 2"}, "5, 10"),
    ((0, 5, 10), set(), "20"),
  ],
)
def test_where_epochs_were_not_measured_less_is_told(epochs, told, named):
  rows = runs.Rows(
    row
    for row in table(**ANSWERS)
    if row["layer"] is None or row["epoch"] in epochs
  )
  found = {each.name: each for each in TaskCapacity.findings({}, rows)}
  assert set(found) == {f"Task {i}" for i in range(1, 5)}
  assert {n for n, each in found.items() if each.holds is not None} == told
  sentence = "this needs epochs that are not measured"
  assert f"is undecided: {sentence}: {named}." in str(found["Task 1"])
  assert_drawn(rows, ANSWERS, epochs)


def test_half_of_a_rise_is_between_epochs():
  epochs = np.array([0.0, 10, 20])
  assert half_rise(epochs, np.array([3.0, 1, 5])) == pytest.approx(15)
  # Of a curve that falls to its end there is no rise.
  assert np.isnan(half_rise(epochs, np.array([3.0, 2, 1])))
  assert np.isnan(half_rise(epochs[:0], epochs[:0]))


def test_the_error_of_half_a_rise_is_that_of_its_values():
  """By hand: half is (v0 + v2) / 2, met at 10 + 10 (half − v1) / (v2 − v1)."""
  sigma = 0.02
  curve = runs.Series(
    np.array([0, 10, 20]), np.array([0.0, 1, 4]), np.full(3, sigma)
  )
  found, error = half_rise_with_error(curve)
  assert found == pytest.approx(10 + 10 / 3)
  slopes = np.array([5 / 3, -20 / 9, 5 / 9])
  assert error == pytest.approx(sigma * np.linalg.norm(slopes), rel=0.1)
  falling = curve._replace(mean=np.array([3.0, 2, 1]))
  assert np.isnan(half_rise_with_error(falling)).all()
  unknown = curve._replace(stderr=np.full(3, np.nan))
  assert np.isnan(half_rise_with_error(unknown)[1])


@pytest.mark.parametrize(
  ("glue", "error", "answer"),
  [
    ((1, 1.8, 2, 2), 0.05, True),
    ((1, 1.8, 2, 2), 1.0, None),
    # Both rise at epoch 13.75, and not before 12.4 as was expected.
    ((1, 1, 1.2, 2), 0.0, False),
    ((1, 1, 1.2, 2), 0.02, False),
    ((1, 1, 1.2, 2), 0.1, None),
    ((1, 1, 1.2, 2), float("nan"), None),
  ],
)
def test_what_is_earlier_is_not_told_within_its_error(glue, error, answer):
  rows = table(**ANSWERS | {"glue": glue})
  for each in rows:
    if each["metric"].endswith("capacity"):
      each["stderr"] = error
  assert TaskCapacity.findings({}, rows)[0].holds is answer


@pytest.mark.parametrize(
  ("layer", "changed", "others", "task", "answer"),
  [
    # Half a rise is at 13.75; of .6 to 1 / .6 of the values it may be anywhere.
    ("fc2", {}, (0, 5, 10), 0, None),
    ("fc2", {}, (0,), 0, True),  # From 11.25 on, by 1.3 in place of 1.5.
    ("fc2", {"glue": (1, 1, 1.2, 2)}, (0,), 0, False),
    # With .72 at epoch 10 it is at 16.1, of which nine tenths are later.
    ("fc2", {"glue": (1, 1, 1.2, 2)}, (10,), 0, None),
    ("fc1", {}, (0,), 1, None),  # It grows by GLUE alone, or K hides it.
    ("fc1", {}, (10,), 1, True),
    ("fc1", {"mean_field": (1, 1, 1.2, 2.5)}, (20,), 1, None),
    ("logits", {}, (20,), 1, True),  # Of fc1.
    ("logits", {"early": (1, 1, 1, 1)}, (20,), 1, None),
  ],
)
def test_no_answer_hangs_on_what_was_removed_alone(
  layer, changed, others, task, answer
):
  rows = table(**ANSWERS | changed)
  for each in rows.where("capacity", layer=layer):
    rows.append(
      each | {"metric": "rank", "value": 1 + (each["epoch"] in others)}
    )
  found = TaskCapacity.findings({}, rows)[task]
  assert found.holds is answer
  said = "different numbers of shared directions removed may alone decide"
  assert answer is not None or said in found.sentence


def test_the_figure_draws_the_rows():
  rows = table(**ANSWERS)
  assert_drawn(rows, ANSWERS)
  assert_distinct(plot_task(rows))
  # One layer has no panel of its own.
  alone = rows.where(layer=(None, "fc2"))
  titles = [ax.get_title() for ax in plot_task(alone).axes]
  assert len(titles) == 3
  assert "permuted, last epoch" not in titles


def test_what_is_compared_must_be_measured():
  with pytest.raises(ValueError, match="mean_field, glue and probe"):
    TaskConfig(measures="glue")
  with pytest.raises(ValueError, match="glue_labels 'mine' is not known"):
    studies.MeasuringConfig(glue_labels="mine")


def test_curves_are_means_over_all_seeds():
  """Seed 1 has ended at epoch 10; its capacity is not seed 0's later one."""
  rows = table(**ANSWERS)
  other = [r | {"seed": 1} for r in rows if (r["epoch"] or 0) <= 10]
  for row in other:
    if row["metric"] == "last_epoch":
      row["value"] = 10
  rows = runs.Rows([*rows, *other])
  lines = {x.get_label(): x for x in plot_task(rows).axes[0].get_lines()}
  assert list(lines["mean field"].get_ydata()) == [1, 1, 1.2]
  (earlier, *_) = TaskCapacity.findings({}, rows)
  # Of 1, 1, 1.2 half way is 1.1; of 1, 1.8, 2 it is 1.5.
  said = earlier.sentence.replace(" ± 0.0", "")
  assert "at epoch 3.1 by GLUE and 7.5 by" in said
  # Half way to where seed 1 ends, in the middle of seed 0's rise.
  assert earlier.holds is None
  assert said.endswith("up to epoch 10 only, as seeds end at epochs 10, 20")


def test_what_nothing_has_memorized_is_not_told():
  rows = table(**ANSWERS | {"fitted": (0.1, 0.1, 0.15, 0.2)})
  rows.append(row("chance_accuracy", 0.1))
  found = {each.name: each for each in TaskCapacity.findings({}, rows)}
  for name in ("Task 1", "Task 2"):
    assert found[name].holds is None
    assert "there is too little memory" in str(found[name])
