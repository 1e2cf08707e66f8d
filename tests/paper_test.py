"""The whole paper by one command: its stages, its time and its table."""

import math

import numpy as np
import pytest

from experiments import paper as binary
from geomem import runs, studies
from geomem.studies import paper
from geomem.studies.finding import all_hold
from geomem.studies.paper import estimates
from geomem.studies.paper.comparison import LAST_HIDDEN
from tests.fakes import SMALL_RUN, fields_of, write_run

PAPER, TINY = paper.SCALES["paper"], paper.SCALES["tiny"]
SUBSETS = ("unpermuted", "permuted", "restored", "test")


def memorized_rows(changed=None):
  """Rows of two seeds that have the paper's numbers, but for those changed."""
  numbers = LAST_HIDDEN | (changed or {})
  rows = []
  for seed in (0, 1):
    facts = {"best_epoch": 1, "last_epoch": 5, "chance_capacity": 0.04}
    rows += [{"seed": seed, "metric": m, "value": v} for m, v in facts.items()]
    for which, epoch in enumerate((1, 5)):
      for index, layer in enumerate(("input", "fc1", "fc2", "fc3", "logits")):
        for subset in SUBSETS:
          place = {"seed": seed, "epoch": epoch, "subset": subset}
          place |= {"layer": layer, "layer_index": index}
          early = {"capacity": 0.04, "radius": 1.5, "dimension": 35.0}
          for metric, value in early.items():
            if layer == "fc3":
              value = numbers[subset, metric][which]
            # Seeds are on both sides of the mean.
            value *= 1 + 0.001 * (2 * seed - 1)
            rows.append(place | {"metric": metric, "value": value})
  return rows


def rewound_rows(recovered, permuted):
  """Rows of the last j of three layers, put back to the best epoch."""
  rows = []
  for seed in (0, 1):
    facts = {"best_epoch": 1, "last_epoch": 5, "chance_accuracy": 0.1}
    rows += [{"seed": seed, "metric": m, "value": v} for m, v in facts.items()]
    at = {"seed": seed, "metric": "accuracy", "subset": "test"}
    rows += [at | {"epoch": e, "value": v} for e, v in ((1, 0.9), (5, 0.5))]
    for kind, layers in (("suffix", "cba"), ("prefix", "abc")):
      for count in (1, 2, 3):
        at = {"seed": seed, "epoch": 1, "kind": kind}
        at["rewound"] = "+".join(sorted(layers[:count]))
        shares = recovered if kind == "suffix" else (0.1, 0.2, 1)
        share = shares[count - 1]
        of_test = at | {"subset": "test"}
        rows += [
          of_test | {"metric": "recovered", "value": share, "stderr": 0.0},
          of_test | {"metric": "accuracy", "value": 0.5 + 0.4 * share},
          at
          | {"subset": "permuted", "metric": "accuracy"}
          | {"value": np.broadcast_to(permuted, 3)[count - 1]},
        ]
  return rows


def sized_rows(accuracy, growth, radius_growth=0.0, parameters=8e5):
  """Rows of three widths and two seeds, by test accuracy at the last epoch.

  The middle one has so many parameters.
  """
  rows = []
  for index, width in enumerate((2, 4, 8)):
    for seed in (0, 1):
      at = {"width": width, "seed": seed}
      facts = {"best_epoch": 1, "last_epoch": 5, "num_permuted": 0}
      facts |= {"num_unpermuted": 9, "num_parameters": parameters / 4 * width}
      rows += [at | {"metric": m, "value": v} for m, v in facts.items()]
      for epoch in (1, 5):
        change = (growth[index] if epoch == 5 else 0) + 0.001 * seed
        values = {"accuracy": accuracy[index] + 0.001 * seed * index}
        values |= {"dimension": 25 + change}
        values["radius"] = 1 + radius_growth * (epoch == 5)
        for metric, value in values.items():
          for subset in ("unpermuted", "test"):
            where = at | {"epoch": epoch, "subset": subset}
            rows.append(where | {"metric": metric, "value": value})
  return rows


