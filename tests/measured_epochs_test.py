"""Epochs to measure: a choice, its order, and what is said of the others."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest

from experiments import paper as binary
from geomem import environment, plots, report, runs, studies
from geomem.studies import noise, paper
from geomem.studies.measure_config import (
  SavedEpochs,
  check_saved,
  normalized,
  places_to_measure,
)
from geomem.studies.paper import estimates
from geomem.studies.study import _Silent
from geomem.studies.task_capacity import TaskCapacity, TaskConfig
from tests.binaries import execute
from tests.fakes import SMALL_RUN, also_long, draw_as_png, shown

# Saved are 0, 1, 2 and 3; 3 epochs give the best one a choice.
THREE = SMALL_RUN | {"epochs": 3}
SAVED = (0, 1, 2, 3)


class StoppedError(Exception):
  """The time is over."""


def stopping(title, moves):
  """Makes bars of which the one with the title stops at its last move."""

  def bar(desc, **_):
    left = [moves if desc == title else -1]

    class Bar(_Silent):
      def update(self, size):
        left[0] -= 1
        if left[0] == 0:
          raise StoppedError

    return Bar()

  return bar


def study_of(epochs=None, **changed):
  fields = THREE | changed | {"measure_epochs": epochs}
  return studies.Memorization(studies.make_config(**fields))


def measured(rows) -> list[tuple[int, int]]:
  """Seeds and epochs of the rows of layers, in their order."""
  found = [(r["seed"], r["epoch"]) for r in rows if r["layer"] is not None]
  return [x for x in dict.fromkeys(found) if x[1] is not None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of two seeds that was measured at all epochs."""
  path = tmp_path_factory.mktemp("whole") / "run"
  studies.run(study_of(), path)
  return path


@pytest.fixture(scope="module")
def few(tmp_path_factory):
  """The same, at the best and the last epochs."""
  path = tmp_path_factory.mktemp("few") / "run"
  studies.run(study_of("last,best"), path)
  return path


@pytest.mark.parametrize(
  ("text", "same"),
  [
    (None, None),
    ("all", None),
    ("3,all", None),
    ("last, best", "best,last"),
    ("10,2,first,2", "first,2,10"),
    ("007", "7"),
  ],
)
def test_equal_choices_are_written_alike(text, same):
  assert normalized(text) == same
  assert normalized(same) == same
  config = studies.MeasuringConfig(measure_epochs=text)
  assert config == studies.MeasuringConfig(measure_epochs=same)


@pytest.mark.parametrize(
  "text", ["", "bets", "1,,2", "-1", "1.5", "¹", "9" * 99]
)
def test_what_is_no_epoch_is_refused(text):
  with pytest.raises(
    ValueError, match="which is not an epoch; use all, best, last"
  ):
    studies.MeasuringConfig(measure_epochs=text)


def test_best_then_last_then_first_of_all_seeds_then_the_others():
  seeds = {
    4: SavedEpochs((0, 1, 2, 5, 8), best=2, last=8),
    5: SavedEpochs((0, 1, 2, 5), best=5, last=5),
    # Its best network is lost.
    6: SavedEpochs((1, 8), best=2, last=8),
  }
  ordered = [
    *((4, 2), (5, 5), (4, 8), (6, 8), (4, 0), (5, 0), (6, 1)),
    *((4, 1), (5, 1), (5, 2), (4, 5)),
  ]
  assert places_to_measure(None, seeds) == ordered
  assert places_to_measure("best,last", seeds) == ordered[:4]
  assert places_to_measure("first", seeds) == ordered[4:7]
  # By its number an epoch has its place, too, and none comes twice.
  assert places_to_measure("2,5,last", seeds) == [
    *((4, 2), (5, 5), (4, 8), (6, 8), (5, 2), (4, 5))
  ]
  nothing = {4: SavedEpochs((), best=2, last=8)}
  assert places_to_measure(None, nothing) == []


def test_numbers_that_are_not_saved_are_refused_before_work(whole, tmp_path):
  sentence = "Epoch 7 of measure_epochs is not saved; saved are 0, 1, 2"
  with pytest.raises(ValueError, match=sentence):
    check_saved("best,7", (2, 1, 0))
  with pytest.raises(ValueError, match=f"{sentence}, 3"):
    study_of("7")
  config = studies.MeasuringConfig(measure_epochs="0,7")
  trained = studies.TrainedRun(whole)
  with pytest.raises(ValueError, match=f"{sentence}, 3"):
    studies.Measuring(config, trained)
  for flags in (
    {"measure_epochs": "7"},
    {"measure_epochs": "7", "width": "3,4"},
    {"measure_epochs": "bets"},
  ):
    out = tmp_path / "no"
    told = execute("memorization", out=out, **THREE | flags)
    assert told.returncode == 2
    assert told.stderr.startswith("Error: ")
    assert not out.exists()


