"""The findings of figure 3, tried on the figures that the paper printed."""

import math

import pytest

from geomem import runs
from geomem.studies.finding import believable, doubts
from geomem.studies.memorization import Memorization
from geomem.studies.memorization_findings import find

# Capacities of layers 0, 5, 10, 13, 16 and 19 of VGG16 on CIFAR-100, M = 50,
# and radius and dimension of the last, read off figure 3 of Stephenson et al.,
# ICLR 2021, to 0.001, 0.007 and 0.25.
PAPER = {
  "best": {
    "unpermuted": [0.0405, 0.0435, 0.0471, 0.0505, 0.0727, 0.095],
    "permuted": [0.0362, 0.0378, 0.0371, 0.0368, 0.0372, 0.0378],
    "restored": [0.0405, 0.0435, 0.0461, 0.0483, 0.0557, 0.0592],
    "test": [0.0405, 0.0435, 0.0471, 0.0495, 0.0586, 0.0642],
  },
  "last": {
    "unpermuted": [0.0408, 0.044, 0.0482, 0.0517, 0.0736, 0.128],
    "permuted": [0.0365, 0.0377, 0.0371, 0.0383, 0.0461, 0.1],
    "restored": [0.0408, 0.044, 0.0482, 0.0484, 0.0488, 0.0403],
    "test": [0.0408, 0.044, 0.0482, 0.0484, 0.0508, 0.0473],
  },
}
PERMUTED = {"best": (1.581, 34.6), "last": (0.988, 18.8)}


def rows_of(capacities, permuted=PERMUTED, seed=0):
  facts = {"best_epoch": 40, "last_epoch": 1000, "manifold_points": 50}
  rows = [
    {"seed": seed, "epoch": None, "layer": None, "subset": None}
    | {"metric": metric, "value": value}
    for metric, value in facts.items()
  ]
  for which, by_subset in capacities.items():
    for subset, values in by_subset.items():
      # The input before them, and the logits behind them.
      for index, value in enumerate([values[0], *values, values[-1]]):
        columns = {"seed": seed, "epoch": facts[f"{which}_epoch"]}
        columns |= {"layer": f"layer{index}", "layer_index": index}
        radius, dimension = permuted[which]
        for metric, found in (
          ("capacity", value),
          ("radius", radius),
          ("dimension", dimension),
        ):
          rows.append(
            columns | {"subset": subset, "metric": metric, "value": found}
          )
  return runs.Rows(rows)


def test_the_papers_own_figures_have_all_findings():
  found = find(rows_of(PAPER))
  assert [finding.name for finding in found] == [f"F3.{i}" for i in range(1, 6)]
  assert all(finding.holds for finding in found)
  assert "within 9% of chance (0.040)" in found[0].sentence
  assert "rises to 2.65 times" in found[1].sentence
  assert "goes from 0.059 to 0.040, +1% from chance" in found[2].sentence


@pytest.mark.parametrize(
  ("name", "which", "subset", "layer", "value"),
  [
    ("F3.1", "best", "permuted", 3, 0.055),  # Memorized already.
    ("F3.1", "best", "restored", 5, 0.04),  # Not generalized.
    ("F3.2", "last", "permuted", 5, 0.05),
    ("F3.2", "last", "permuted", 0, 0.05),  # The rise is early, too.
    ("F3.3", "last", "restored", 5, 0.055),
    ("F3.5", "last", "test", 1, 0.06),
  ],
)
def test_each_can_fail(name, which, subset, layer, value):
  changed = {w: {s: list(v) for s, v in by.items()} for w, by in PAPER.items()}
  changed[which][subset][layer] = value
  found = {f.name: f.holds for f in find(rows_of(changed))}
  assert not found[name]


