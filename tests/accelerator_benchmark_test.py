"""The accelerator's benchmark, rehearsed: every stage, failure and limit."""

import sys
import textwrap

import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks.accelerator_stages import STAGES, TINY
from tests.fakes import also_long

# What the others time is run elsewhere: that their rows are whole is for long.
QUICK = ("peaks", "rewinds", "scores")


@pytest.mark.parametrize(
  "stage", [*QUICK, *also_long(*(name for name in STAGES if name not in QUICK))]
)
def test_every_stage_runs_on_a_core(stage):
  # Three manifolds have no directions to search; accelerator_test does.
  rows = list(STAGES[stage](TINY._replace(layer=(3, 4, 30))))
  assert rows
  assert stage in accelerator.LIMITS
  for row in rows:
    assert row["seconds"] > 0, row
    assert row["first"] > 0, row
    assert np.isfinite(row.get("float32_operations", 0))
    assert row.get("converged", 1) == 1


def test_floors_are_the_larger_of_arithmetic_and_memory():
  peaks = {"float32": 10.0, "bfloat16": 20.0, "memory": 4.0}
  row = {"bfloat16_operations": 60, "bytes": 8}
  assert accelerator.floor_of(row, peaks) == 3
  assert accelerator.floor_of(row | {"bytes": 40}, peaks) == 10
  assert accelerator.floor_of(row | {"float32_operations": 50}, peaks) == 5
  assert accelerator.floor_of({}, peaks) is None


CHILD = """
import json, sys, time
stages = sys.argv[1].removeprefix("--stages=").split(",")
for stage in stages:
  print(json.dumps({"begins": stage}), flush=True)
  if stage == "hangs":
    time.sleep(60)
  if stage == "dies":
    sys.exit(1)
  print(json.dumps({"stage": stage, "name": "x"}), flush=True)
print(json.dumps({"begins": None}), flush=True)
"""


def test_a_stage_that_hangs_or_dies_does_not_take_the_others(
  tmp_path, monkeypatch
):
  child = tmp_path / "child.py"
  child.write_text(textwrap.dedent(CHILD))
  names = ["a", "hangs", "b", "dies", "c"]
  monkeypatch.setattr(accelerator, "LIMITS", dict.fromkeys(names, 3))
  rows = list(
    accelerator.run_stages(
      names, tiny=False, seconds=100, command=(sys.executable, str(child))
    )
  )
  assert [row["stage"] for row in rows] == names
  failed = {row["stage"]: row["failed"] for row in rows if "failed" in row}
  assert failed == {
    "hangs": "it took too long",
    "dies": "its process ended",
  }
  table = accelerator.table(rows)
  assert "hangs: failed, it took too long" in table


def test_what_there_is_no_time_for_is_named(tmp_path):
  child = tmp_path / "child.py"
  child.write_text("import time; time.sleep(60)")
  rows = accelerator.run_stages(
    ["qps", "scores"],
    tiny=False,
    seconds=0.5,
    command=(sys.executable, str(child)),
  )
  assert [(row["stage"], row["failed"]) for row in rows] == [
    ("qps", "there was no time left"),
    ("scores", "there was no time left"),
  ]