def test_rows_are_those_of_all_epochs_in_their_order(whole, few):
  rows, some = runs.read_rows(whole), runs.read_rows(few)
  best, last = rows.epochs("best"), rows.epochs("last")
  order = measured(rows)
  assert sorted(order) == [(s, e) for s in (0, 1) for e in SAVED]
  head = dict.fromkeys([*best.items(), *last.items(), (0, 0), (1, 0)])
  assert order[: len(head)] == list(head)
  assert measured(some) == [*dict.fromkeys([*best.items(), *last.items()])]
  # What both have is the same, to the last digit.
  kept = {(r["seed"], r["epoch"]) for r in some if r["layer"] is not None}
  assert some == runs.Rows(
    r for r in rows if r["layer"] is None or (r["seed"], r["epoch"]) in kept
  )


@pytest.mark.parametrize(
  "moves",
  [4, *also_long(1, 9, 20)],
)
def test_stopped_in_the_geometry_it_ends_with_the_same_rows(
  moves, whole, tmp_path, monkeypatch
):
  draw_as_png(monkeypatch)
  with pytest.raises(StoppedError):
    studies.run(study_of(), tmp_path, progress=stopping("geometry", moves))
  rows = runs.read_rows(whole)
  done = measured(runs.read_rows(tmp_path))
  assert done == measured(rows)[: len(done)]
  # Four layers each: figure 3 has its epochs before any other is begun.
  needed = dict.fromkeys(
    [*rows.epochs("best").items(), *rows.epochs("last").items()]
  )
  if moves > 4 * len(needed):
    assert set(needed) <= set(done)
  studies.draw(tmp_path, tmp_path / "early")
  report.write_report(tmp_path)
  studies.run(study_of(), tmp_path)
  for name in ("results.jsonl", "done"):
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_choice_is_part_of_what_a_run_is(few):
  with pytest.raises(
    runs.RunError, match="measure_epochs differs: 'best,last'"
  ):
    studies.run(study_of(), few)


def test_findings_are_told_where_their_epochs_are_measured(whole):
  config, rows = runs.read_config(whole), runs.read_rows(whole)
  best, last = rows.epochs("best"), rows.epochs("last")
  # Whatever these networks do, their best epochs are not their last here, and
  # neither what they memorize nor what is removed decides.
  early = {seed: min(epoch, 2) for seed, epoch in best.items()}
  rows = runs.Rows(
    r | {"value": early[r["seed"]]} if r["metric"] == "best_epoch" else r
    for r in rows
    if r["metric"]
    not in (
      *("chance_accuracy", "majority_accuracy"),
      *("rank", "center_left", "num_features"),
    )
  )

  def judged(chosen):
    found = studies.Memorization.findings(config, runs.Rows(chosen))
    return {f.name: f for f in found if isinstance(f, studies.Finding)}

  def without(*places):
    return [
      r
      for r in rows
      if r["layer"] is None or (r["seed"], r["epoch"]) not in places
    ]

  everything = judged(rows)
  # Its single hidden layer has no first half, which the others need. F3.1 and
  # F3.4 are perhaps within the errors of the two seeds.
  told = {n for n, found in everything.items() if found.holds is not None}
  assert told - {"F3.1", "F3.4"} == {"F3.3"}
  found = judged(without((0, last[0])))
  assert found["F3.1"] == everything["F3.1"]
  for name in ("F3.2", "F3.3", "F3.4", "F3.5"):
    assert found[name].holds is None
    assert found[name].claim == everything[name].claim
    assert "is undecided: the last epoch of seed 0 was not measured" in str(
      found[name]
    )
  found = judged(without(*early.items()))
  assert all(each.holds is None for each in found.values())
  assert "the best epoch of seeds 0, 1 was not measured" in str(found["F3.1"])
  table = studies.Memorization.table(runs.Rows(without(*last.items())))
  lines = table.splitlines()[1:]
  assert len(lines) == 8
  assert not any("not measured" in line for line in lines[:4])
  assert all("not measured" in line for line in lines[4:])
  assert "nan" not in table


@pytest.mark.parametrize(
  ("chosen", "titles"),
  [
    ("best,last", {"best epoch", "last epoch"}),
    ("last", {"last epoch"}),
    ("0,1", {"epoch 0", "epoch 1"}),
    ("1", {"epoch 1"}),
  ],
)
def test_figures_draw_what_is_there(chosen, titles, tmp_path):
  rows = rows_at(chosen)
  figure = plots.plot_geometry_by_layer(rows)
  found = {ax.get_title() for ax in figure.axes} - {""}
  assert {title.partition(":")[0] for title in found} == titles
  assert len(figure.axes) == 3 * len(titles)
  values = {float(f"{v:.4g}") for v in rows.where("radius").values}
  assert values <= shown(figure)
  maps = plots.plot_capacity_heatmaps(rows)
  ticks = {t.get_text() for t in maps.axes[0].get_xticklabels()}
  assert ticks == {
    str(epoch) for epoch in rows.where("capacity").distinct("epoch")
  }