@pytest.mark.parametrize(
  ("sizes", "undecided"),
  [
    ([100] * 6, set()),
    ([100, 99, 100, 100, 100, 100], {"F3.1"}),
    ([100, 100, 100, 100, 100, 50], {"F3.1", "F3.3"}),
  ],
)
def test_below_2m_features_chance_is_no_level(sizes, undecided):
  """M is 50; runs that do not say how many features there are have enough."""
  rows = rows_of(PAPER)
  empty = {"seed": 0, "epoch": None, "subset": None, "metric": "num_features"}
  for index, size in enumerate([30, *sizes, 30]):  # Input and logits are out.
    place = {"layer": f"layer{index}", "layer_index": index}
    rows.append(empty | place | {"value": size})
  found = {f.name: f for f in find(rows)}
  assert {n for n, f in found.items() if f.holds is None} == undecided
  for name in undecided:
    assert "chance is higher than 0.040 in layer" in found[name].sentence


def test_manifolds_that_grow_are_no_f34():
  grown = PERMUTED | {"last": (0.988, 36.0)}
  found = {f.name: f.holds for f in find(rows_of(PAPER, grown))}
  assert not found["F3.4"]


def test_where_the_best_epoch_is_the_last_nothing_can_be_told():
  # F3.5, say, would hold for any network: nothing changes in no time.
  rows = rows_of({"last": PAPER["last"]})
  for row in rows:
    if row["metric"] == "best_epoch":
      row["value"] = 1000
  found = find(runs.Rows(rows))
  assert [f.holds for f in found[1:]] == [None] * 4
  assert "F3.5 (early layers stay general) is undecided: the best" in str(
    found[4]
  )


def test_seeds_whose_best_epoch_is_their_last_are_left_out():
  rows = rows_of(PAPER)
  alone = [str(f) for f in find(rows)]
  # By itself it would say that nothing changes.
  same = rows_of({"last": PAPER["best"]}, {"last": PERMUTED["best"]}, seed=1)
  for row in same:
    if row["metric"] == "best_epoch":
      row["value"] = 1000
  found = find(runs.Rows(rows + same))
  for both, of_first in zip(found[1:], alone[1:], strict=True):
    left_out = " (left out, as the best epoch is the last: seed 1)."
    assert str(both) == of_first.removesuffix(".") + left_out
  assert "left out" not in found[0].sentence


def test_one_hidden_layer_has_no_first_half():
  one = {w: {s: v[-1:] for s, v in by.items()} for w, by in PAPER.items()}
  found = {f.name: f for f in find(rows_of(one))}
  assert [found[f"F3.{i}"].holds for i in (2, 5)] == [None, None]
  assert "of one hidden layer there is no first half" in str(found["F3.2"])
  assert all(found[f"F3.{i}"].holds for i in (1, 3, 4))
  # Nor has a network without any.
  rows = [row for row in rows_of(PAPER) if row.get("layer_index", 0) in (0, 7)]
  found = find(runs.Rows(rows))
  assert {f.holds for f in found} == {None}
  assert "was not measured in hidden layers" in found[0].sentence


def with_removed(rows, ranks, left=0.5):
  """Adds K by epoch and subset, and the share of a centre that is left."""
  added = []
  for row in rows.where("capacity"):
    K = ranks.get((row["epoch"], row["subset"]), 1)
    added += [
      row | {"metric": "rank", "value": K},
      row | {"metric": "center_left", "value": left},
    ]
  return runs.Rows([*rows, *added])


def apart_at_best():
  """Returns rows in which restored capacity is 34 % below test in one layer."""
  changed = {w: {s: list(v) for s, v in by.items()} for w, by in PAPER.items()}
  changed["best"]["restored"][4] = PAPER["best"]["test"][4] * 0.66
  return rows_of(changed)


