"""G1 to G5 on tables that must pass and that must fail, and their figures."""

import math

import numpy as np
import pytest

from geomem import plots, runs
from geomem.studies import paper
from geomem.studies.gradients.findings import find_gradients
from geomem.studies.paper import comparison
from tests.fakes import shown, write_run

SIZES = (64, 128, 256)
# Of the whole network at epochs 0, 1 (the best) and 5 (the last).
NORMS = {
  ("unpermuted", "label"): (4.0, 5.0, 4.0),
  ("permuted", "label"): (0.4, 0.5, 4.2),
  ("unpermuted", "independent"): (4.0, 5.0, 4.5),
  ("permuted", "independent"): (0.4, 0.6, 4.4),
}
TABLE = {
  "ratio": (0.1, 0.1, 1.0),
  "cancelled": (0.05, 0.2, 0.9),
  "slope": -0.5,
  "unpermuted_slope": 0.0,
  "closed_form": 1e-5,
}


def rows_of(norms=NORMS, **changed) -> runs.Rows:
  """What the study of two seeds writes, where all five hold."""
  table, rows = TABLE | changed, []
  for seed in (0, 1):
    facts = {"best_epoch": 1, "last_epoch": 5}
    rows += [{"seed": seed, "metric": m, "value": v} for m, v in facts.items()]
    for i, epoch in enumerate((0, 1, 5)):
      at = {"seed": seed, "epoch": epoch, "mode": "evaluation"}
      rows.append(at | {"metric": "examples_used", "value": 300})
      rows += [at | row for row in of_epoch(i, norms, table, seed)]
    law = {"seed": seed, "epoch": 0, "mode": "law", "part": "label"}
    rows += [law | row for row in of_law(table)]
  empty = (*runs.COLUMNS, "mode", "part", "labels", "drawn", "draw")
  return runs.Rows(dict.fromkeys((*empty, "num_examples")) | r for r in rows)


def of_epoch(i, norms, table, seed):
  centered = {"part": "label", "labels": "centered"}
  shift = 1 + 0.02 * seed - 0.01
  for index, layer in ((1, "fc1"), (2, "logits"), (None, None)):
    at = {"layer": layer, "layer_index": index}
    for (subset, part), values in norms.items():
      of_part = at | {"subset": subset, "part": part, "labels": "centered"}
      for metric in ("norm", "projection"):
        yield of_part | {"metric": metric, "value": values[i] * shift}
    for subset in ("unpermuted", "permuted"):
      of_set = at | {"subset": subset}
      yield of_set | {"part": "total", "metric": "norm", "value": 2.0}
      noisy = {"metric": "squared_norm_unbiased", "value": 0.1}
      yield of_set | centered | noisy
      value = table["cancelled"][i]
      cancelled = {"metric": "cancellation", "value": value}
      yield of_set | {"labels": "centered"} | cancelled
    for metric, value in (
      ("ratio", table["ratio"][i]),
      ("ratio_unbiased", table["ratio"][i] / 2),
      ("cosine", 0.3),
    ):
      yield at | centered | {"metric": metric, "value": value * shift}


def of_law(table):
  for drawn, subset, slope in (
    ("own", "unpermuted", table["unpermuted_slope"]),
    ("shuffled", "permuted", table["slope"]),
    ("independent", "permuted", table["slope"]),
  ):
    for labels in ("centered", "raw"):
      of_labels = {"subset": subset, "drawn": drawn, "labels": labels}
      for index, layer in ((1, "fc1"), (None, None)):
        at = {"layer": layer, "layer_index": index, "metric": "law_slope"}
        yield of_labels | at | {"value": slope, "stderr": 0.01}
      for n in SIZES:
        at = {"num_examples": n, "draw": 0}
        norm = 3.0 * n**slope
        yield of_labels | at | {"metric": "law_norm", "value": norm}
        squared = {"metric": "law_squared_norm_unbiased", "value": norm**2}
        yield of_labels | at | squared
  for part in ("label", "total"):
    value = {"metric": "closed_form_error", "value": table["closed_form"]}
    yield {"part": part, "layer": "fc1"} | value


