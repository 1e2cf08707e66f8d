"""Every study: run, killed anywhere, resumed, refused, drawn, reported."""

import dataclasses
import random
import shutil
import typing

import pytest

from geomem import report, runs, studies
from geomem.studies import study
from geomem.studies.study import _Silent
from tests.fakes import SMALL_RUN, draw_as_png

# What makes a study small; a new one is tried with its own defaults.
SMALL = {
  "capacity": {"num_draws": 5, "num_probes": 10, "num_shuffles": 2},
  "gradients": {"draws": 2, "max_examples": 80},
  # Every measure is tried by itself in measures_test.
  "measure": {"measures": "spectrum,neighbors"},
  "task_capacity": {"layers": "last", "centers": "none", "num_probes": 5},
  "rewind": {"geometry": True},
  "truncate": {"dimensions": (1, 3)},
}
OF_RUNS = [
  name for name, study in studies.STUDIES.items() if studies.takes_a_run(study)
]


class KilledError(Exception):
  """The process ends here."""


def killer(moves: int):
  """Makes progress bars of which the last move kills."""
  left = [moves]

  class Bar(_Silent):
    def update(self, size):
      left[0] -= 1
      if left[0] == 0:
        raise KilledError

  return lambda **_: Bar()


def count_moves(study, path) -> int:
  counted = []

  class Bar(_Silent):
    def update(self, size):
      counted.append(size)

  studies.run(study, path, progress=lambda **_: Bar())
  return len(counted)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp("trained") / "run"
  config = studies.make_config(**SMALL_RUN)
  studies.run(studies.Memorization(config), path)
  return path


def make(name, trained, **changed):
  """A study by its name; each has one config class and perhaps a run."""
  if name == "memorization":
    return studies.Memorization(studies.make_config(**SMALL_RUN | changed))
  study = studies.STUDIES[name]
  kind = typing.get_type_hints(study.__init__)["config"]
  config = kind(**SMALL.get(name, {}) | changed)
  return study(config, studies.TrainedRun(trained))


@pytest.fixture(scope="module")
def calm(trained, tmp_path_factory):
  """Gives a finished directory of a study by its name, and its moves."""
  kept = {}

  def find(name):
    if name not in kept:
      path = tmp_path_factory.mktemp("calm") / name
      kept[name] = path, count_moves(make(name, trained), path)
    return kept[name]

  return find


def test_what_a_bar_ends_after_its_last_move_is_kept(tmp_path):
  """As the time limit of `paper` does: the unit was done before it."""
  unit = study.at_once({"unit": 1}, lambda: [{"metric": "x", "value": 1}])
  stage = study.Stage("work", [unit])
  with runs.Run(tmp_path, {}) as out:
    with pytest.raises(KilledError):
      study._do_stage(stage, out, killer(1), lambda: None)
    assert out.has(unit.key)
    assert out.rows.values.tolist() == [1]


# Two kills where units of different kinds follow each other.
KILLS = {"memorization": 2, "rewind": 2, "gradients": 2}


