"""Whole studies in one call: what is complete is not done again."""

import pytest

from geomem import runs, studies
from geomem.studies.sweep import Sweep
from tests.fakes import fields_of, write_run

SMALL = {"model": "mlp1", "epochs": 1, "num_classes": 3, "manifold_points": 5}


def refuse(**_):
  raise AssertionError("There is nothing left to do.")


def test_a_complete_run_gives_its_rows(tmp_path):
  config = studies.make_config(**SMALL)
  row = {"metric": "last_epoch", "value": 1}
  rows = write_run(tmp_path / "run", fields_of(config), [row])
  study = studies.Memorization(config)
  assert studies.run(study, tmp_path / "run", progress=refuse) == rows
  other = studies.Memorization(studies.make_config(**SMALL, width=7))
  with pytest.raises(runs.RunError, match="width differs"):
    studies.run(other, tmp_path / "run")


def sweep_of(**fields) -> Sweep:
  return studies.model_size_sweep([3, 5], **SMALL | {"num_seeds": 1} | fields)


def test_complete_widths_are_brought_together(tmp_path):
  sweep = sweep_of()
  for cell in sweep.cells(tmp_path):
    width = cell.config.model.width
    facts = {"best_epoch": 1, "last_epoch": 1, "num_unpermuted": 7}
    facts |= {"num_permuted": 3, "num_parameters": 100 * width}
    rows = [{"metric": name, "value": value} for name, value in facts.items()]
    for subset in ("unpermuted", "permuted", "test"):
      scored = {"epoch": 1, "subset": subset, "metric": "accuracy"}
      rows.append({**scored, "value": 1.0 if width == 5 else 0.5})
    rows = [{"seed": 0, **row} for row in rows]
    write_run(cell.path, fields_of(cell.config), rows)
  said = []
  assert not studies.run_sweep(
    sweep, tmp_path, progress=refuse, report=lambda run, s: said.extend(s)
  )
  rows = runs.read_rows(tmp_path)
  assert rows.where(seed=0).distinct("width") == [3, 5]
  assert rows.where("interpolation_threshold").values == [500]
  assert said[0] == (
    "The smallest network that fits 99% of its training labels has 500"
    " parameters."
  )
  # And what was found there reads the same to whoever comes later.
  assert studies.findings(tmp_path) == said


def test_what_fails_in_a_width_is_handed_over(tmp_path):
  failures = studies.run_sweep(sweep_of(dataset="npz:nowhere.npz"), tmp_path)
  assert [str(cell.path.name) for cell, _ in failures] == ["width=3", "width=5"]
  assert "There is no file" in str(failures[0].error)