def simulated_rows(ratio, apart=0.0, factors=((1,) * 4,) * 2):
  """Rows of two seeds, whose ratios differ by twice `apart`.

  Simulated capacities are times the `[seeds, layers]` factors.
  """
  return [
    {"seed": seed, "layer": f"fc{i}", "layer_index": i, "subset": "test"}
    | {"epoch": 5, "centers": "low_rank", "metric": metric, "value": value}
    for seed in (0, 1)
    for i in range(4)
    for metric, value in (
      ("capacity", 0.1 * (i + 1)),
      (
        "simulated_capacity",
        0.1 * (i + 1) * (ratio + apart * (1 - 2 * seed)) * factors[seed][i],
      ),
    )
  ]


def verdicts(path, place, rows, scale=PAPER):
  configs = {
    "memorization": fields_of(studies.make_config()),
    "model_size": {"experiment": "model_size", "axes": ["width"]},
  }
  config = configs.get(place, {"experiment": place.rpartition("/")[2]})
  empty = dict.fromkeys((*runs.COLUMNS, "kind", "rewound"))
  write_run(path / place, config, [empty | row for row in rows])
  return {row["metric"]: row for row in paper.compare(path, scale)}


def test_the_papers_own_numbers_hold(tmp_path):
  found = verdicts(tmp_path, "memorization", memorized_rows())
  assert set(found) == {
    *("F3.1", "F3.2", "F3.3", "F3.4 radius", "F3.4 dimension", "F3.5", "T3")
  }
  assert all(row["holds"] for row in found.values())
  assert found["T3"]["value"] == 24
  assert found["F3.1"]["value"] == pytest.approx(0.0378 / 0.04)
  assert found["F3.2"]["value"] == pytest.approx(0.100 / 0.0378)
  assert found["F3.3"]["value"] == pytest.approx(0.0403 / 0.04)
  assert found["F3.4 radius"]["value"] == pytest.approx(0.988 / 1.581)
  assert found["F3.4 dimension"]["value"] == pytest.approx(18.8 / 34.6)
  # Of two seeds that are .001 on either side.
  spread = 0.0403 / 0.04 * 0.001 * 2**0.5
  assert found["F3.3"]["spread"] == pytest.approx(spread)
  assert "numbers are from" not in paper.Paper.table(runs.Rows())  # Of none.
  table = paper.Paper.table(runs.Rows(found.values()))
  (line,) = (x for x in table.splitlines() if "F3.2" in x and x[0] == "|")
  assert [cell.strip() for cell in line.split("|")[-4:-1]] == [
    *("2.65", "2.646 ± 0.000", "holds")
  ]
  assert "for reference" not in table


@pytest.mark.parametrize(
  ("changed", "fails"),
  [
    ({("permuted", "capacity"): (0.0378, 0.05)}, {"F3.2", "T3"}),
    ({("restored", "capacity"): (0.0592, 0.055)}, {"F3.3", "T3"}),
    ({("permuted", "radius"): (1.5, 1.6)}, {"F3.4", "T3"}),
    ({("test", "dimension"): (20.9, 33)}, {"T3"}),
    # Within .2 of a capacity, .1 of a radius and 4 of a dimension.
    ({("unpermuted", "capacity"): (0.095 * 1.15, 0.128)}, set()),
    ({("unpermuted", "capacity"): (0.095 * 1.25, 0.128)}, {"T3"}),
    ({("unpermuted", "radius"): (1.012, 0.899 + 0.08)}, set()),
    ({("unpermuted", "radius"): (1.012, 0.899 + 0.12)}, {"T3"}),
    ({("unpermuted", "dimension"): (15.0, 15.2 - 3.8)}, set()),
    ({("unpermuted", "dimension"): (15.0, 15.2 - 4.2)}, {"T3"}),
  ],
)
def test_numbers_that_are_not_close_do_not_hold(changed, fails, tmp_path):
  found = verdicts(tmp_path, "memorization", memorized_rows(changed))
  assert {k.split()[0] for k, r in found.items() if not r["holds"]} == fails
  assert (found["T3"]["value"] == 24) is not bool(fails)