def rows_at(chosen) -> runs.Rows:
  """One seed's rows of three layers, its best epoch 2 and its last 5."""
  seeds = {0: SavedEpochs((0, 1, 2, 3, 5), best=2, last=5)}
  empty = dict.fromkeys(runs.COLUMNS) | {"seed": 0}
  facts = {"best_epoch": 2, "last_epoch": 5, "manifold_points": 20}
  rows = runs.Rows(empty | {"metric": m, "value": v} for m, v in facts.items())
  for _, epoch in places_to_measure(chosen, seeds):
    for index, layer in enumerate(("input", "fc1", "logits")):
      at = empty | {"epoch": epoch, "layer": layer, "layer_index": index}
      for shift, metric in enumerate(("capacity", "radius", "dimension")):
        value = 0.2 + 0.1 * epoch + 0.013 * index + 0.001 * shift
        rows.append(at | {"subset": "test", "metric": metric, "value": value})
  return rows


def test_where_nothing_is_measured_nothing_is_drawn(tmp_path):
  rows = rows_at("best").where(layer=None)
  assert plots.plot_geometry_by_layer(rows) is None
  assert plots.plot_capacity_heatmaps(rows) is None
  assert plots.plot_measures(rows) is None
  assert studies.Measuring.table(rows) == ""
  table = studies.Measuring.table(rows_at("best"))
  assert "last epoch: not measured" in table
  assert "nan" not in table


def test_a_sweep_says_what_was_not_measured(whole):
  cell = runs.Rows(
    {"width": 4} | row
    for row in runs.read_rows(whole)
    if row["layer"] is None or row["epoch"] == 0
  )
  further, (sentence,) = noise.summarize_noise(cell)
  assert not further
  assert "capacity was not measured at the last epoch" in sentence
  # Where the epoch measured is a seed's best one, it is drawn; nowhere else.
  names = ("capacity", "radius", "dimension")
  axes = plots.MEMORIZATION_SWEEP["last_layer"](cell).axes
  for ax, metric in zip(axes, names, strict=True):
    assert ax.get_ylabel() == plots.style.label_of(metric)
    heights = {
      y
      for bars in ax.containers
      for y in bars.lines[0].get_ydata()
      if np.isfinite(y)
    }
    assert not heights or 0 in cell.epochs("best").values()
  left, right = plots.MEMORIZATION_SWEEP["departure"](cell).axes
  for ax in (left, right):
    assert not any(np.size(bars.lines[0].get_ydata()) for bars in ax.containers)


@pytest.mark.long
def test_a_sweep_over_widths_does_without(tmp_path):
  fields = THREE | {"num_seeds": 1, "layers": "last", "subsets": "test"}
  del fields["width"]
  told = execute(
    "model_size", out=tmp_path, width="2,3", measure_epochs="0", **fields
  )
  assert told.returncode == 0, told.stderr
  rows = runs.read_rows(tmp_path)
  assert rows.where("dimension").distinct("epoch") == [0]
  if "falls by" in told.stdout:
    assert "cannot be told: one of them was not measured" in told.stdout


def test_measuring_takes_over_what_the_run_has_measured(
  few, whole, monkeypatch
):
  rows = runs.read_rows(few)
  own = {name: THREE[name] for name in ("num_probes",)}
  config = studies.MeasuringConfig(**own)
  study = studies.Measuring(config, studies.TrainedRun(few))
  loaded = []
  state = study.trained.state

  def load(seed, epoch):
    loaded.append((seed, epoch))
    return state(seed, epoch)

  monkeypatch.setattr(study.trained, "state", load)
  found = studies.run(study)
  assert study.directory == few / "measure-mean_field"
  assert set(loaded) == set(measured(found)) - set(measured(rows))
  assert loaded
  # As measured with the rest: it was the same work.
  everything = runs.read_rows(whole)
  assert [r for r in found if r["layer"]] == [
    r for r in everything if r["layer"] and r["epoch"] is not None
  ]
  # At another margin it is another measure.
  other = studies.MeasuringConfig(**own, kappa=0.3, measure_epochs="last")
  study = studies.Measuring(other, studies.TrainedRun(few))
  assert study.directory == few / "measure-mean_field-last-kappa=0.3"
  rows = runs.read_rows(few)
  last = rows.epochs("last")
  found = studies.run(study)
  assert measured(found) == list(last.items())
  theirs = rows.at("last").where("capacity").values
  assert (found.where("capacity").values != theirs).any()


