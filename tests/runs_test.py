"""Run directories: resumed, never mixed up, never half-written."""

import json

import pytest

from geomem import disk, runs

CONFIG = {"model": "mlp", "width": 4}


def rows(count):
  return [
    {"seed": 0, "epoch": i, "metric": "accuracy", "value": i / 7}
    for i in range(count)
  ]


def test_rows_come_back_as_they_were(tmp_path):
  with runs.Run(tmp_path, CONFIG) as run:
    run.append(rows(3))
    found = run.rows()
  assert [row["value"] for row in found] == [0, 1 / 7, 2 / 7]
  assert list(found[0]) == list(runs.COLUMNS)
  assert runs.read_config(tmp_path) == CONFIG


def test_a_cut_at_any_byte_is_mended_by_doing_the_work_again(tmp_path):
  with runs.Run(tmp_path, CONFIG) as run:
    run.append(rows(3))
  file = tmp_path / "results.jsonl"
  whole = file.read_bytes()
  for cut in range(0, len(whole), 7):
    file.write_bytes(whole[:cut])
    with runs.Run(tmp_path, CONFIG) as run:
      run.append(rows(3))
    assert file.read_bytes() == whole


def test_a_damaged_line_is_set_aside(tmp_path):
  with runs.Run(tmp_path, CONFIG) as run:
    run.append(rows(3))
  file = tmp_path / "results.jsonl"
  lines = file.read_bytes().splitlines(True)
  file.write_bytes(lines[0] + b"\x00garbage\n" + lines[2])
  with runs.Run(tmp_path, CONFIG) as run:
    assert [row["epoch"] for row in run.rows()] == [0, 2]
  assert b"garbage" in (tmp_path / "results.jsonl.damaged").read_bytes()


def test_another_config_is_refused_by_field(tmp_path):
  runs.Run(tmp_path, CONFIG).close()
  with pytest.raises(runs.RunError, match="another width: 4 there, 5 asked"):
    runs.Run(tmp_path, CONFIG | {"width": 5})
  runs.Run(tmp_path, CONFIG | {"data_dir": "elsewhere"}).close()


def test_two_processes_do_not_share_a_directory(tmp_path):
  with (
    runs.Run(tmp_path, CONFIG),
    pytest.raises(runs.RunError, match="Another process"),
  ):
    runs.Run(tmp_path, CONFIG)


def test_numbers_that_are_not_finite_become_null(tmp_path):
  with runs.Run(tmp_path, CONFIG) as run:
    run.append([{"metric": "loss", "value": float("nan")}])
  line = (tmp_path / "results.jsonl").read_text()
  assert json.loads(line)["value"] is None


def test_a_file_is_no_run_directory(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(disk.DiskError, match="cannot be written: File exists"):
    runs.Run(tmp_path / "file", CONFIG)
  with pytest.raises(runs.RunError, match="not a run directory"):
    runs.read_config(tmp_path)