def test_f31_cannot_fail_by_what_was_removed():
  rows = apart_at_best()
  cases = [
    (rows, False),  # K is not recorded.
    (with_removed(rows, {}), False),
    (with_removed(rows, {(40, "restored"): 2}), None),
    (with_removed(rows, {(1000, "restored"): 2}), False),
    (with_removed(rows, {}, left=0.04), None),
    (with_removed(rows, {}, left=0.06), False),
    (with_removed(rows_of(PAPER), {(40, "restored"): 2}), True),
  ]
  for of_case, holds in cases:
    found = find(of_case)[0]
    assert found.holds is holds
    assert ("numbers of shared directions" in found.sentence) == (holds is None)
  # The same K over all seeds is not the same K in each.
  other = apart_at_best()
  for row in other:
    row["seed"] = 1
  both = [
    *with_removed(rows, {(40, "restored"): 0, (40, "test"): 2}),
    *with_removed(other, {(40, "restored"): 2, (40, "test"): 0}),
  ]
  assert find(runs.Rows(both))[0].holds is None
  # Memorized already, whatever was removed.
  memorized = runs.Rows(
    row | {"value": 0.06}
    if row["metric"] == "capacity" and row["subset"] == "permuted"
    else row
    for row in rows
  )
  found = find(with_removed(memorized, {(40, "restored"): 2}))
  assert found[0].holds is False


@pytest.mark.parametrize(
  ("name", "which", "changed", "alike", "unlike"),
  [
    # Another K leaves .6 of a number or more: see docs/numbers.md.
    ("F3.2", "last", {("permuted", 5): 0.1}, True, True),  # 2.65 x .6 > 1.5
    ("F3.2", "last", {("permuted", 5): 0.08}, True, None),
    ("F3.2", "last", {("permuted", 5): 0.05}, False, None),  # 1.32 / .6 > 1.5
    ("F3.2", "last", {("permuted", 5): 1.55 * 0.0378}, True, None),
    ("F3.2", "last", {("permuted", 5): 1.45 * 0.0378}, False, None),
    ("F3.2", "last", {("permuted", 5): 0.03}, False, False),
    ("F3.2", "last", {("permuted", 0): 0.05}, False, None),
    ("F3.2", "last", {("permuted", 0): 0.08}, False, False),
    ("F3.3", "best", {("restored", 5): 0.0592}, True, None),  # It falls to .68.
    ("F3.3", "best", {("restored", 5): 0.08}, True, True),
    ("F3.3", "best", {("restored", 5): 0.04}, False, None),
    ("F3.3", "last", {("restored", 5): 0.055}, False, False),  # Off chance.
    ("F3.5", "last", {("test", 1): 0.0442}, True, True),  # What is equal is so.
    ("F3.5", "last", {("test", 1): 0.06}, False, None),
    ("F3.5", "last", {("test", 1): 0.1}, False, False),
    # Of unpermuted examples K is the same.
    (
      *("F3.5", "last", {("test", 1): 0.06, ("unpermuted", 1): 0.06}),
      *(False, False),
    ),
    ("F3.1", "best", {("restored", 4): 0.0386}, False, None),
    ("F3.1", "best", {("restored", 4): 0.02}, False, False),
  ],
)
def test_no_verdict_hangs_on_what_was_removed_alone(
  name, which, changed, alike, unlike
):
  capacities = {
    w: {s: list(v) for s, v in by.items()} for w, by in PAPER.items()
  }
  for (subset, layer), value in changed.items():
    capacities[which][subset][layer] = value
  rows = rows_of(capacities)
  subset, _ = next(iter(changed))
  for K, holds in ((1, alike), (2, unlike)):
    (found,) = (
      f for f in find(with_removed(rows, {(40, subset): K})) if f.name == name
    )
    assert found.holds is holds
    said = "numbers of shared directions removed"
    assert (said in found.sentence) == (holds is None)


def test_other_seeds_bound_what_k_can_do():
  """Permuted capacity rises to 2.12 times, x .6 if K differs in all seeds."""
  last = PAPER["last"] | {"permuted": [*PAPER["last"]["permuted"][:-1], 0.08]}
  rows = [rows_of(PAPER | {"last": last}, seed=seed) for seed in (0, 1)]
  other = {(40, "permuted"): 2}
  for ranks, holds in (((other, other), None), ((other, {}), True)):
    sets = zip(rows, ranks, strict=True)
    both = [row for of, K in sets for row in with_removed(of, K)]
    assert find(runs.Rows(both))[1].holds is holds


