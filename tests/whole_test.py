"""Whole experiments in one call: what is complete is not done again."""

import pytest

from geomem import analysis, runs
from geomem.analysis import sweep

SMALL = {"model": "mlp1", "epochs": 1, "num_classes": 3, "manifold_points": 5}


def write(path, config, rows):
  with runs.Run(path, config) as run:
    run.append(rows)
    run.mark_done()
    return run.rows()


def test_a_complete_run_gives_its_rows(tmp_path):
  config = analysis.ExperimentConfig(**SMALL)
  fields = analysis.config_dict(config)
  rows = write(tmp_path / "run", fields, [{"metric": "last_epoch", "value": 1}])
  seen = []
  found = analysis.run_memorization(
    tmp_path / "run", config, progress=lambda work, **_: seen.append(work)
  )
  assert found == rows
  assert not seen
  other = analysis.ExperimentConfig(**SMALL, width=7)
  with pytest.raises(runs.RunError, match="another width"):
    analysis.run_memorization(tmp_path / "run", other)


def test_complete_rewinds_give_their_rows(tmp_path):
  fields = analysis.config_dict(analysis.ExperimentConfig(**SMALL))
  facts = [{"seed": 0, "metric": "last_epoch", "value": 1}]
  write(tmp_path, fields, facts)
  config = analysis.RewindConfig(kinds=("single",))
  row = {"kind": "single", "rewound": "fc1", "metric": "accuracy", "value": 1}
  rows = write(tmp_path / "rewind-single", config.as_dict(), [row])
  assert analysis.run_rewinds(tmp_path, config) == rows


def test_complete_widths_are_brought_together(tmp_path):
  config = analysis.ModelSizeConfig(**SMALL, num_seeds=1)
  cells = sweep.make_cells(tmp_path, config.filled(), {"width": [3, 5]})
  for cell in cells:
    facts = {"best_epoch": 1, "last_epoch": 1, "num_unpermuted": 7}
    facts |= {"num_permuted": 3, "num_parameters": 100 * cell.config.width}
    rows = [{"metric": name, "value": value} for name, value in facts.items()]
    for subset in ("unpermuted", "permuted", "test"):
      value = 1.0 if cell.config.width == 5 else 0.5
      scored = {"epoch": 1, "subset": subset, "metric": "accuracy"}
      rows.append({**scored, "value": value})
    fields = analysis.config_dict(cell.config)
    write(cell.path, fields, [{"seed": 0, **row} for row in rows])
  rows, sentences = analysis.run_model_sizes(tmp_path, config, [3, 5])
  assert {row["width"] for row in rows if row["seed"] == 0} == {3, 5}
  facts = {row["metric"]: row["value"] for row in rows if row["seed"] is None}
  assert facts["interpolation_threshold"] == 500
  assert sentences[0].startswith("From 500 parameters on")
  # And what was found there reads the same to whoever comes later.
  again = analysis.sentences_of(runs.read_config(tmp_path), rows)
  assert again == sentences


def test_what_fails_in_a_width_is_raised(tmp_path):
  config = analysis.ModelSizeConfig(**SMALL | {"model": "vgg"})
  with pytest.raises(ValueError, match="'vgg' is not known"):
    analysis.run_model_sizes(tmp_path, config, [3])