def verdicts(**changed) -> dict[str, bool]:
  return {f.name: f.holds for f in find_gradients(rows_of(**changed))}


def test_all_hold_where_they_must():
  assert verdicts() == dict.fromkeys(("G1", "G2", "G3", "G4", "G5"), True)


@pytest.mark.parametrize(
  ("name", "changed"),
  [
    ("G1", {"slope": -0.4}),
    ("G1", {"slope": -0.6}),
    ("G2", {"unpermuted_slope": -0.2}),
    ("G2", {"unpermuted_slope": 0.2}),
    ("G3", {"closed_form": 0.02}),
    ("G3", {"closed_form": 0.011}),
    ("G4", {"ratio": (0.3, 0.3, 1.0)}),  # Never small.
    ("G4", {"ratio": (0.1, 0.1, 0.7)}),  # Never like the unpermuted.
    ("G4", {"ratio": (0.1, 0.1, 1.4)}),
    ("G5", {"cancelled": (0.05, 0.2, 0.4)}),
    (
      "G5",
      {"norms": NORMS | {("permuted", "label"): (0.4, 0.5, 0.3)}},
    ),  # It does not grow.
  ],
)
def test_each_fails_where_it_must_and_no_other(name, changed):
  expected = dict.fromkeys(("G1", "G2", "G3", "G4", "G5"), True)
  assert verdicts(**changed) == expected | {name: False}


def test_all_hold_just_within_their_bounds():
  bounds = {"closed_form": 0.009, "ratio": (0.24, 0.24, 1.3), "slope": -0.46}
  assert set(verdicts(**bounds).values()) == {True}
  assert verdicts(ratio=(0.24, 0.24, 0.77))["G4"]
  assert verdicts(cancelled=(0.05, 0.2, 0.52))["G5"]


@pytest.mark.parametrize(
  ("changed", "holds"),
  [
    ({}, True),
    ({"slope": -0.4}, False),
    ({"ratio": (0.1, 0.1, 0.7)}, False),
    ({"ratio": (0.1, 0.1, math.nan)}, None),
    ({"slope": math.nan}, None),
  ],
)
def test_the_paper_compares_the_numbers_and_judges_both_together(
  changed, holds, tmp_path
):
  """T6 is G1 and G4."""
  table = TABLE | {"ratio": (0.1, 0.2, 1.0), "closed_form": 0.003} | changed
  rows = rows_of(**table)
  write_run(tmp_path / "memorization/gradients", {}, rows)
  found = {
    row["metric"]: row for row in paper.compare(tmp_path, paper.SCALES["tiny"])
  }
  assert found["T6"]["holds"] is holds
  expected = {
    "G1": table["slope"],
    "G2": table["unpermuted_slope"],
    "G3": table["closed_form"],
    "G4 first": table["ratio"][0],
    "G4 last": table["ratio"][2],
    "G5": table["cancelled"][2],
  }
  for key, value in expected.items():
    if not math.isnan(value):
      assert found[key]["value"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
  ("name", "metric", "columns"),
  [
    ("G1", "law_slope", {"drawn": "independent", "labels": "centered"}),
    ("G2", "law_squared_norm_unbiased", {"drawn": "own"}),
    ("G3", "closed_form_error", {"part": "label"}),
    ("G4", "ratio", {"epoch": 1}),
    ("G4", "ratio", {"epoch": 5}),
    ("G5", "cancellation", {"epoch": 5, "subset": "permuted"}),
    ("G5", "norm", {"epoch": 0, "subset": "permuted", "part": "label"}),
  ],
)
@pytest.mark.parametrize("value", [math.nan, None, "no row"])
def test_what_lacks_a_number_cannot_be_told(name, metric, columns, value):
  """NaN is None on disk; a seed without a row is as unknown."""
  rows, expected = rows_of(), {"G1", "G2", "G3", "G4", "G5"} - {name}
  for row in rows.where(metric, seed=0, **columns):
    row["value"] = value
  rows = runs.Rows(row for row in rows if row["value"] != "no row")
  verdicts = {f.name: f.holds for f in find_gradients(rows)}
  assert verdicts == dict.fromkeys(expected, True) | {name: None}
  numbers, _ = comparison._gradients(rows, False)
  assert {k.split()[0] for k, v in numbers.items() if np.isnan(v).any()} <= {
    name
  }


