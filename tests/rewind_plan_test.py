"""Which rewinds there are, and what is said of them."""

import itertools
import math

import pytest

from geomem import models, runs, studies
from geomem.studies import hybrids
from geomem.studies.rewind import make_rewinds
from geomem.studies.rewind_findings import (
  best_rewinds,
  find_rewinds,
  rewind_table,
)

LAYERS = ["stem", *(f"block{s}_{i}" for s in range(1, 5) for i in (1, 2))]
LAYERS += ["logits"]


def build(name):
  return models.build(name, num_classes=3, image_shape=(8, 8, 1), width=2)


def test_the_kinds_are_each_layer_the_last_and_the_first():
  rewinds = make_rewinds(build("resnet18"), studies.RewindConfig())
  assert [r.layers for r in rewinds[:10]] == [(name,) for name in LAYERS]
  assert [list(r.layers) for r in rewinds[10:20]] == [
    LAYERS[-j:] for j in range(1, 11)
  ]
  assert [list(r.layers) for r in rewinds[20:]] == [
    LAYERS[:j] for j in range(1, 11)
  ]
  config = studies.RewindConfig(layers=("logits", "stem"))
  (chosen,) = make_rewinds(build("resnet18"), config)
  assert chosen == ("custom", ("stem", "logits"))


def test_mixed_layers_have_both_epochs_below():
  network = build("resnet18")

  def mixed(*layers):
    return hybrids.mixed_layers(network, hybrids.mask_of(network, layers))

  assert mixed("block4_2") == ["block4_2", "pool", "logits"]
  assert mixed(*LAYERS[:-2]) == ["block4_2", "pool", "logits"]
  assert mixed(*LAYERS[:-1]) == ["logits"]
  assert mixed(*LAYERS) == []


@pytest.mark.parametrize(
  ("values", "sentence"),
  [
    ({"layers": ("stem", "fc")}, r"'fc' is not a layer .* there are stem,"),
    ({"layers": ("pool",)}, r"'pool' is not a layer .* with something"),
    ({"kinds": ("middle",)}, r"'middle' is not known .* single, suffix,"),
    ({"batch_norm": "no"}, r"'no' is not known .* together, parameters,"),
  ],
)
def test_bad_input_is_a_sentence(values, sentence):
  config = studies.RewindConfig(**values)
  with pytest.raises(ValueError, match=sentence):
    make_rewinds(build("resnet18"), config)


def test_readings_need_batch_norm():
  config = studies.RewindConfig(batch_norm="parameters")
  with pytest.raises(
    ValueError, match="not known for mlp; choose from together"
  ):
    make_rewinds(build("mlp"), config)


def test_different_configs_go_to_different_directories():
  configs = [
    {},
    {"kinds": ("single",)},
    {"layers": ("stem",)},
    {"epochs": (3,)},
    {"batch_norm": "parameters"},
    {"geometry": True},
  ]
  names = {studies.RewindConfig(**config).directory for config in configs}
  assert len(names) == len(configs)


def made_rows(suffix, single):
  """Rows of two seeds and two epochs: recovered, and (permuted, unpermuted)."""
  rows = []
  for seed, subset in itertools.product((0, 1), ("unpermuted", "permuted")):
    rows += [
      {"seed": seed, "metric": "best_epoch", "value": 1},
      {"seed": seed, "metric": "last_epoch", "value": 9},
      {"seed": seed, "metric": "chance_accuracy", "value": 0.1},
    ]
    last = {"subset": subset, "metric": "accuracy", "value": 1.0}
    rows.append({"seed": seed, "epoch": 9} | last)
  for seed, epoch in itertools.product((0, 1), (1, 9)):
    columns = {"seed": seed, "epoch": epoch, "kind": "suffix"}
    for count, value in enumerate(suffix, 1):
      found = {"rewound": "+".join("abcd"[4 - count :]), "subset": "test"}
      value = (value + 0.1 * (seed - 0.5)) * (epoch == 1)
      share = {"metric": "recovered", "value": value, "stderr": 0.0}
      rows.append(columns | found | share)
      other = {"subset": "permuted", "metric": "accuracy", "value": 0.2}
      rows.append(columns | found | other)
    for layer, values in single.items():
      for subset, value in zip(("permuted", "unpermuted"), values, strict=True):
        found = {"kind": "single", "rewound": layer, "subset": subset}
        found |= {"metric": "accuracy", "value": value if epoch == 1 else 1.0}
        rows.append(columns | found)
  return runs.Rows(dict.fromkeys(runs.COLUMNS) | row for row in rows)