def test_the_change_of_early_layers_is_the_largest_of_a_subset(tmp_path):
  rows = memorized_rows()
  for row in rows:
    at = (row.get("layer"), row.get("epoch"), row.get("subset"))
    if at == ("fc1", 5, "test"):
      row["value"] *= 0.9
  found = verdicts(tmp_path, "memorization", rows)
  assert found["F3.5"]["value"] == pytest.approx(0.1)


def test_on_other_data_numbers_are_not_compared(tmp_path):
  found = verdicts(tmp_path, "memorization", memorized_rows(), TINY)
  assert "T3" not in found
  assert "listed for reference, not as" in paper.Paper.table(
    runs.Rows(found.values())
  )


@pytest.mark.parametrize(
  ("recovered", "permuted", "first", "holds"),
  [
    ((0.9, 0.9, 1), 0.1, True, True),
    ((0.2, 0.9, 1), 0.1, False, True),  # Two of three layers do.
    ((0.2, 0.7, 1), 0.1, False, False),  # All do not count.
    ((0.9, 0.9, 1), 0.6, True, False),  # They do not forget.
    ((0.5, 0.9, 1), math.nan, False, None),
  ],
)
def test_rewinds_are_judged(recovered, permuted, first, holds, tmp_path):
  rows = rewound_rows(recovered, permuted)
  found = verdicts(tmp_path, "memorization/rewind", rows)
  assert (found["F4.1"]["holds"], found["T4"]["holds"]) == (first, holds)
  assert found["F4.1"]["value"] == pytest.approx(recovered[0])
  assert found["F4.2"]["holds"]
  assert found["F4.2"]["value"] == pytest.approx(0.1)
  assert found["T4"]["value"] == pytest.approx(max(recovered[:2]))


@pytest.mark.parametrize(
  ("metric", "subset", "error", "holds"),
  [
    ("recovered", "test", 0.05, True),  # .9 ± .035 recovered, .8 needed,
    ("recovered", "test", 0.1, None),
    ("accuracy", "permuted", 0.05, True),  # .1 ± .035 left, .2 allowed.
    ("accuracy", "permuted", 0.1, None),
  ],
)
def test_rewinds_within_two_errors_are_not(
  metric, subset, error, holds, tmp_path
):
  rows = rewound_rows((0.2, 0.9, 1), 0.1)
  for row in rows:
    if (row["metric"], row.get("subset")) == (metric, subset):
      row["stderr"] = error
  found = verdicts(tmp_path, "memorization/rewind", rows)
  assert found["T4"]["holds"] is holds


def test_without_a_recorded_chance_what_is_left_is_not_judged(tmp_path):
  rows = rewound_rows((0.2, 0.9, 1), 0.1)
  rows = [row for row in rows if row["metric"] != "chance_accuracy"]
  found = verdicts(tmp_path, "memorization/rewind", rows)
  assert found["T4"]["holds"] is None


def test_any_of_the_last_layers_may_restore(tmp_path):
  """The last layer recovers less than the last two, and forgets more."""
  rows = rewound_rows((0.85, 0.95, 1), (0.15, 0.25, 0.1))
  found = verdicts(tmp_path, "memorization/rewind", rows)
  assert found["T4"]["holds"]
  assert found["T4"]["value"] == pytest.approx(0.85)


def test_rewinds_elsewhere_are_not_judged(tmp_path):
  rows = rewound_rows((0.85, 0.95, 1), 0.1)
  for row in rows:
    if "kind" in row:
      row["epoch"] = 0
  found = verdicts(tmp_path, "memorization/rewind", rows)
  for name in ("F4.1", "F4.2", "T4"):
    assert found[name]["holds"] is None
    assert not runs.has_value(found[name])