@pytest.mark.parametrize(
  ("last", "alike", "unlike"),
  [
    ((0.9, 18.8), True, True),
    ((1.2, 18.8), True, None),  # .76 of the radius at the best epoch.
    ((0.9, 22.0), True, None),
    ((1.7, 18.8), False, None),
    ((2.7, 18.8), False, False),
    ((1.2, 60.0), False, False),  # One that grows decides.
    ((0.9, 0.0), True, True),
  ],
)
def test_manifolds_do_not_shrink_by_what_was_removed(last, alike, unlike):
  rows = rows_of(PAPER, PERMUTED | {"last": last})
  for K, holds in ((1, alike), (0, unlike)):
    removed = with_removed(rows, {(1000, "permuted"): K})
    assert find(removed)[3].holds is holds
  # How much of a centre is left is another matter.
  assert find(with_removed(rows, {}, left=0.01))[3].holds is alike


@pytest.mark.parametrize(
  ("last", "error", "holds"),
  [
    # From 1.581 and 34.6, and from .0592.
    ((1.57, 18.8, 0.0403), 0.0, (True, True)),
    ((1.57, 18.8, 0.0403), 0.01, (True, None)),
    ((0.988, 34.5, 0.0403), 0.01, (True, None)),
    ((1.59, 18.8, 0.0403), 0.01, (True, None)),
    ((1.7, 34.5, 0.0403), 0.01, (True, False)),  # One that grows decides.
    ((0.988, 18.8, 0.048), 0.1, (None, True)),
    ((0.988, 18.8, 0.075), 0.1, (False, True)),  # Off chance, fall or no.
  ],
)
def test_no_fall_within_its_error_is_one(last, error, holds):
  """Relative errors: those of the probes of one seed, or of the mean of two."""
  *sizes, restored = last
  fallen = {"restored": [*PAPER["last"]["restored"][:-1], restored]}
  rows = rows_of(
    PAPER | {"last": PAPER["last"] | fallen}, PERMUTED | {"last": sizes}
  )
  for row in rows:
    row["stderr"] = error * row["value"]
  found = find(rows)[2:4]
  assert tuple(finding.holds for finding in found) == holds
  said = ["within two errors" in finding.sentence for finding in found]
  assert said == [each is None for each in holds]
  # Two seeds whose changes differ by as much to either side.
  seeds = runs.Rows(
    row
    | {"seed": seed}
    | (
      {"value": row["value"] * (1 + (2 * seed - 1) * 2**0.5 * error)}
      if row["epoch"] == 1000
      else {}
    )
    for seed in (0, 1)
    for row in rows
  )
  assert tuple(finding.holds for finding in find(seeds)[2:4]) == holds


@pytest.mark.parametrize(
  ("error", "permuted", "holds"),
  [
    (0.05, 0.0378, True),
    (0.1, 0.0378, None),
    (0.05, 0.0478, None),  # A fifth above chance, .04.
    (0.05, 0.06, False),
  ],
)
def test_values_are_equal_within_their_errors(error, permuted, holds):
  """Relative ones: a ratio of two may be off by 28%, equal is 25%."""
  best = {"permuted": [permuted, *PAPER["best"]["permuted"][1:]]}
  last = {"permuted": [permuted, *PAPER["last"]["permuted"][1:]]}
  rows = rows_of({w: PAPER[w] | x for w, x in (("best", best), ("last", last))})
  for row in rows:
    row["stderr"] = error * row["value"]
  found = {finding.name: finding for finding in find(rows)}
  assert found["F3.1"].holds is holds
  assert ("two standard errors, or" in str(found["F3.1"])) == (holds is None)
  for name in ("F3.2", "F3.5"):
    assert found[name].holds is (True if error == 0.05 else None)