@pytest.mark.parametrize("value", [math.nan, None, "no row"])
def test_no_sentence_has_nan(value):
  """Numbers that decide nothing may be unknown, too."""
  decides = {
    *("ratio", "cancellation", "norm", "law_slope", "closed_form_error"),
    *("ratio_unbiased", "squared_norm_unbiased", "law_squared_norm_unbiased"),
  }
  for metric in decides:
    rows = rows_of()
    for row in rows.where(metric, seed=1):
      row["value"] = value
    rows = runs.Rows(row for row in rows if row["value"] != "no row")
    said = "".join(map(str, find_gradients(rows)))
    assert "nan" not in said
    assert "unknown" in said or metric == "law_squared_norm_unbiased"


@pytest.mark.parametrize("epoch", [1, 5])
def test_without_a_network_its_findings_cannot_be_told(epoch):
  """As of a copy without the best or the last network."""
  rows = runs.Rows(row for row in rows_of() if row["epoch"] != epoch)
  found = {f.name: f.holds for f in find_gradients(rows)}
  expected = {"G4"} if epoch == 1 else {"G4", "G5"}
  assert {name for name, holds in found.items() if holds is None} == expected
  numbers, _ = comparison._gradients(rows, False)
  assert np.isnan(numbers["G4 last"]).all() == (epoch == 5)
  for plot in (plots.plot_gradient_parts, plots.plot_gradient_comparison):
    plot(rows)


def test_sentences_have_their_figures():
  said = [str(finding) for finding in find_gradients(rows_of())]
  assert "to the power -0.500 ± 0.007 (centred; 2 draws" in said[0]
  assert "1.0e-05 in the worst layer" in said[2]
  assert "0.100 at initialization, 0.100 at the best epoch, 1.000" in said[3]
  assert "label part (centred) is 0.100 at initialization" in said[3]


@pytest.mark.parametrize(("error", "holds"), [(0.01, False), (0.2, None)])
def test_a_slope_is_not_told_within_its_error(error, holds):
  """It is .05 beyond its bounds; of two seeds the error is .7 of each."""
  rows = rows_of(slope=-0.4)
  for row in rows.where("law_slope"):
    row["stderr"] = error
  found = find_gradients(rows)[0]
  assert found.holds is holds
  said = "cannot be known within two errors"
  assert (said in found.sentence) == (holds is None)
  assert find_gradients(rows_of())[0].holds


@pytest.mark.parametrize(
  ("ratio", "holds"),
  [
    # Two seeds of ± 1%: their mean has an error of ± 1% of itself.
    ((0.1, 0.1, 0.74), None),
    ((0.1, 0.1, 0.72), False),
    ((0.254, 0.254, 1.0), None),
    ((0.26, 0.26, 1.0), False),
    ((0.26, 0.26, 0.74), False),  # One that fails decides.
  ],
)
def test_a_ratio_is_not_told_within_the_error_of_its_seeds(ratio, holds):
  found = find_gradients(rows_of(ratio=ratio))[3]
  assert found.holds is holds
  of_one = rows_of(ratio=ratio).where(seed=1)
  # Alone a seed has no error: its ratio, 1% larger, decides.
  alone = ratio[0] * 1.01 < 0.25 and ratio[2] * 1.01 > 0.75
  assert find_gradients(of_one)[3].holds is alone


@pytest.mark.parametrize(("early", "holds"), [(0.1, True), (0.3, None)])
def test_a_ratio_may_have_fallen_where_networks_are_missing(early, holds):
  """With its best epoch at 5, epochs 2 and 3 were scored, not measured."""
  rows = rows_of(ratio=(early, early, 1.0))
  for row in rows.where(("best_epoch", "last_epoch")):
    row["value"] = 5
  found = find_gradients(rows)[3]
  assert found.holds is holds
  said = "and epochs 2, 3 were not measured"
  assert (said in found.sentence) == (holds is None)