def test_seeds_that_end_at_their_best_have_no_changes(tmp_path):
  rows = memorized_rows()
  alone = verdicts(tmp_path / "alone", "memorization", rows[: len(rows) // 2])
  for row in rows:
    if (row["seed"], row["metric"]) == (1, "best_epoch"):
      row["value"] = 5
  found = verdicts(tmp_path / "both", "memorization", rows)
  for name in set(found) - {"F3.1"}:
    assert found[name]["holds"] == alone[name]["holds"]
    assert found[name]["value"] == alone[name]["value"]


def test_one_hidden_layer_is_not_judged_by_halves(tmp_path):
  rows = [r for r in memorized_rows() if r.get("layer") not in ("fc1", "fc2")]
  found = verdicts(tmp_path, "memorization", rows)
  assert found["F3.5"]["holds"] is None
  assert not runs.has_value(found["F3.5"])
  assert found["F3.2"]["holds"] is None
  assert found["F3.3"]["holds"]


def test_numbers_that_are_missing_are_not_judged(tmp_path):
  rows = memorized_rows()
  for row in rows:
    if row.get("layer") == "fc3" and row["epoch"] == 5 and row["seed"]:
      row["value"] = math.nan
  found = verdicts(tmp_path, "memorization", rows)
  assert found["F3.1"]["holds"]
  for name in set(found) - {"F3.1", "doubt"}:
    assert found[name]["holds"] is None
    assert not runs.has_value(found[name])
  without = [row for row in memorized_rows() if row["metric"] != "radius"]
  found = verdicts(tmp_path / "without", "memorization", without)
  assert {row["holds"] for row in found.values()} == {None}
  # Its last layer is not the last hidden one.
  rows = [r for r in rows if r.get("layer") != "fc3" or not r["seed"]]
  found = verdicts(tmp_path / "missing", "memorization", rows)
  for name in set(found) - {"doubt"}:
    assert found[name]["holds"] is None
    assert not runs.has_value(found[name])  # Not the mean of the other seed.


@pytest.mark.parametrize(
  ("first", "second", "both"),
  [
    (True, True, True),
    (True, False, False),
    (None, True, None),
    (None, False, False),
    (False, None, False),
  ],
)
def test_one_of_two_claims_that_fails_decides(first, second, both):
  assert all_hold(first, second) is both


@pytest.mark.parametrize(
  ("accuracy", "growth", "radius", "expected"),
  [
    ((0.5, 0.4, 0.7), (0, 4, 0), 0.0, (True, True, True)),
    ((0.5, 0.6, 0.7), (0, 4, 0), 0.0, (False, False, False)),
    ((0.5, 0.4, 0.7), (0, 2, 0), 0.0, (True, False, True)),
    ((0.5, 0.4, 0.7), (5, 4, 0), 0.3, (True, False, False)),
    # It falls in the dip, by less than at both ends.
    ((0.5, 0.4, 0.7), (-2, -1, -2), 0.0, (True, False, False)),
    ((0.5, 0.4, 0.7), (-5, -4, -5), 0.05, (True, False, False)),
    ((0.5, 0.4, 0.7), (math.nan, 4, 0), 0.0, (True, None, True)),
    ((0.5, 0.4, 0.7), (0, 4, math.nan), 0.0, (True, None, True)),
    ((0.5, 0.4, 0.7), (0, math.nan, 0), 0.0, (True, None, None)),
    ((0.5, 0.4, 0.7), (0, 4, 0), math.nan, (True, True, None)),
    # Whether it rises again behind the largest is not seen.
    ((0.5, 0.7, 0.4), (0, 0, 4), 0.0, (None, None, None)),
    ((0.5, math.nan, 0.7), (0, 4, 0), 0.0, (None, None, None)),
  ],
)
def test_the_dip_is_judged(accuracy, growth, radius, expected, tmp_path):
  rows = sized_rows(accuracy, growth, radius)
  found = verdicts(tmp_path, "model_size", rows)
  keys = ("T5 accuracy", "T5 dimension", "T5 radius")
  assert tuple(found[key]["holds"] for key in keys) == expected
  if expected[0]:
    assert found["T5 accuracy"]["value"] == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
  ("parameters", "growth", "papers", "others"),
  [
    (8e5, 4, (True, True), (True, True)),
    (8e5, 2, (True, False), (True, True)),  # By three or more.
    (2.9e5, 4, (False, True), (True, True)),
    (3.1e5, 4, (True, True), (True, True)),
    (9.9e5, 4, (True, True), (True, True)),
    (1.1e6, 4, (False, True), (True, True)),
  ],
)
def test_place_and_size_of_the_dip_are_judged_at_the_papers_scale_alone(
  parameters, growth, papers, others, tmp_path
):
  rows = sized_rows((0.5, 0.4, 0.7), (0, growth, 0), parameters=parameters)
  for scale, expected in ((PAPER, papers), (TINY, others)):
    found = verdicts(tmp_path / str(expected), "model_size", rows, scale)
    keys = ("T5 accuracy", "T5 dimension")
    assert tuple(found[key]["holds"] for key in keys) == expected


@pytest.mark.parametrize(
  ("widths", "apart", "holds"),
  [
    # A fall of .1 ± `apart`, a rise of .3 and ± `apart`.
    ((2,), 0.04, True),
    ((2,), 0.06, False),
    ((8,), 0.14, True),
    ((8,), 0.16, False),
    ((2, 4, 8), 0.2, True),  # Seeds are paired.
  ],
)
def test_accuracy_falls_and_rises_by_more_than_two_errors(
  widths, apart, holds, tmp_path
):
  rows = sized_rows((0.5, 0.4, 0.7), (0, 4, 0))
  for row in rows:
    if row["metric"] == "accuracy" and row["width"] in widths:
      row["value"] += apart * (1 - 2 * row["seed"])
  found = verdicts(tmp_path, "model_size", rows)
  assert found["T5 accuracy"]["holds"] is holds


@pytest.mark.parametrize(
  ("growth", "other", "expected"),
  [
    # Another K may change 29 of 25 dimensions to 17 or 48, and 1 of radius.
    ((0, 4, 0), 4, (None, None)),
    ((0, 4, 0), 2, (None, True)),
    ((0, 4, 0), 8, (None, True)),
    ((0, 40, 0), 4, (True, None)),  # To 39 at least; the radius to 1.67.
    ((0, 40, 0), 2, (True, True)),
    ((0, -20, 0), 4, (False, False)),  # Not above 8.3 of 25.
  ],
)
def test_the_dip_does_not_hang_on_what_was_removed(
  growth, other, expected, tmp_path
):
  rows = sized_rows((0.5, 0.4, 0.7), growth)
  for row in [row for row in rows if row["metric"] == "radius"]:
    is_other = (row["width"], row["epoch"]) == (other, 5)
    rows.append(row | {"metric": "rank", "value": 2 + is_other})
  found = verdicts(tmp_path, "model_size", rows)
  keys = ("T5 dimension", "T5 radius")
  assert tuple(found[key]["holds"] for key in keys) == expected
  assert found["T5 accuracy"]["holds"]


def test_of_one_width_there_is_no_dip(tmp_path):
  rows = [r for r in sized_rows((0.5, 0.4, 0.7), (0, 4, 0)) if r["width"] == 2]
  found = verdicts(tmp_path, "model_size", rows)
  assert {row["holds"] for row in found.values()} == {None}


@pytest.mark.parametrize(
  ("ratio", "apart", "holds"),
  [
    (0.9, 0, True),
    (0.8, 0, False),
    (1.1, 0, True),
    (1.3, 0, False),
    (0.9, 0.02, True),  # The error of the mean is .02.
    (0.9, 0.03, None),
    (0.8, 0.02, False),
    (0.8, 0.03, None),
  ],
)
def test_the_simulation_is_judged(ratio, apart, holds, tmp_path):
  rows = simulated_rows(ratio, apart)
  found = verdicts(tmp_path, "memorization/capacity", rows)
  assert found["T2 ratio"]["holds"] is holds
  assert found["T2 ratio"]["value"] == pytest.approx(ratio)
  assert found["T2 correlation"]["holds"]


@pytest.mark.parametrize(
  ("correlations", "holds"),
  [
    ((0.92, 0.92), True),
    ((0.88, 0.88), False),
    ((0.0, 0.0), False),
    ((0.97, 0.93), True),  # The error of the mean is .02.
    ((0.97, 0.87), None),
    ((0.94, 0.84), None),
  ],
)
def test_the_correlation_of_simulation_and_theory_is_judged(
  correlations, holds, tmp_path
):
  logs = np.log([1, 2, 3, 4])
  logs -= logs.mean()
  other = np.array([1.0, -1, -1, 1])  # Made orthogonal to them.
  other -= other @ logs / (logs @ logs) * logs
  other *= np.linalg.norm(logs) / np.linalg.norm(other)
  logs_of_seeds = [r * logs + (1 - r**2) ** 0.5 * other for r in correlations]
  rows = simulated_rows(1.0, 0.0, np.exp(np.subtract(logs_of_seeds, logs)))
  found = verdicts(tmp_path, "memorization/capacity", rows)
  assert found["T2 correlation"]["holds"] is holds
  mean = pytest.approx(np.mean(correlations), abs=1e-6)
  assert found["T2 correlation"]["value"] == mean


def test_figures_are_chosen_with_the_run_that_they_are_about():
  def names(*only):
    return [stage.name for stage in paper.choose(only)]

  figures = ["fig3", "fig4ab", "figa1", "fig1b", "fig4ce"]
  assert names() == [*figures, "epochs"]
  assert names("fig2") == names("fig3") == ["fig3"]
  assert names("fig4") == ["fig3", "fig4ab", "fig4ce"]
  assert names("fig4ce") == ["fig4ce"]
  with pytest.raises(ValueError, match="'fig9', which is not a figure"):
    paper.choose(["fig3", "fig9"])


class Clock:
  """Seconds that pass when it is told so, or by some at every look."""

  def __init__(self, each=0.0):
    self.now, self.each = 0.0, each

  def __call__(self):
    self.now += self.each
    return self.now


def test_a_step_that_does_not_fit_the_time_is_not_begun():
  clock = Clock()
  bar = binary.Budget(5.0, clock).bar(total=10, desc="")
  # Of an earlier start, which tells nothing of the time.
  bar.initial += 6
  bar.update(6)
  clock.now += 110
  bar.update(1)
  clock.now += 110  # 80 of 300 seconds are left.
  with pytest.raises(binary.OutOfTime):
    bar.update(1)


@pytest.fixture
def small(monkeypatch):
  """A scale below the smallest."""
  fields = {
    "memorization": SMALL_RUN | {"num_seeds": 1},
    "rewind": {"kinds": ("suffix", "prefix")},
    "gradients": {"draws": 2, "max_examples": 80},
    "capacity": {
      "epochs": "last",
      "num_draws": 5,
      "num_probes": 10,
      "num_shuffles": 2,
    },
    # Of the same network and subsets, so that there is less to compile.
    "model_size": SMALL_RUN
    | {"width": (4,), "num_seeds": 1, "permuted_fraction": 0.5}
    | {"subsets": ",".join(SUBSETS)},
  }
  scales = {"small": paper.Scale("for tests", fields)}
  monkeypatch.setattr(paper, "SCALES", scales)
  # Every study is drawn elsewhere, and a third of the time would go to it.
  monkeypatch.setattr(studies, "draw", lambda *_, **__: [])


@pytest.fixture
def minutes(monkeypatch):
  """Minutes that stages are estimated at, in place of real estimates."""
  given = {}

  class Estimates:
    def __init__(self, *_):
      pass

    def of(self, stage, *, exact=True):
      del exact
      seconds = 60 * given.get(stage.name, 0.5)
      return paper.Estimate(paper.Work(steps=seconds), units=1000)

  monkeypatch.setattr(paper, "Estimates", Estimates)
  return given


def rows_of(path):
  return {
    file.relative_to(path): file.read_bytes()
    for file in sorted(path.rglob("results.jsonl"))
  }


def test_it_ends_where_the_time_does_and_goes_on(
  small, minutes, tmp_path, capsys, monkeypatch
):
  path, moved = tmp_path / "here", tmp_path / "there"
  minutes |= {"fig3": 1.0, "fig4ab": 25.0}
  # The time ends within the first stage, then before the second.
  budget = binary.Budget(2.0, Clock(each=8.0))
  assert binary.reproduce("small", path, paper.choose(), budget) == 0
  said = capsys.readouterr().out
  assert "total    about 28.0 min" in said
  assert "fig3 is not complete" in said
  assert not runs.is_complete(path / "memorization")
  path.rename(moved)
  clock = Clock()
  budget = binary.Budget(30.0, clock)
  clock.now = 60 * 8.0
  stages = paper.choose(["fig3", "fig4ab"])
  binary.reproduce("small", moved, stages, budget)
  said = capsys.readouterr().out
  assert "fig3 took 0.0 min (estimated 1.0 min)." in said
  assert (
    "fig4ab is not started: it takes about 25.0 min, and --minutes leaves"
    " 22.0 min." in said
  )
  assert runs.is_complete(moved / "memorization")
  assert not (moved / "memorization" / "rewind").exists()
  assert not runs.is_complete(moved)
  assert "| 3A " in (moved / "paper.md").read_text()
  assert "| A.1 " not in (moved / "paper.md").read_text()

  binary.reproduce("small", moved, paper.choose(), binary.Budget())
  said = capsys.readouterr().out
  assert "\n  epochs " in said
  assert "\n  fig3 " not in said  # It is complete.
  assert runs.is_complete(moved)
  for stage in paper.STAGES:
    assert runs.is_complete(moved / stage.place)
  table = (moved / "paper.md").read_text()
  figures = {
    line.split("|")[1].strip() for line in table.splitlines() if "|" in line
  }
  assert {"1B", "3A", "3B", "4A-B", "4C", "4D", "4E", "A.1"} <= figures
  found = {row["metric"]: row.get("holds") for row in runs.read_rows(moved)}
  both = all_hold(found["G1"], found["G4 last"])
  assert found["T6"] == both

  # Of what is done, nothing is counted as left.
  monkeypatch.setattr(estimates, "calibrate", lambda *_: paper.Work(*[1.0] * 9))
  scale = paper.SCALES["small"]
  counted = estimates.Estimates(paper.STAGES, scale, moved)
  left = {stage.name: counted.of(stage).minutes for stage in paper.STAGES}
  assert left == dict.fromkeys(left, 0)

  before = rows_of(moved)
  binary.reproduce("small", moved, paper.choose(), binary.Budget())
  assert "is complete; nothing to do" in capsys.readouterr().out
  assert rows_of(moved) == before


def test_shorter_stages_come_before_one_that_fits_no_start(
  minutes, tmp_path, capsys, monkeypatch
):
  done = []

  def do(made, place, progress):
    done.append(place.name)
    if place.name == "model_size":
      raise binary.OutOfTime
    (place / "done").parent.mkdir(parents=True, exist_ok=True)
    return 0

  monkeypatch.setattr(binary.cli, "do", do)
  monkeypatch.setattr(paper, "make", lambda *_: None)
  monkeypatch.setattr(binary, "_is_complete", lambda place: place.name in done)
  # The first one would fit a start of its own, the others none; of the last
  # one, not even a unit does.
  minutes |= {"fig4ab": 4.5, "fig4ce": 100.0, "figa1": 600.0, "fig1b": 6000.0}
  clock = Clock()
  budget = binary.Budget(5.0, clock)
  clock.now = 60 * 1.0
  scale = paper.SCALES["tiny"]
  binary._do_stages(scale, tmp_path, paper.choose(), budget, None)
  names = ["memorization", "measure-mean_field", "gradients", "model_size"]
  assert done == names
  said = capsys.readouterr().out
  assert "figa1 needs several starts; this one does a part." in said
  assert "fig1b needs 6.0 min for one of its units" in said


def test_a_number_is_unknown_where_what_it_rests_on_did_not_converge(tmp_path):
  """And no other: verdict and number of a row go together."""
  rows = memorized_rows()
  for row in runs.Rows(rows).where("capacity", subset="test", layer="fc1"):
    solved = {"metric": "converged", "value": 0.98 if row["epoch"] == 1 else 1}
    rows.append(row | solved)
  found = verdicts(tmp_path, "memorization", rows)
  assert "fc1 of test examples at epoch 1" in found.pop("doubt")["text"]
  undecided = {key for key, row in found.items() if row["holds"] is None}
  assert undecided == {"F3.1", "F3.5"}
  values = {k: row["value"] for k, row in found.items() if k not in undecided}
  assert np.isfinite([*values.values()]).all()