def test_of_a_run_that_is_not_complete_nothing_is_taken_over(few, tmp_path):
  with pytest.raises(StoppedError):
    studies.run(study_of(), tmp_path, progress=stopping("geometry", 9))
  config = studies.MeasuringConfig(num_probes=THREE["num_probes"])
  trained = studies.TrainedRun(tmp_path)
  assert not studies.Measuring(config, trained)._known()
  assert studies.Measuring(config, studies.TrainedRun(few))._known()


def test_what_changed_since_its_commit_takes_nothing_over(few, tmp_path):
  config = studies.MeasuringConfig(num_probes=THREE["num_probes"])
  trained = studies.TrainedRun(few)
  with mock.patch.object(environment, "is_changed", return_value=True):
    assert not studies.Measuring(config, trained)._known()
  run = shutil.copytree(few, tmp_path / "run")
  file = run / "config.json"
  content = json.loads(file.read_text())
  content["environment"]["geomem_changed"] = True
  file.write_text(json.dumps(content))
  assert not studies.Measuring(config, studies.TrainedRun(run))._known()


def test_directories_name_options_that_are_new(few):
  trained = studies.TrainedRun(few)
  for options, name in (
    ({}, "measure-mean_field"),
    ({"num_probes": THREE["num_probes"]}, "measure-mean_field"),
    ({"centers": "none"}, "measure-mean_field-centers=none"),
  ):
    config = studies.MeasuringConfig(**options)
    assert studies.Measuring(config, trained).directory == few / name
  layers = ",".join(trained.experiment.network.layer_names)
  config = studies.MeasuringConfig(layers=layers)
  name = studies.Measuring(config, trained).directory.name
  assert len(name) < 60
  place = few / "measure-mean_field-centers=none"
  place.mkdir()
  shutil.copy(few / "config.json", place)
  try:
    assert place in report.page.parts_of(few)
  finally:
    shutil.rmtree(place)


def test_the_defaults_of_a_study_name_no_options(few):
  trained = studies.TrainedRun(few)
  study = TaskCapacity(TaskConfig(), trained)
  assert study.directory == few / "task_capacity"
  study = TaskCapacity(TaskConfig(kappa=0.5), trained)
  assert study.directory == few / "task_capacity-kappa=0.5"


def test_of_another_revision_nothing_is_taken_over(few, tmp_path):
  run = shutil.copytree(few, tmp_path / "run")
  file = run / "config.json"
  content = json.loads(file.read_text())
  content["environment"]["geomem_revision"] = "abc"
  file.write_text(json.dumps(content))
  config = studies.MeasuringConfig(num_probes=THREE["num_probes"])
  assert not studies.Measuring(config, studies.TrainedRun(run))._known()


def test_the_binary_measures_some_epochs(few, tmp_path):
  flags = {"run": few, "measures": "spectrum", "measure_epochs": "last,0"}
  told = execute("measure", **flags)
  assert told.returncode == 0, told.stderr
  path = few / "measure-spectrum-last-0"
  last = runs.read_rows(few).epochs("last")
  assert measured(runs.read_rows(path)) == [*last.items(), (0, 0), (1, 0)]
  assert (path / "figures" / "by_layer.png").exists()
  told = execute("measure", **flags | {"measure_epochs": "5", "out": tmp_path})
  assert told.returncode == 2
  assert "saved are 0, 1, 2, 3" in told.stderr


def test_the_paper_measures_figure_3_first_and_the_rest_last():
  assert paper.STAGES[-1].name == "epochs"
  for scale in paper.SCALES.values():
    assert scale.fields["memorization"]["measure_epochs"] == "best,last"
  assert [s.name for s in paper.choose(["epochs"])] == ["fig3", "epochs"]


def test_a_paper_begun_without_a_choice_goes_on_so(tmp_path, monkeypatch):
  fields = {"memorization": THREE}
  monkeypatch.setattr(
    paper, "SCALES", {"small": paper.Scale("for tests", fields)}
  )
  monkeypatch.setattr(studies, "draw", lambda *_, **__: [])
  monkeypatch.setattr(estimates, "calibrate", lambda *_: paper.Work(*[1.0] * 9))

  def reproduce():
    stages = paper.choose(["fig3", "epochs"])
    return binary.reproduce("small", tmp_path, stages, binary.Budget())

  reproduce()
  place = tmp_path / "memorization"
  before = (place / "results.jsonl").read_bytes()
  fields["memorization"] = THREE | {"measure_epochs": "best,last"}
  assert reproduce() == 0
  assert (place / "results.jsonl").read_bytes() == before
  rest = runs.read_rows(place / "measure-mean_field")
  assert measured(rest) == measured(runs.read_rows(place))
