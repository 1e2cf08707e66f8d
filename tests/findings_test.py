"""The findings of figure 3, tried on the figures that the paper printed."""

import pytest

from geomem import runs
from geomem.studies.memorization import find

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


def rows_of(capacities, permuted=PERMUTED):
  facts = {"best_epoch": 40, "last_epoch": 1000, "manifold_points": 50}
  rows = [
    {"seed": 0, "epoch": None, "layer": None, "subset": None}
    | {"metric": metric, "value": value}
    for metric, value in facts.items()
  ]
  for which, by_subset in capacities.items():
    for subset, values in by_subset.items():
      # The input before them, and the logits behind them.
      for index, value in enumerate([values[0], *values, values[-1]]):
        columns = {"seed": 0, "epoch": facts[f"{which}_epoch"]}
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
  assert "F3.5 (early layers stay general) cannot be told: the best" in str(
    found[4]
  )