@pytest.mark.parametrize(
  ("columns", "values", "holds"),
  [
    ({"metric": "cancellation", "subset": "permuted"}, (0.44, 0.45), False),
    ({"metric": "cancellation", "subset": "permuted"}, (0.4, 0.5), None),
    ({"metric": "cancellation", "subset": "permuted"}, (0.4, 0.7), True),
    ({"metric": "norm", "part": "label"}, (0.3, 0.31), False),
    # From .396 and .404: by -.046 and .006, -.02 ± .026.
    ({"metric": "norm", "part": "label"}, (0.35, 0.41), None),
    ({"metric": "norm", "part": "independent"}, (0.35, 0.41), None),
    ({"metric": "norm", "part": "label"}, (0.396, 0.404), False),  # It stays.
  ],
)
def test_the_cancellation_is_not_told_within_the_error_of_its_seeds(
  columns, values, holds
):
  rows = rows_of()
  columns |= {"subset": "permuted", "epoch": 5, "layer": None}
  for row in rows.where(**columns):
    row["value"] = values[row["seed"]]
  found = find_gradients(rows)[4]
  assert found.holds is holds
  said = "cannot be known within two errors"
  assert (said in found.sentence) == (holds is None)


@pytest.mark.parametrize(
  ("slopes", "holds"),
  [((0.19, 0.21), False), ((-0.1, 0.3), None), ((-0.2, 0.2), True)],
)
def test_the_slope_of_true_labels_has_the_error_of_its_seeds(slopes, holds):
  rows = rows_of()
  metric = {"metric": "law_squared_norm_unbiased", "drawn": "own"}
  for row in rows.where(**metric, labels="centered"):
    row["value"] = 9 * (row["num_examples"] / 128) ** (2 * slopes[row["seed"]])
  found = find_gradients(rows)[1]
  assert found.holds is holds
  error = abs(slopes[1] - slopes[0]) / 2  # Of the mean of two.
  assert f" ± {error:.3f} at n = " in found.sentence
  said = "cannot be known within two errors"
  assert (said in found.sentence) == (holds is None)


def test_an_unknown_error_is_not_zero():
  """A fit through two sizes of one draw has none."""
  rows = rows_of()
  fits = rows.where("law_slope", layer=None)
  for row in fits.where(drawn="own", labels="centered"):
    row["stderr"] = None
  for row in fits.where(drawn="independent", seed=0):
    row["stderr"] = None
  first, second, *_ = (each.sentence for each in find_gradients(rows))
  assert "to the power -0.500 (centred" in first
  assert "and -0.500 raw" in first
  assert "it is 0.000 centred" in second
  assert "and 0.000 ± 0.007 raw" in second


@pytest.mark.parametrize(
  ("sizes", "said"),
  [
    ((64,), "has no slope, which takes two sizes n (there is none);"),
    ((64, 128), "has no slope, which takes two sizes n (there is 128);"),
    (SIZES, "goes with n to the power 0.200 at n = 128, 256;"),
  ],
)
def test_where_few_sizes_are_known_it_is_said(sizes, said):
  rows = rows_of(unpermuted_slope=0.2)
  unbiased = rows.where("law_squared_norm_unbiased")
  kept = [row for row in rows if row not in unbiased]
  kept += [r for r in unbiased if 64 < r["num_examples"] <= max(sizes)]
  found = find_gradients(runs.Rows(kept))[1]
  assert found.holds is (False if sizes == SIZES else None)
  assert said in found.sentence


def test_without_noise_nothing_may_be_left():
  rows = rows_of()
  metric = "law_squared_norm_unbiased"
  for row in rows.where(metric, num_examples=128):
    row["value"] = -row["value"]
  found = find_gradients(rows)[1]
  assert found.holds is None
  assert (
    "is nothing, or unknown, at one or more of n = 64, 128, 256;"
    in found.sentence
  )