def test_findings_follow_the_rows():
  single = {"a": (0.3, 0.5), "b": (0.4, 0.9), "c": (0.9, 1.0), "d": (0.8, 1.0)}
  last, outside = find_rewinds(made_rows([0.1, 0.5, 0.9, 1], single))
  assert not last.holds
  assert "the last 2 layers (from c on) of 4 recovers 50% ± 7%" in last.sentence
  assert "80% takes the last 3 layers (from b on): 90% ± 7%" in last.sentence
  assert outside.holds
  assert "is b at epoch 1 (permuted accuracy 1.000 to 0.400" in outside.sentence
  assert "In the last third (c, d) it is d at epoch 1" in outside.sentence
  single["d"] = (0.1, 1.0)
  rows = made_rows([0.1, 0.95, 0.97, 1], single)
  last, outside = find_rewinds(rows)
  assert last.holds
  assert not outside.holds
  assert "is d at epoch 1" in outside.sentence
  assert best_rewinds(rows)[0].startswith(
    "Best suffix rewind: the last 3 layers (from b on), to epoch 1; 97% ± 7%"
  )


@pytest.mark.parametrize(
  ("spread", "first", "second", "holds"),
  [
    (0.03, 0.4, 0.5, True),
    (0.06, 0.4, 0.5, None),
    (0.06, 0.5, 0.4, None),
    (0.03, 0.5, 0.4, False),
  ],
)
def test_where_memory_is_is_not_told_within_the_error_of_the_seeds(
  spread, first, second, holds
):
  """The layers differ by .1 ± the spread, in the mean of two seeds."""
  rows = made_rows([0.1, 0.5, 0.9, 1], {"a": (first, 1), "b": (second, 1)})
  of_last = {"kind": "single", "subset": "permuted", "rewound": "b"}
  for row in rows.where(**of_last, epoch=1):
    row["value"] += (2 * row["seed"] - 1) * spread
  found = find_rewinds(rows)[1]
  assert found.holds is holds
  said = "which forgets more cannot be known within two errors"
  assert (said in found.sentence) == (holds is None)
  assert "b at epoch 1 (permuted accuracy 1.000 to" in found.sentence
  # A single seed has no error.
  assert find_rewinds(rows.where(seed=0))[1].holds is not None


def test_without_memory_no_layer_holds_it():
  rows = made_rows([0.1, 0.5, 0.9, 1], {"a": (0.1, 0.5), "b": (0.2, 0.9)})
  for row in rows:
    if (row["subset"], row.get("kind")) == ("permuted", None):
      row["value"] = 0.2
  *_, selective = find_rewinds(rows)
  assert selective.holds is None
  assert "permuted accuracy ends at 0.200, and chance is 0.100" in str(
    selective
  )


def prefix_rows(recovered):
  """The suffixes' rows as those of prefixes."""
  rows = made_rows(recovered, {})
  for row in rows:
    if row.get("kind") == "suffix":
      row["kind"] = "prefix"
      row["rewound"] = "+".join("abcd"[: len(row["rewound"].split("+"))])
  return rows


def test_the_first_layers_must_not_restore():
  (found,) = find_rewinds(prefix_rows([0.1, 0.3, 0.9, 1]))
  assert found.name.startswith("F4.2")
  assert found.holds
  assert "80% takes the first 3 layers (up to c): 90% ± 7%" in found.sentence
  (found,) = find_rewinds(prefix_rows([0.1, 0.95, 0.9, 1]))
  assert not found.holds
  # Nor do layers that never restore.
  (found,) = find_rewinds(prefix_rows([0.1, 0.2, 0.3, 0.4]))
  assert found.holds
  assert "no number of layers gives 80%" in found.sentence


@pytest.mark.parametrize(("error", "told"), [(0.3, True), (0.5, False)])
def test_shares_of_next_to_nothing_tell_nothing(error, told):
  """Of two seeds the mean has an error of .21, of .35: .25 is the limit."""
  shares = [0.1, 0.2, 0.9, 1]
  for rows in (made_rows(shares, {}), prefix_rows(shares)):
    for row in rows:
      if row["metric"] == "recovered":
        row["stderr"] = error
    assert rows.seeds == [0, 1]
    (found,) = find_rewinds(rows)
    assert (found.holds is not None) == told
    assert told or "the test examples alone leave ± 35%" in str(found)
    assert bool(best_rewinds(rows)) == told