def with_scores(rows, best, last, error=0.02):
  """Adds chance, and accuracies of test (best) and permuted (last) examples."""
  added = []
  for seed in runs.Rows(rows).seeds:
    of_seed = {"seed": seed, "layer": None}
    fact = of_seed | {"epoch": None, "subset": None}
    added.append(fact | {"metric": "chance_accuracy", "value": 0.1})
    for epoch, subset, value in ((40, "test", best), (1000, "permuted", last)):
      at = of_seed | {"epoch": epoch, "subset": subset, "stderr": error}
      added.append(at | {"metric": "accuracy", "value": value})
  return runs.Rows([*rows, *added])


def test_what_was_never_learnt_or_memorized_has_no_geometry():
  """The capacities of a network without training would fit the claims."""
  learnt = find(with_scores(rows_of(PAPER), 0.5, 0.9))
  assert learnt == find(rows_of(PAPER))
  first, *others = find(with_scores(rows_of(PAPER), 0.13, 0.9))
  assert first.holds is None
  assert "test accuracy of seed 0 at the best epoch is within" in first.sentence
  assert others == learnt[1:]
  # A share of .2 of what chance leaves is memory, as of rewinds.
  first, *others = find(with_scores(rows_of(PAPER), 0.5, 0.27))
  assert first == learnt[0]
  assert {f.holds for f in others} == {None}
  assert "ends at 0.270, and chance is 0.100" in others[0].sentence
  assert find(with_scores(rows_of(PAPER), 0.5, 0.29)) == learnt
  # Each seed must have learnt something.
  both = [
    *with_scores(rows_of(PAPER), 0.9, 0.9),
    *with_scores(rows_of(PAPER, seed=1), 0.1, 0.9),
  ]
  assert "seed 1" in find(runs.Rows(both))[0].sentence


def test_capacities_with_different_k_are_said_not_to_be_comparable():
  rows = rows_of(PAPER)
  differ = with_removed(rows, {(40, "permuted"): 3, (1000, "test"): 0})
  (told,) = Memorization.findings({}, differ)[5:]
  assert "K is 1-3 at the best, 0-1 at the last epoch" in told
  assert "--centers=3" in told
  by_epoch = {(1000, s): 2 for s in PAPER["last"]}
  (told,) = Memorization.findings({}, with_removed(rows, by_epoch))[5:]
  assert "K is 1 at the best, 2 at the last epoch" in told
  # Where K agrees, is not recorded, or was asked for, nothing is said.
  for same in (rows, with_removed(rows, {})):
    assert len(Memorization.findings({}, same)) == 5
  for centers in ("none", "2"):
    config = {"measure": {"centers": centers}}
    assert len(Memorization.findings(config, differ)) == 5
  # The table is there without the findings, too, and of the deepest layer.
  for chosen in ("last", "layer3"):
    config = {"measure": {"layers": chosen}}
    index = 7 if chosen == "last" else 3
    measured = [r for r in differ if r["layer"] in (None, f"layer{index}")]
    (told,) = Memorization.findings(config, runs.Rows(measured))
    assert f"in the layer layer{index} K is 1-3 at the best" in told
  partly = runs.Rows(r for r in differ if r["subset"] != "restored")
  (told,) = Memorization.findings({}, partly)
  assert "K is 1-3 at the best, 0-1 at the last epoch" in told
  lines = Memorization.table(differ).splitlines()
  assert lines[0].endswith("dimension     K   (layer layer7)")
  assert [line[-2:] for line in lines[1:]] == [
    *(" 1", " 3", " 1", " 1"),
    *(" 1", " 1", " 1", " 0"),
  ]
  assert Memorization.table(rows).splitlines()[1].endswith("34.60")