def test_the_figures_show_the_rows():
  rows = rows_of()
  parts = shown(plots.plot_gradient_parts(rows))
  assert parts >= {4.0, 5.0, 0.4, 0.5, 4.2, 0.6, 4.5, 4.4}
  comparison = shown(plots.plot_gradient_comparison(rows))
  assert comparison >= {0.1, 1.0, 0.05, 0.5, 0.3, 0.2, 0.9}
  figure = plots.plot_gradient_comparison(rows)
  colors = {
    line.get_label(): line.get_color()
    for ax in figure.axes
    for line in ax.get_lines()
  }
  assert colors["label part"] == colors["label part, as measured"]
  subsets = {plots.style.COLORS[s] for s in ("unpermuted", "permuted")}
  assert colors["unpermuted"] in subsets
  assert colors["label part"] not in subsets
  axes = plots.plot_gradient_parts(rows).axes
  half = len(axes) // 2
  for row_of_axes in (axes[:half], axes[half:]):
    assert len({ax.get_ylim() for ax in row_of_axes}) == 1
  figure = plots.plot_gradient_law(rows)
  (guide,) = (
    line
    for line in figure.axes[0].get_lines()
    if "-1/2" in str(line.get_label())
  )
  slopes = np.diff(np.log(guide.get_ydata())) / np.diff(np.log(SIZES))
  assert slopes == pytest.approx(-0.5)
  expected = {float(f"{3 * n**-0.5:.4g}") for n in SIZES}
  assert shown(figure) >= expected | {3.0, -0.5, 0.0}
  # Markers are what was measured, lines the fits.
  for is_marker in (True, False):
    heights = {
      float(f"{height:.4g}")
      for line in figure.axes[0].get_lines()
      if (line.get_linestyle() == "None") == is_marker
      for height in line.get_ydata()
    }
    assert heights >= expected | {3.0}


@pytest.mark.parametrize("nan", [math.nan, None])
def test_a_mean_over_seeds_of_which_one_is_unknown_is_unknown(nan):
  rows = rows_of()
  law = {"drawn": "independent", "labels": "centered"}
  unknown = [
    *rows.where("ratio", seed=1, epoch=5),
    *rows.where("norm", seed=1, epoch=5, subset="permuted"),
    *rows.where("law_slope", seed=1, **law),
    *rows.where("law_norm", seed=1, num_examples=SIZES[-1], **law),
  ]
  for row in unknown:
    row["value"] = nan
  ratio, *_ = plots.plot_gradient_comparison(rows).axes[0].get_lines()
  assert np.isnan(ratio.get_ydata()).tolist() == [False, False, True]
  parts = plots.plot_gradient_parts(rows).axes[0].get_lines()
  permuted = next(x for x in parts if x.get_label() == "permuted, label")
  assert np.isnan(permuted.get_ydata()).tolist() == [False, False, True]
  norms, slopes = plots.plot_gradient_law(rows).axes
  assert sorted(text.get_text() for text in norms.texts) == [
    "0.000",
    "\N{MINUS SIGN}0.500",
  ]
  assert any(np.isnan(line.get_ydata()).any() for line in slopes.get_lines())
  measured = next(
    x for x in norms.get_lines() if x.get_color() == plots.style.CYCLE[2]
  )
  assert np.isnan(measured.get_ydata()).tolist() == [False, False, True]
  numbers, _ = comparison._gradients(rows, False)
  for key in ("G1", "G4 last"):
    assert np.isnan(numbers[key]).tolist() == [False, True]


def test_projections_of_groups_of_layers_are_weighted_by_their_totals():
  """Two layers in a group: Σ projection · total / ‖totals‖."""
  rows = rows_of()
  group = plots.gradients._group_rows(
    rows, "projection", ["fc1", "logits"], "evaluation", "permuted", "label"
  )
  values = group.where(epoch=5, seed=0).values
  assert values == pytest.approx(2 * 4.2 * 0.99 * 2 / np.hypot(2, 2))


def test_a_group_that_lacks_a_layer_has_no_value():
  rows = rows_of()
  missing = {"metric": "norm", "part": "label", "layer": "fc1", "epoch": 5}
  rows = runs.Rows(r for r in rows if not missing.items() <= r.items())
  group = plots.gradients._group_rows(
    rows, "norm", ["fc1", "logits"], "evaluation", "permuted", "label"
  )
  assert np.isnan(group.where(epoch=5).values).all()
  assert not np.isnan(group.where(epoch=1).values).any()