@pytest.mark.parametrize("make", [lambda x: made_rows(x, {}), prefix_rows])
@pytest.mark.parametrize(
  ("share", "seeds", "examples", "told"),
  [
    (0.85, (0, 1), 0.0, False),  # The seeds leave ± .05,
    (0.91, (0, 1), 0.0, True),
    (0.69, (0, 1), 0.0, True),
    (0.69, (0, 1), 0.1, False),  # the examples ± .07.
    (0.64, (0, 1), 0.1, True),
    (0.95, (0,), 0.1, False),  # Of one seed, ± .1 about .9.
    (0.95, (0,), 0.04, True),
  ],
)
def test_shares_within_two_errors_of_enough_are_undecided(
  make, share, seeds, examples, told
):
  rows = make([0.1, share, 0.99, 1]).where(seed=seeds)
  for row in rows:
    if row["metric"] == "recovered":
      row["stderr"] = examples
  (found,) = find_rewinds(rows)
  expected = (share > 0.8) == found.name.startswith("F4.1")
  assert found.holds == (expected if told else None)
  assert ("within two errors" in str(found)) != told


def test_runs_without_a_recorded_chance_are_judged():
  rows = made_rows([0.1, 0.5, 0.9, 1], {})
  rows = runs.Rows(r for r in rows if r["metric"] != "chance_accuracy")
  (found,) = find_rewinds(rows)
  assert found.holds is False
  assert "(chance unknown)" in found.sentence


SINGLE = {"a": (0.3, 0.5), "b": (0.4, 0.9), "c": (0.9, 1.0), "d": (0.8, 1.0)}


def moved(rows, seed, epoch):
  """Moves a seed's best epoch, and the rewinds to it, from 1 to another."""
  moved = runs.Rows()
  for row in rows:
    if row["seed"] == seed and row["metric"] == "best_epoch":
      row = row | {"value": epoch}
    elif row["seed"] == seed and row["epoch"] == 1:
      row = row | {"epoch": epoch}
    moved.append(row)
  return moved


def test_the_best_epochs_of_all_seeds_are_one_place():
  rows = made_rows([0.1, 0.85, 0.9, 1], SINGLE)
  other = moved(rows, 1, 2)
  same, differing = ([str(f) for f in find_rewinds(r)] for r in (rows, other))
  named = "at each seed's best epoch (1, 2)"
  assert [text.replace(named, "at epoch 1") for text in differing] == same
  assert named in differing[1]
  assert best_rewinds(other) == [
    text.replace("to epoch 1", "to each seed's best epoch (1, 2)")
    for text in best_rewinds(rows)
  ]
  assert rewind_table(other) == rewind_table(rows)
  assert rewind_table(rows).startswith("to the best epoch  ")


def rewound_to(rows, epoch):
  """Keeps the rewinds to one epoch."""
  return runs.Rows(
    r for r in rows if r["epoch"] == epoch or r.get("kind") is None
  )


def test_rewinds_to_other_epochs_tell_nothing_of_the_best():
  rows = made_rows([0.1, 0.85, 0.9, 1], SINGLE)
  # The network's own epoch rewinds nothing.
  last = rewound_to(rows, 9)
  assert [f.holds for f in find_rewinds(last)] == [None, None]
  side, selective = map(str, find_rewinds(last))
  assert "no rewind of seeds 0, 1 goes to the best epoch (epoch 1)" in side
  assert "no epoch before the last is one that every seed" in selective
  assert not best_rewinds(last)
  assert rewind_table(last).startswith("to epoch 9  ")
  # Both go to epoch 1, which is the best of the first seed alone.
  early = runs.Rows(
    r | {"value": 2} if (r["seed"], r["metric"]) == (1, "best_epoch") else r
    for r in rewound_to(rows, 1)
  )
  side, selective = find_rewinds(early)
  assert side.holds is None
  assert "no rewind of seed 1 goes to the best epoch (epoch 2)" in str(side)
  assert "b at epoch 1" in str(selective)
  assert best_rewinds(early) == best_rewinds(rows)
  assert rewind_table(early).startswith("to epoch 1  ")


@pytest.mark.parametrize(
  ("single", "sentence"),
  [
    ({"a": (0.4, 0.9), "d": (0.3, 0.8)}, "a and d forget equally"),
    ({"a": (1.0, 1.0), "d": (1.0, 1.0)}, "costs more permuted than"),
    ({"a": (0.9, 0.8), "d": (1.0, 0.9)}, "costs more permuted than"),
    ({"a": (0.1, 0.9)}, "one layer alone is rewound"),
    ({"a": (math.nan, 0.9), "d": (0.3, 0.9)}, "accuracies are missing"),
  ],
)
def test_without_one_that_forgets_most_no_layer_holds_the_memory(
  single, sentence
):
  *_, selective = find_rewinds(made_rows([0.1, 0.5, 0.9, 1], single))
  assert selective.holds is None
  assert sentence in selective.sentence


