"""Run directories: resumed, never mixed up, never half-written."""

import contextlib
import json
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from geomem import disk, environment, plots, report, runs
from geomem.runs import clock

CONFIG = {"model": "mlp", "width": 4}


def rows_of(unit):
  """Three rows for each unit of work."""
  return [
    {"seed": unit, "epoch": i, "metric": "accuracy", "value": (unit + i) / 7}
    for i in range(3)
  ]


def do_all(path):
  with runs.Run(path, CONFIG) as run:
    for unit in range(4):
      run.commit({"unit": unit}, rows_of(unit))
    return run.rows


def test_rows_come_back_as_they_were(tmp_path):
  found = do_all(tmp_path)
  assert found[:3].copy() == found.where(seed=0)
  assert [row["value"] for row in found[:3]] == [0, 1 / 7, 2 / 7]
  assert list(found[0]) == list(runs.COLUMNS)
  assert runs.read_config(tmp_path) == CONFIG


def test_a_unit_is_whole_or_not_there(tmp_path):
  """Cut anywhere, as by a kill or a full disk: what is there is of units."""
  do_all(tmp_path)
  file = tmp_path / "results.jsonl"
  whole = file.read_bytes()
  ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
  for cut in (0, *(end - x for end in ends for x in (60, 7, 1, 0))):
    file.write_bytes(whole[:cut])
    with runs.Run(tmp_path, CONFIG) as run:
      there = {row["seed"] for row in run.rows}
      assert len(run.rows) == 3 * len(there)
      assert [u for u in range(4) if run.has({"unit": u})] == sorted(there)
    do_all(tmp_path)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("number", range(12))