@pytest.mark.parametrize("value", [math.nan, None])
@pytest.mark.parametrize(
  ("which", "metric", "layer", "told"),
  [
    ("best", "capacity", "layer6", set()),
    ("last", "capacity", "layer1", {"F3.1"}),
    ("last", "radius", "layer6", {"F3.1"}),
    # The input and the logits are not judged.
    ("last", "capacity", "layer0", {f"F3.{i}" for i in range(1, 6)}),
    ("best", "dimension", "layer7", {f"F3.{i}" for i in range(1, 6)}),
  ],
)
def test_what_lacks_a_number_cannot_be_told(which, metric, layer, told, value):
  first, second = rows_of(PAPER), rows_of(PAPER, seed=1)
  place = {"epoch": {"best": 40, "last": 1000}[which], "layer": layer}
  place |= {"metric": metric, "subset": "permuted"}
  rows = first + [
    row | {"value": value} if place.items() <= row.items() else row
    for row in second
  ]
  if value is None:  # The row itself is missing.
    rows = [row for row in rows if row["value"] is not None]
  found = {f.name: f for f in Memorization.findings({}, runs.Rows(rows))[-5:]}
  assert {name for name, f in found.items() if f.holds is not None} == told
  for name in set(found) - told:
    assert f"the {which} epoch of seed 1 lacks numbers" in str(found[name])


@pytest.mark.parametrize("value", [0.5, math.nan, None])
def test_geometry_of_unknown_convergence_is_in_doubt(value):
  at = {"epoch": 1, "layer": "fc1", "layer_index": 1, "subset": "test"}
  rows = [at | {"metric": "capacity", "value": 0.1}]
  assert not doubts(
    runs.Rows([*rows, at | {"metric": "converged", "value": 1}])
  )
  rows.append(at | {"metric": "converged", "value": value})
  (told,) = doubts(runs.Rows(rows))
  assert "1 of 1 layers" in told


@pytest.mark.parametrize(
  ("which", "layer", "subset", "undecided"),
  [
    ("best", "layer3", "restored", {"F3.1", "F3.5"}),
    ("last", "layer4", "restored", set()),
    ("last", "layer6", "permuted", {"F3.2", "F3.4"}),
    ("last", "layer6", "restored", {"F3.3"}),
    ("last", "layer1", "unpermuted", {"F3.5"}),
    ("best", "layer1", "permuted", {"F3.1", "F3.2", "F3.5"}),
    ("best", "layer6", "unpermuted", set()),
    ("best", "layer7", "permuted", set()),
  ],
)
def test_no_verdict_rests_on_what_did_not_converge(
  which, layer, subset, undecided
):
  epoch = {"best": 40, "last": 1000}[which]
  at = {"epoch": epoch, "layer": layer, "subset": subset}
  rows = rows_of(PAPER)
  for row in rows.where("capacity"):
    lost = at.items() <= row.items()
    rows.append(row | {"metric": "converged", "value": 0.98 if lost else 1})
  found = find(rows)
  assert {f.name for f in found if f.holds is None} == undecided
  told = f"not to be believed (converged below 1) are numbers of {layer}"
  assert {f.name for f in found if told in f.sentence} == undecided


def test_the_most_frequent_label_needs_no_learning():
  """Where it is 77% of all, .77 is neither learnt nor memorized."""
  rows = with_scores(rows_of(PAPER), 0.77, 0.77)
  fact = {"seed": 0, "epoch": None, "layer": None, "subset": None}
  rows.append(fact | {"metric": "majority_accuracy", "value": 0.77})
  found = find(rows)
  assert {f.holds for f in found} == {None}
  assert "chance (0.770)" in found[0].sentence
  assert "chance is 0.770" in found[1].sentence


def test_glue_says_itself_where_too_much_is_unsolved():
  """One probe of many that is not solved leaves its capacity a number."""
  at = {"seed": 0, "epoch": 1, "layer": "fc1", "layer_index": 1}
  at |= {"subset": "test"}
  of_glue = [("glue_capacity", 0.2), ("glue_converged", 0.995)]
  of_field = [("capacity", 0.1), ("radius", 1.0), ("converged", 0.9)]
  rows = runs.Rows(
    at | {"metric": metric, "value": value}
    for metric, value in (*of_glue, *of_field)
  )
  values = {row["metric"]: row["value"] for row in believable(rows)}
  assert values["glue_capacity"] == 0.2
  assert math.isnan(values["capacity"] + values["radius"])
  assert len(doubts(rows)) == 1