def test_what_is_forgotten_counts_from_where_it_ends():
  """A layer at (.8, .9) forgets nothing that permuted labels at .8 had."""
  rows = made_rows([0.1, 0.5, 0.9, 1], {"a": (0.8, 0.9), "b": (0.8, 0.95)})
  for row in rows:
    if (row["subset"], row.get("kind")) == ("permuted", None):
      row["value"] = 0.8
  *_, selective = find_rewinds(rows)
  assert selective.holds is None
  assert "costs more permuted than" in selective.sentence


def test_an_unknown_accuracy_at_one_of_several_epochs_leaves_all_undecided():
  rows = made_rows([0.1, 0.5, 0.9, 1], SINGLE)
  more = [r | {"epoch": 5} for r in rows if r["epoch"] == 1]
  # An epoch that not every seed reaches is no place.
  early = runs.Rows(rows + [r for r in more if r["seed"] == 0])
  assert find_rewinds(early)[1].holds
  assert best_rewinds(early) == best_rewinds(rows)
  for row in more:
    if row.get("rewound") in ("d", "c+d"):
      row["value"] = math.nan
  rows = runs.Rows(rows + more)
  selective = find_rewinds(rows)[1]
  assert selective.holds is None
  assert selective.sentence == "accuracies are missing"
  (best,) = best_rewinds(rows)
  assert best.endswith("cannot be told: recovered shares are missing.")


@pytest.mark.parametrize("subset", ["permuted", "unpermuted"])
def test_without_examples_that_is_the_reason(subset):
  rows = made_rows([0.1, 0.5, 0.9, 1], SINGLE)
  kept = runs.Rows(row for row in rows if row.get("subset") != subset)
  selective = find_rewinds(kept)[1]
  assert selective.sentence == f"the last networks have no {subset} accuracy"


@pytest.mark.parametrize("value", [math.nan, None])
def test_a_missing_share_leaves_the_halves_undecided(value):
  rows = made_rows([0.9, 0.9, 0.9, 1], {})
  place = {"seed": 1, "epoch": 1, "rewound": "c+d", "metric": "recovered"}
  rows = runs.Rows(
    row | {"value": value} if place.items() <= row.items() else row
    for row in rows
  )
  if value is None:  # The row itself is missing.
    rows = runs.Rows(row for row in rows if row["value"] is not None)
  (found,) = find_rewinds(rows)
  assert found.holds is None
  assert "recovered shares are missing" in found.sentence


def test_one_layer_has_no_halves():
  (found,) = find_rewinds(made_rows([1.0], {}))
  assert found.holds is None
  assert "fewer than two sets of layers" in found.sentence


def test_seeds_that_lost_nothing_are_left_out():
  rows = made_rows([0.1, 0.85, 0.9, 1], SINGLE)
  alone = [str(f) for f in find_rewinds(rows.where(seed=0))]
  kept = runs.Rows(
    row for row in rows if (row["seed"], row["metric"]) != (1, "recovered")
  )
  for row in kept:
    if row["seed"] == 1 and row["metric"] == "accuracy":
      row["value"] = 0.77
  left_out = " (left out, as no test accuracy is lost: seed 1)"
  found = [str(f) for f in find_rewinds(kept)]
  assert found == [f"{text.removesuffix('.')}{left_out}." for text in alone]
  table = rewind_table(kept)
  assert table == f"{rewind_table(rows.where(seed=0))}\n{left_out.strip()}"
  rows = made_rows([0.1, 0.85, 0.9, 1], SINGLE)
  none = runs.Rows(row for row in rows if row["metric"] != "recovered")
  side, selective = find_rewinds(none)
  assert "is undecided: no test accuracy is lost" in str(side)
  assert selective.holds
  assert not best_rewinds(none)


def test_the_best_rewind_recovers_something():
  rows = made_rows([-0.3, -0.2, -0.1, 1], {})
  assert best_rewinds(rows) == ["No suffix rewind recovers lost test accuracy."]
  (told,) = best_rewinds(made_rows([0.3, 0.5, 0.5, 1], {}))
  assert told.startswith("Best suffix rewind: the last 2 layers")
  assert told.endswith("is recovered, by 1 more as well.")