def test_the_unit_of_any_row_that_is_missing_is_done_again(tmp_path, number):
  do_all(tmp_path)
  file = tmp_path / "results.jsonl"
  lines = file.read_bytes().splitlines(True)
  file.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
  with runs.Run(tmp_path, CONFIG) as run:
    assert not run.has({"unit": number // 3})
    assert sum(run.has({"unit": unit}) for unit in range(4)) == 3
    assert len(run.rows) == 9
  do_all(tmp_path)
  assert sorted(file.read_bytes().splitlines(True)) == sorted(lines)


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_journal_that_was_cut_costs_units_and_no_more(tmp_path, cut):
  do_all(tmp_path)
  whole = (tmp_path / "results.jsonl").read_bytes()
  journal = tmp_path / "units.jsonl"
  journal.write_bytes(journal.read_bytes()[:cut])
  do_all(tmp_path)
  assert (tmp_path / "results.jsonl").read_bytes() == whole


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_units_after_a_torn_line_of_the_journal_are_kept(tmp_path, cut):
  units = [{"unit": "training"}, {"unit": "after"}]
  with runs.Run(tmp_path, CONFIG) as run:
    run.commit({"unit": 0}, rows_of(0))
    run.commit(units[0])
  journal = tmp_path / "units.jsonl"
  journal.write_bytes(journal.read_bytes()[:-cut])
  for unit in units:  # The first joined the torn line, then the second did.
    with runs.Run(tmp_path, CONFIG) as run:
      run.commit(unit)
  with runs.Run(tmp_path, CONFIG) as run:
    assert all(map(run.has, [{"unit": 0}, *units]))


def test_a_unit_that_is_done_is_not_committed_again(tmp_path):
  found = do_all(tmp_path)
  with runs.Run(tmp_path, CONFIG) as run:
    run.commit({"unit": 1}, rows_of(7))
    assert run.rows == found


def test_a_unit_without_rows_is_done_all_the_same(tmp_path):
  with runs.Run(tmp_path, CONFIG) as run:
    run.commit({"unit": "training"})
  with runs.Run(tmp_path, CONFIG) as run:
    assert run.has({"unit": "training"})
    assert not run.has({"unit": "scores"})


def test_a_damaged_line_is_set_aside_with_its_unit(tmp_path):
  do_all(tmp_path)
  file = tmp_path / "results.jsonl"
  lines = file.read_bytes().splitlines(True)
  file.write_bytes(lines[0] + b"\x00garbage\n" + b"".join(lines[2:]))
  with runs.Run(tmp_path, CONFIG) as run:
    assert run.rows.seeds == [1, 2, 3]
  assert b"garbage" in (tmp_path / "results.jsonl.damaged").read_bytes()


@pytest.mark.parametrize(
  "change",
  [
    {"value": "abc"},
    {"value": [1.0]},
    {"metric": None},
    {"metric": 3},
    {"seed": "0"},
    {"epoch": "last"},
    {"layer": 2},
    {"layer_index": 1.5},
    {"stderr": "small"},
    *({name: ...} for name in runs.COLUMNS),  # Left out.
  ],
  ids=str,
)
def test_a_line_that_is_no_row_is_skipped_and_not_written(
  tmp_path, change, caplog
):
  found = do_all(tmp_path)
  row = found[0] | change
  row = {name: x for name, x in row.items() if x is not ...}
  with open(tmp_path / "results.jsonl", "a") as file:
    file.write(json.dumps(row) + "\n")
  assert runs.read_rows(tmp_path) == found
  assert "Line 13" in caplog.text
  if ... not in change.values() or "metric" in change:
    with (
      runs.Run(tmp_path, CONFIG) as run,
      pytest.raises(ValueError, match="is not a row"),
    ):
      run.commit({"unit": 9}, [row])
    assert runs.read_rows(tmp_path) == found


def test_what_is_no_run_directory_has_no_rows(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for path in ("nosuch", tmp_path):
    with pytest.raises(runs.RunError, match="holds no config"):
      runs.read_rows(path)
  with pytest.raises(runs.RunError, match="No run directory was given"):
    runs.read_runs()
  # A run that has just begun has none yet.
  with runs.Run(tmp_path / "begun", CONFIG) as run:
    assert run.rows == runs.read_rows(tmp_path / "begun") == []


def test_a_tilde_is_not_taken_as_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  found = do_all(tmp_path / "run")
  matches = {"match": r"pathlib.Path\('~/x'\).expanduser\(\)"}
  for read in (runs.read_rows, runs.read_config, runs.read_runs):
    with pytest.raises(runs.RunError, **matches):
      read("~/x")
  with pytest.raises(disk.DiskError, **matches):
    runs.Run("~/x", CONFIG)
  for write in (report.write_report, report.write_events):
    with pytest.raises(disk.DiskError, match="expanduser"):
      write("run", out="~/x")
  assert runs.read_rows("run") == found
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_several_values_of_a_column_are_selected_in_any_form(tmp_path):
  rows = do_all(tmp_path)
  expected = [row for row in rows if row["seed"] in (1, 3)]
  assert len(expected) == 6
  some = (1, 3)
  for several in (some, list(some), set(some), iter(some), np.array(some)):
    assert rows.where(seed=several) == expected
  for one in (3, np.int64(3), np.array(3), jax.numpy.array(3)):
    assert rows.where(seed=one) == expected[3:]
  names = np.array(["accuracy", "loss"])
  assert rows.where(names) == rows.where(list(names)) == rows


def test_layers_without_a_place_are_not_among_the_others():
  """As of the deep linear network that the gradient study checks."""
  rows = runs.Rows(
    dict.fromkeys(runs.COLUMNS) | {"layer": layer, "layer_index": index}
    for layer, index in (("fc1", 1), ("dense", None), ("logits", 2))
  )
  assert rows.layers == {1: "fc1", 2: "logits"}
  assert rows.last_hidden().distinct("layer") == ["fc1"]


def test_a_misspelt_name_is_refused():
  columns = {"epoch": 1, "layer": "conv1", "subset": "permuted"}
  empty = dict.fromkeys(runs.COLUMNS)
  rows = runs.Rows([empty | columns | {"metric": "recovered", "value": 1.0}])
  for name, meant, asked in (
    ("premuted", "permuted", {"subset": "premuted"}),
    ("Test", "test", {"subset": ("permuted", "Test")}),
    ("capasity", "capacity", {"metric": "capasity"}),
    ("recoverd", "recovered", {"metric": "recoverd", "layer": "conv2"}),
    ("cnov1", "conv1", {"layer": "cnov1"}),
    ("Conv1", "conv1", {"layer": "Conv1"}),
  ):
    said = f"'{name}'; did you mean '{meant}'?"
    with pytest.raises(ValueError, match=re.escape(said)):
      rows.where(**asked)
  # These may come, or are of other studies.
  for asked in (
    {"subset": ("permuted", "test", None)},
    {"metric": "capacity"},
    {"metric": "probe_accuracy"},
    {"layer": "conv2"},
    {"layer": "fc"},
    {"layer": "bonv1"},
  ):
    assert len(rows.where(**asked)) == ("permuted" in asked.get("subset", ()))
  assert not runs.Rows().where("recovered", layer="cnov1")


def test_a_table_says_what_it_has(monkeypatch):
  rows = runs.Rows(
    {"seed": 0, "epoch": epoch, "layer": "fc1", "subset": "test"}
    | {"metric": "capacity", "layer_index": 1, "value": 0.25}
    for epoch in range(100)
  )
  assert repr(rows) == str(rows)
  assert repr(rows) == (
    "Rows(100 rows; seed 0; metric capacity; epoch 0, 1, 2, 3, 4, 5, ..., 99;"
    " layer fc1; subset test)"
  )
  assert repr(runs.Rows()) == "Rows(0 rows)"
  shown = {"_repr_html_": lambda table: f"<table> of {len(table)}"}
  frame = type("DataFrame", (list,), shown)
  fake = types.SimpleNamespace(DataFrame=frame)
  monkeypatch.setitem(sys.modules, "pandas", fake)
  assert rows._repr_html_() == "<table> of 100"
  monkeypatch.setitem(sys.modules, "pandas", None)
  assert rows._repr_html_() is None


def test_a_misspelt_column_is_refused(tmp_path):
  rows = runs.Rows(row | {"kept": 2} for row in do_all(tmp_path))
  for select in (
    lambda rows: rows.where(subst="test"),
    lambda rows: rows.where("accuracy", layers="fc1"),
    lambda rows: rows.series("epochs"),
    lambda rows: rows.distinct("seeds"),
  ):
    with pytest.raises(ValueError, match="did you mean"):
      select(rows)
    # An empty table has no columns to compare with.
    assert len(select(runs.Rows()) or ()) in (0, 3)
  assert len(rows.where(kept=2)) == len(rows)
  # Columns of a study are those of some of its rows, and may be alike.
  assert rows.where(rewound="fc1") == []
  assert rows.where(rewound=None) == rows


@pytest.mark.parametrize("which", [8, "first", "lastt", None])
def test_at_takes_a_word(tmp_path, which):
  rows = do_all(tmp_path)
  with pytest.raises(ValueError, match="'best' or 'last' was expected"):
    rows.at(which)


def test_rows_of_other_runs_take_the_place_of_all(tmp_path):
  do_all(tmp_path)
  with runs.Run(tmp_path, CONFIG) as run:
    assert run.replace(rows_of(5))
    assert not run.replace(rows_of(5))
    assert run.rows.seeds == [5]
  with runs.Run(tmp_path, CONFIG) as run:
    assert run.rows.seeds == [5]


def test_another_config_is_refused_by_field(tmp_path):
  do_all(tmp_path)
  with pytest.raises(runs.RunError, match="width differs: 4 there, 5 asked"):
    runs.Run(tmp_path, CONFIG | {"width": 5})
  with pytest.raises(
    runs.RunError, match="width differs: 4 there, the default"
  ):
    runs.Run(tmp_path, {"model": "mlp", "width": None})
  runs.Run(tmp_path, CONFIG | {"data_dir": "elsewhere"}).close()


@pytest.mark.parametrize("work", ["units.jsonl", "checkpoints", "width=2"])
def test_a_config_without_work_is_replaced(tmp_path, work):
  """As after a first start that failed."""
  for width in (4, 5):
    with runs.Run(tmp_path, CONFIG | {"width": width}):
      for name in ("labels_seed0.npz", "log.txt"):
        (tmp_path / name).touch()
  assert runs.read_config(tmp_path)["width"] == 5
  runs.Run(tmp_path, CONFIG).close()
  assert not (tmp_path / "labels_seed0.npz").exists()
  (tmp_path / work).mkdir()
  with pytest.raises(runs.RunError, match="width differs: 4 there, 5 asked"):
    runs.Run(tmp_path, CONFIG | {"width": 5})
  # Nor is the file of another program.
  (tmp_path / work).rmdir()
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(runs.RunError, match="damaged"):
    runs.Run(tmp_path, CONFIG)


def test_groups_of_a_config_are_compared_field_by_field(tmp_path):
  config = {"data": {"dataset": "x", "data_dir": None}, "model": {"width": 4}}
  with runs.Run(tmp_path, config) as run:
    run.commit({"unit": 0})
  moved = {"data": {"dataset": "x", "data_dir": "there"}, "model": {"width": 4}}
  runs.Run(tmp_path, moved).close()
  with pytest.raises(runs.RunError, match="width differs: 4 there, 5 asked"):
    runs.Run(tmp_path, config | {"model": {"width": 5}})


def test_two_processes_do_not_share_a_directory(tmp_path):
  with (
    runs.Run(tmp_path, CONFIG),
    pytest.raises(runs.RunError, match="Another process"),
  ):
    runs.Run(tmp_path, CONFIG)


def test_a_directory_that_was_moved_gets_no_rows(tmp_path):
  """Another run in its place kept the rows, and was marked as complete."""
  rows, (old, new) = [{"metric": "loss", "value": 1}], "ab"
  with runs.Run(tmp_path / old, {"seed": 0}) as run:
    run.commit({"unit": 0}, rows)
    (tmp_path / old).rename(tmp_path / new)
    for other in (contextlib.nullcontext, lambda: runs.Run(run.path, CONFIG)):
      with other():
        for work in (
          lambda: run.commit({"unit": 1}, rows),
          lambda: run.replace(rows),
          run.finish,
        ):
          with pytest.raises(runs.RunError, match="it was moved"):
            work()
    assert not runs.read_rows(run.path)
    assert not runs.is_complete(run.path)
  with runs.Run(tmp_path / new, {"seed": 0}) as run:
    assert run.has({"unit": 0})
    run.commit({"unit": 1}, rows)
    (tmp_path / new / ".lock").unlink()
    with pytest.raises(runs.RunError, match=r"\.lock was removed"):
      run.finish()


def test_numbers_that_are_not_finite_become_null(tmp_path):
  with runs.Run(tmp_path, CONFIG) as run:
    run.commit({}, [{"metric": "loss", "value": float("nan")}])
  line = (tmp_path / "results.jsonl").read_text()
  assert json.loads(line)["value"] is None


def test_an_error_that_is_not_known_is_not_zero(tmp_path):
  row = {"metric": "radius", "value": 0.4, "epoch": 1, "stderr": float("nan")}
  with runs.Run(tmp_path, CONFIG) as run:
    run.commit({}, [row])
  rows = runs.read_rows(tmp_path)
  assert rows[0]["stderr"] is None
  value, error = rows.mean()
  assert value == 0.4
  assert np.isnan(error)
  assert np.isnan(rows.series("epoch").stderr).all()


def test_runs_are_read_into_one_table(tmp_path):
  paths = [tmp_path / name for name in ("a", "b")]
  for width, path in enumerate(paths, 3):
    with runs.Run(path, {"model": {"width": width}}) as run:
      run.commit({}, rows_of(width))
  found = runs.read_runs(*paths, fields=["width"])
  assert [*found[0]][:2] == ["run", "width"]
  assert [row["run"] for row in found] == [str(p) for p in paths for _ in "123"]
  for width, path in enumerate(paths, 3):
    here = found.where(run=str(path))
    assert here.distinct("width") == [width]
    assert np.array_equal(here.values, runs.read_rows(path).values)
  with pytest.raises(runs.RunError, match="no field 'height'; it has width"):
    runs.read_runs(*paths, fields=["height"])


def test_facts_of_several_runs_are_not_mixed():
  """Each run has a seed 0, and a best epoch of its own."""
  rows = runs.Rows(
    {"run": run, "seed": 0, "metric": "best_epoch", "value": value}
    | {"subset": None, "layer": None, "epoch": None}
    for run, value in (("a", 3), ("b", 8))
  )
  with pytest.raises(ValueError, match=r"of several runs.*where\(run="):
    rows.epochs("best")
  assert rows.where(run="b").epochs("best") == {0: 8}


def test_facts_of_several_cells_are_not_mixed():
  """Each cell has a seed 0, too; what all cells share is a fact of all."""
  empty = dict.fromkeys(runs.COLUMNS) | {"seed": 0}
  rows = runs.Rows(
    empty | {"width": width, "metric": metric, "value": value}
    for width, best, points in ((4, 3, 20), (8, 5, 20))
    for metric, value in (
      ("best_epoch", best),
      ("manifold_points", points),
      ("lost", math.nan),
    )
  )
  for ask in (lambda: rows.fact("best_epoch"), lambda: rows.at("best")):
    with pytest.raises(ValueError, match=r"cells of a sweep.*its own best_ep"):
      ask()
  assert rows.where(width=4).epochs("best") == {0: 3}
  assert rows.fact("manifold_points") == {0: 20}
  assert np.isnan(rows.fact("lost")[0])


def test_cells_with_chances_of_their_own_have_no_common_one():
  empty = dict.fromkeys(runs.COLUMNS) | {"seed": 0, "metric": "chance_capacity"}
  rows = runs.Rows(
    empty | {"manifold_points": points, "value": 2 / points}
    for points in (20, 50)
  )
  with pytest.raises(ValueError, match="2 chance capacities, and one was"):
    rows.chance_capacity()
  ax = plots.style.new_figure(2, 2).subplots()
  plots.style.draw_chance(ax, rows)
  assert not ax.lines
  of_cell = rows.where(manifold_points=50)
  assert of_cell.chance_capacity() == 0.04
  plots.style.draw_chance(ax, of_cell)
  assert len(ax.lines) == 1


def test_the_duration_is_that_of_all_starts(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
  assert runs.read_duration(tmp_path) is None
  for seconds in (10.0, 7.5):
    with runs.Clock(tmp_path) as counted:
      now[0] += seconds
      counted.tick()
  assert runs.read_duration(tmp_path) == 17.5
  # What is killed had saved not long ago.
  counted = runs.Clock(tmp_path).__enter__()
  for _ in range(10):
    now[0] += 8
    counted.tick()
  assert runs.read_duration(tmp_path) == 17.5 + 64
  kept = json.loads((tmp_path / "duration.json").read_text())
  assert kept["starts"] == 3
  # A sweep took what its cells took.
  cell = tmp_path / "sweep" / "width=3"
  runs.Run(cell, CONFIG).close()
  with runs.Clock(cell):
    now[0] += 5
  assert runs.read_duration(tmp_path / "sweep") == 5
  (tmp_path / "duration.json").write_text("[")
  assert runs.read_duration(tmp_path) is None


def test_the_duration_of_a_run_is_without_its_studies(tmp_path):
  """A cell's name has "=", as a study's options have."""
  names = (".", "measure-mean_field-centers=2", "width=3", "width=4")
  for name in names:
    path = tmp_path / name
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    kept = {"seconds": 10.0, "starts": 1}
    (path / "duration.json").write_text(json.dumps(kept))
  assert runs.read_duration(tmp_path) == 10  # Its own.
  (tmp_path / "duration.json").unlink()
  assert runs.read_duration(tmp_path) == 20  # Those of the cells.


def test_a_file_is_no_run_directory(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(disk.DiskError, match="cannot be written: File exists"):
    runs.Run(tmp_path / "file", CONFIG)
  with pytest.raises(runs.RunError, match="not a run directory"):
    runs.read_config(tmp_path)


def test_a_run_says_what_made_it(tmp_path):
  with runs.Run(tmp_path / "run", {"seed": 0}):
    pass
  content = json.loads((tmp_path / "run" / "config.json").read_text())
  made = content["environment"]
  assert made["command"] == shlex.join(sys.orig_argv)
  assert made["devices"].startswith(f"{jax.device_count()} ")
  assert made["geomem_changed"] in (True, False, None)
  assert (made["geomem_revision"] is None) == (made["geomem_changed"] is None)


def test_going_on_with_other_versions_is_said(tmp_path, caplog):
  path = tmp_path / "run"
  with runs.Run(path, CONFIG):
    pass
  file = path / "config.json"
  content = json.loads(file.read_text())
  for made_with, said in (
    (
      {"jax": "0.0.1"},
      f"{path} was begun with jax 0.0.1 (now {jax.__version__})",
    ),
    ({"geomem_revision": "abc"}, "geomem_revision abc (now "),
    ({}, None),
    ({"geomem_revision": None}, None),
    ([], None),
  ):
    caplog.clear()
    file.write_text(json.dumps(content | {"environment": made_with}))
    with runs.Run(path, CONFIG) as run:
      assert len(caplog.messages) == (said is not None)
      assert said is None or said in caplog.text
  # A complete run is only read.
  file.write_text(json.dumps(content | {"environment": {"jax": "0.0.1"}}))
  with runs.Run(path, CONFIG) as run:
    run.finish()
  caplog.clear()
  with runs.Run(path, CONFIG):
    assert not caplog.messages


def test_a_repository_that_has_not_its_files_is_not_its_own(
  tmp_path, monkeypatch
):
  """As where geomem is installed below a user's own repository."""
  package = tmp_path / "venv" / "geomem"
  package.mkdir(parents=True)
  (package / "environment.py").touch()
  (tmp_path / "own.py").touch()
  name = ("-c", "user.name=x", "-c", "user.email=x")
  for words in (
    ("init", "-q"),
    ("add", "own.py"),
    (*name, "commit", "-qm", "x"),
  ):
    subprocess.run(["git", *words], cwd=tmp_path, check=True)
  monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
  made = environment.describe()
  assert made["geomem_revision"] is made["geomem_changed"] is None
  subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
  assert environment.describe()["geomem_revision"] is not None


def test_a_mean_over_seeds_takes_one_row_of_each():
  """Several of one seed are no sample: their error is not that over seeds."""
  empty = dict.fromkeys(runs.COLUMNS) | {"metric": "capacity"}
  rows = runs.Rows(
    empty | {"seed": seed, "epoch": 3, "subset": subset, "value": value}
    for subset, value in (("permuted", 1.0), ("test", 5.0))
    for seed in (0, 1)
  )
  for ask in (rows.mean, lambda: rows.series("epoch")):
    with pytest.raises(ValueError, match=r"one row each.*4 rows.*permuted"):
      ask()
  assert rows.where(subset="test").mean() == (5.0, 0.0)
  assert rows.series("subset").mean.tolist() == [1.0, 5.0]


def test_a_mean_over_seeds_needs_a_row_of_each():
  rows = runs.Rows(
    {"seed": seed, "epoch": epoch, "metric": "loss", "value": float(seed)}
    for seed, epoch in ((1, 0), (2, 0), (1, 5), (3, 5))
  )
  first = rows.where(epoch=0)
  assert first.mean([1, 2]) == first.mean() == (1.5, 0.5)
  assert np.isnan(first.mean(rows.seeds)).all()
  assert np.isnan(runs.Rows().mean([1])).all()
  assert rows.of_all_seeds([1, 2], "epoch") == first
  assert rows.of_all_seeds([1], "epoch") == rows
  assert rows.of_all_seeds(rows.seeds, "epoch") == []


def test_results_without_a_config_are_not_taken_over(tmp_path):
  """They would pass as results of whatever config comes next."""
  do_all(tmp_path)
  (tmp_path / "config.json").unlink()
  whole = (tmp_path / "results.jsonl").read_bytes()
  with pytest.raises(runs.RunError, match=r"results\.jsonl.*no config\.json"):
    runs.Run(tmp_path, CONFIG | {"width": 5})
  assert (tmp_path / "results.jsonl").read_bytes() == whole
  (tmp_path / "results.jsonl").unlink()
  (tmp_path / "units.jsonl").unlink()
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(runs.RunError, match="checkpoints"):
    runs.Run(tmp_path, CONFIG)


def test_files_of_others_do_not_keep_a_run_from_beginning(tmp_path):
  (tmp_path / "notes.txt").write_text("of mine")
  with runs.Run(tmp_path, CONFIG) as run:
    run.commit({"unit": 0}, rows_of(0))


@pytest.mark.parametrize("lost", ["units.jsonl", "line"])
def test_rows_that_are_dropped_are_kept_in_another_file(tmp_path, lost, caplog):
  do_all(tmp_path)
  file, journal = tmp_path / "results.jsonl", tmp_path / "units.jsonl"
  lines = file.read_bytes().splitlines(True)
  if lost == "line":
    file.write_bytes(b"garbage\n" + b"".join(lines[1:]))
    dropped = [b"garbage\n", *lines[1:3]]
  else:
    journal.unlink()
    dropped = lines
  with runs.Run(tmp_path, CONFIG):
    pass
  aside = tmp_path / "results.jsonl.damaged"
  assert aside.read_bytes().splitlines(True) == dropped
  assert f"Moved {len(dropped)} line(s)" in caplog.text


def test_rows_of_a_killed_unit_are_dropped_without_a_word(tmp_path, caplog):
  """Killed between its rows and its line in the journal, and within a row."""
  do_all(tmp_path)
  journal = tmp_path / "units.jsonl"
  journal.write_bytes(b"".join(journal.read_bytes().splitlines(True)[:-1]))
  with runs.Run(tmp_path, CONFIG) as run:
    assert len(run.rows) == 9
  with open(tmp_path / "results.jsonl", "ab") as file:
    file.write(b'{"seed": 3, "epo')
  with runs.Run(tmp_path, CONFIG) as run:
    assert len(run.rows) == 9
  assert not (tmp_path / "results.jsonl.damaged").exists()
  assert not caplog.records


def test_other_ends_of_lines_cost_no_rows(tmp_path):
  do_all(tmp_path)
  for name in ("results.jsonl", "units.jsonl"):
    file = tmp_path / name
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
  with runs.Run(tmp_path, CONFIG) as run:
    assert all(run.has({"unit": unit}) for unit in range(4))
    assert len(run.rows) == 12
  assert b"\r" not in (tmp_path / "results.jsonl").read_bytes()


def test_the_last_row_counts_without_the_end_of_its_line(tmp_path):
  found = do_all(tmp_path)
  file = tmp_path / "results.jsonl"
  file.write_bytes(file.read_bytes().rstrip())
  assert runs.read_rows(tmp_path) == found
  file.write_bytes(file.read_bytes()[:-5])  # In progress: not a row yet.
  assert runs.read_rows(tmp_path) == found[:-1]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
  (tmp_path / "precious").write_text("kept")
  path = tmp_path / "run"
  path.mkdir()
  (path / ".lock").symlink_to("../precious")
  with pytest.raises(disk.DiskError, match="lock"):
    runs.Run(path, CONFIG)
  assert (tmp_path / "precious").read_text() == "kept"


def test_rounded_copies_compute_no_rows_anew(tmp_path):
  """The missing rows would be those of other networks."""
  do_all(tmp_path)
  with runs.Run(tmp_path, CONFIG) as run:
    run.finish()
  file = tmp_path / "config.json"
  rounded = runs.read_content(tmp_path) | {"networks": "bfloat16"}
  file.write_text(json.dumps(rounded))
  with runs.Run(tmp_path, CONFIG) as run:  # Nothing is missing.
    assert run.is_done
  rows = tmp_path / "results.jsonl"
  rows.write_bytes(b"".join(rows.read_bytes().splitlines(True)[:-1]))
  with pytest.raises(runs.RunError, match="rounded to bfloat16"):
    runs.Run(tmp_path, CONFIG)


def test_strange_files_and_numbers_do_not_stop_a_run(tmp_path):
  found = do_all(tmp_path)
  name = f".a.{socket.gethostname()}.{10**20}.partial"
  (tmp_path / name).write_text("")
  (tmp_path / ".old.partial").mkdir()
  os.utime(tmp_path / ".old.partial", (0, 0))
  huge = "1" + "0" * 400
  (tmp_path / "duration.json").write_text(f'{{"seconds": {huge}, "starts": 1}}')
  assert do_all(tmp_path) == found
  assert runs.read_duration(tmp_path) is None
  with open(tmp_path / "results.jsonl", "a") as file:
    file.write(json.dumps(found[0] | {"value": 10**400}) + "\n")
  assert runs.read_rows(tmp_path) == found


@pytest.mark.parametrize("origin", ['{"run": "x"}', "3", '{"run": {"id": 1}}'])
def test_an_origin_that_is_none_is_damage(tmp_path, origin):
  do_all(tmp_path)
  content = runs.read_content(tmp_path) | {"origin": json.loads(origin)}
  (tmp_path / "config.json").write_text(json.dumps(content))
  with pytest.raises(runs.RunError, match=r"damaged.*no origin"):
    runs.Run(tmp_path, CONFIG)