@pytest.mark.parametrize(
  ("name", "kills"),
  [
    case
    for name in ("memorization", *OF_RUNS)
    for case in (
      (name, KILLS.get(name, 1)),
      pytest.param(name, 6, marks=pytest.mark.long),
    )
  ],
)
def test_killed_anywhere_it_ends_with_the_same_rows(
  name, kills, trained, calm, tmp_path
):
  killed, (whole, moves) = tmp_path / "killed", calm(name)
  study = make(name, trained)
  assert runs.is_complete(whole)
  rng = random.Random(name)
  for part in range(kills):
    # One in each part of the work: each start goes beyond the last one's end.
    first, last = (moves * i // kills for i in (part, part + 1))
    move = rng.randint(first + 1, max(last, first + 1))
    try:
      studies.run(make(name, trained), killed, progress=killer(move))
    except KilledError:
      assert not runs.is_complete(killed)
    # Whatever is there is of units that are whole.
    there = (killed / "results.jsonl").read_bytes()
    with runs.Run(killed, study.as_dict(), study.origin):
      pass
    assert (killed / "results.jsonl").read_bytes() == there
  found = studies.run(make(name, trained), killed)
  for file in ("results.jsonl", "done"):
    assert (killed / file).read_bytes() == (whole / file).read_bytes()

  # Complete, it is left alone.
  def refuse(**_):
    raise AssertionError("There is nothing left to do.")

  assert studies.run(make(name, trained), killed, progress=refuse) == found


@pytest.mark.parametrize("name", ["memorization", *OF_RUNS])
def test_it_is_drawn_and_reported_and_another_is_refused(
  name, trained, calm, tmp_path, monkeypatch
):
  study = make(name, trained)
  draw_as_png(monkeypatch)
  shutil.copytree(calm(name)[0], tmp_path, dirs_exist_ok=True)
  rows = runs.read_rows(tmp_path)
  written = studies.draw(tmp_path)
  # Of these measures none is a capacity.
  missing = {"capacity_by_epoch"} if name == "measure" else set()
  assert {file.stem for file in written} == set(study.figures) - missing
  assert all(file.stat().st_size for file in written)
  said = studies.findings(tmp_path)
  page = report.write_report(tmp_path).read_text()
  for sentence in said:
    assert sentence.partition(":")[0] in page
  assert isinstance(study.table(rows), str)
  fields = study.as_dict()
  changed = fields | {"experiment": "another"}
  with pytest.raises(runs.RunError, match="experiment differs"):
    runs.Run(tmp_path, changed, study.origin)


@pytest.mark.parametrize("name", OF_RUNS)
def test_every_field_of_its_config_is_described(name):
  """Flags take their help from the class's own words."""
  kind = typing.get_type_hints(studies.STUDIES[name].__init__)["config"]
  for field in dataclasses.fields(kind):
    text = "\n".join(base.__doc__ or "" for base in kind.__mro__)
    assert f"    {field.name}: " in text or f"\n  {field.name}: " in text


def test_a_bar_says_that_it_waits_until_the_first_step_is_done(tmp_path):
  told = []

  class Bar(_Silent):
    def __init__(self, desc, postfix=None, **_):
      self.told = [postfix]
      if desc:
        told.append((desc, self.told))

    def set_postfix(self, facts, **_):
      self.told.append(facts)

  def do(**options):
    studies.run(make("memorization", None), tmp_path, **options)

  with pytest.raises(KilledError):
    do(progress=killer(5))
  do(progress=Bar)
  # Training was done, and part of the geometry.
  titles = ["training, seeds 0 to 1", "geometry"]
  assert [desc for desc, _ in told] == titles
  for (_, said), waits in zip(told, (False, True), strict=True):
    assert (said[0] == "compiling") == waits
    assert all(facts for facts in said[1:])
    assert len(said) > waits
  (tmp_path / "again").mkdir()
  told.clear()
  study = make("memorization", None)
  studies.run(study, tmp_path / "again", progress=Bar)
  _, (first, *facts) = told[0]
  # The network that is saved before the first step ends no waiting.
  assert first == "compiling"
  assert [set(fact) for fact in facts] == [{"loss"}] * 2


@pytest.mark.parametrize(
  "name", ["memorization", "measure", "readout", "similarity"]
)
def test_a_seed_without_rows_is_unknown_in_tables(name, trained, calm):
  """As one is whose values are NaN, which is null on disk."""
  study = make(name, trained)
  rows = runs.read_rows(calm(name)[0])
  is_lost = [row["seed"] == 1 and row["epoch"] is not None for row in rows]
  pairs = list(zip(rows, is_lost, strict=True))
  absent = runs.Rows(row for row, lost in pairs if not lost)
  unknown = runs.Rows(
    row | ({"value": None, "stderr": None} if lost else {})
    for row, lost in pairs
  )
  assert study.table(absent) == study.table(unknown)
  assert "nan" in study.table(absent)
  for of in (absent, unknown):
    found = study.findings({}, of)
    assert {getattr(each, "holds", None) for each in found} <= {None}
