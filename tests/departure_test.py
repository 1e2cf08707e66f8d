"""Where permuted capacity departs from chance: by hand, unknown, drawn."""

import numpy as np
import pytest

from geomem import plots, runs
from geomem.plots.noise import NO_DEPARTURE
from geomem.studies import noise
from tests.fakes import curve


def test_the_departure_from_chance_is_the_first_layer_that_stays_above():
  chance = 0.1
  for capacity, layer in (
    ([0.1, 0.1, 0.2], 2),
    ([0.2, 0.1, 0.2], 2),
    ([0.2, 0.2, 0.2], 0),
    ([0.1, 0.2, 0.1], None),
    ([0.12, 0.12, 0.13], 2),
    ([0.12, 0.13, 0.12], None),
    ([np.nan, 0.1, 0.2], 2),
    ([0.1, np.nan, 0.1], None),
  ):
    assert noise.departure_layer(np.array(capacity), chance) == layer
  for capacity in ([0.1, 0.1, np.nan], [0.1, np.nan, 0.2], [np.nan, 0.2]):
    unknown = noise.departure_layer(np.array(capacity), chance)
    assert unknown is not None
    assert np.isnan(unknown)


@pytest.mark.parametrize("hidden", [1, 2, 3, 5])
def test_a_departure_at_the_last_layer_and_none_have_fixed_depths(hidden):
  below = [0.1] * (hidden - 1)
  rows = noise_rows({0.5: [*below, 0.3], 0.9: [*below, 0.1]})
  found = noise.summarize_noise(rows)[0]
  assert [row["value"] for row in found] == [1, NO_DEPARTURE]
  left = plots.plot_departure(runs.Rows(rows + found)).axes[0]
  (bars,) = left.containers
  assert list(bars.lines[0].get_ydata()) == [1, NO_DEPARTURE]
  (zone,) = left.patches
  low, high = zone.get_y(), zone.get_y() + zone.get_height()
  assert 1 < low < NO_DEPARTURE < high <= left.get_ylim()[1]


def test_where_one_seed_departs_and_one_does_not_there_is_no_mean():
  """The middle of the last layer and of none is not a layer."""
  departing, none = [0.1, 0.1, 0.3], [0.1, 0.1, 0.1]
  rows = noise_rows({0.5: departing, 0.9: departing})
  other = noise_rows({0.5: departing, 0.9: none})
  rows += runs.Rows(row | {"seed": 1} for row in other)
  rows += noise.summarize_noise(rows)[0]
  left = plots.plot_departure(rows).axes[0]
  (bars,) = left.containers
  first, mixed = bars.lines[0].get_ydata()
  assert first == 1
  assert np.isnan(mixed)
  seeds = [line.get_ydata() for line in left.get_lines() if line.get_alpha()]
  assert [list(depth) for depth in seeds] == [[1, 1], [1, NO_DEPARTURE]]


@pytest.mark.parametrize("doubt", ["unknown", "unsolved"])
def test_what_a_layer_in_doubt_decides_is_unknown(doubt):
  rows = noise_rows({0.5: [0.1, 0.1, 0.3], 0.9: [0.1, 0.3, 0.3]})
  for row in rows.where("capacity", layer="fc3"):
    converged = {"metric": "converged", "value": 0.9}
    rows.append(row | converged)
    if doubt == "unknown":
      row["value"] = np.nan
  further, sentences = noise.summarize_noise(rows)
  assert np.isnan([row["value"] for row in further]).all()
  assert {row["layer"] for row in further} == {None}
  first, doubts, *_ = sentences
  assert (
    "departs from chance at an unknown layer (where unknown, it depends"
    in first
  )
  assert doubts.startswith("permuted_fraction 0.5: Not to be believed: 1 of 5")
  assert "fc3 of permuted examples at epoch 3" in doubts
  left, right = plots.plot_departure(runs.Rows(rows + further)).axes
  for found in (curve(left, "permuted"), curve(right, "permuted")):
    np.testing.assert_array_equal(found[0], [0.5, 0.9])
  assert np.isnan(curve(left, "permuted")[1]).all()
  last = [0.3, 0.3] if doubt == "unsolved" else [np.nan, np.nan]
  np.testing.assert_array_equal(curve(right, "permuted")[1], last)


@pytest.mark.parametrize(
  ("capacity", "narrow", "layer"),
  [
    ([0.1, 0.3, 0.3], "fc3", None),  # Its .3 may be chance.
    ([0.1, 0.3, 0.3], "fc1", "fc2"),  # Chance it is, all the more.
    ([0.3, 0.1, 0.3], "fc1", "fc3"),  # The layer after it decides.
  ],
)
def test_below_2m_features_a_departure_is_unknown(capacity, narrow, layer):
  rows = noise_rows({0.5: capacity})
  at = rows[0] | {"value": 20, "metric": "manifold_points"}
  rows.append(at)
  for index in (1, 2, 3):
    name, size = f"fc{index}", 39 if f"fc{index}" == narrow else 40
    of_layer = {"layer": name, "layer_index": index, "value": size}
    rows.append(at | of_layer | {"metric": "num_features"})
  (found,), (sentence,) = noise.summarize_noise(rows)
  assert found["layer"] == layer
  assert np.isnan(found["value"]) == (layer is None)
  assert ("has fewer than 2M features" in sentence) == (layer is None)


def noise_rows(capacities, chance=0.1):
  """One seed of a sweep over fractions: permuted capacity by layer."""
  rows = runs.Rows()
  for fraction, by_layer in capacities.items():
    facts = {"last_epoch": 3, "best_epoch": 1, "chance_capacity": chance}
    at = {"permuted_fraction": fraction, "seed": 0}
    rows += [at | {"metric": m, "value": v} for m, v in facts.items()]
    names = [
      "input",
      *(f"fc{i}" for i in range(1, len(by_layer) + 1)),
      "logits",
    ]
    for index, layer in enumerate(names):
      hidden = 1 <= index <= len(by_layer)
      value = by_layer[index - 1] if hidden else 1.0
      for metric in ("capacity", "radius", "dimension"):
        place = {"epoch": 3, "layer": layer, "layer_index": index}
        found = {"subset": "permuted", "metric": metric, "value": value}
        rows.append(at | place | found)
  empty = dict.fromkeys((*runs.COLUMNS, "permuted_fraction"))
  # Sweeps write their own columns behind those of all runs.
  return runs.Rows(empty | row for row in rows)


def test_the_departure_is_told_by_cell():
  rows = noise_rows({0.5: [0.1, 0.1, 0.3], 0.9: [0.1, 0.1, 0.11]})
  further, sentences = noise.summarize_noise(rows)
  found = {row["permuted_fraction"]: row for row in further}
  assert (found[0.5]["layer"], found[0.5]["value"]) == ("fc3", 1.0)
  assert (found[0.9]["layer"], found[0.9]["value"]) == (None, NO_DEPARTURE)
  assert "permuted capacity 0.300" in sentences[0]
  assert sentences[0].endswith("departs from chance at fc3.")
  assert sentences[1].endswith("departs from chance at no layer.")
  # A margin lowers chance, and what departs from it.
  _, (sentence, _) = noise.summarize_noise(
    noise_rows({0.5: [0.1, 0.1, 0.3], 0.9: [1.0]}, chance=0.05)
  )
  assert sentence.endswith("departs from chance at fc1.")


@pytest.mark.parametrize(
  ("measured", "departs"),
  [
    (("fc1", "fc2", "fc3", "logits"), "fc3."),
    (("input", "fc3", "logits"), "an unknown layer"),  # Perhaps at fc1.
    (("fc2", "fc3"), "an unknown layer"),  # Perhaps there are more.
    (("input",), "an unknown layer"),
  ],
)
def test_layers_that_were_not_measured_are_unknown(measured, departs):
  rows = noise_rows({0.5: [0.1, 0.1, 0.3]})
  rows = runs.Rows(row for row in rows if row["layer"] in (None, *measured))
  _, (sentence, *_) = noise.summarize_noise(rows)
  assert f"; permuted capacity departs from chance at {departs}" in sentence
  deepest = [layer for layer in measured if layer != "logits"][-1]
  named = f"the last hidden layer measured ({deepest})"
  assert f"in {'the input' if deepest == 'input' else named} at" in sentence


@pytest.mark.parametrize("kind", ["capacity", "converged"])
def test_a_seed_of_which_nothing_is_known_has_an_unknown_departure(kind):
  rows = noise_rows({0.5: [0.1, 0.1, 0.3]})
  other = noise_rows({0.5: [0.1, 0.1, 0.3]}).known()
  for row in other:
    row["seed"] = 1
  if kind == "capacity":  # Its last epoch was not measured.
    other = [row for row in other if row["layer"] is None]
  else:  # NaN is null on disk.
    of_layer = other.where("capacity", layer="fc3")
    other += [r | {"metric": "converged", "value": None} for r in of_layer]
  rows = runs.Rows([*rows, *other])
  further, (sentence, *_) = noise.summarize_noise(rows)
  known, unknown = (row["value"] for row in further)
  assert known == 1.0
  assert np.isnan(unknown)
  assert (
    "departs from chance at fc3, an unknown layer (where unknown" in sentence
  )
  if kind == "capacity":
    assert "capacity unknown, radius unknown, dimension unknown in" in sentence
    last = plots.plot_last_layer(rows).axes[0].containers
    assert all(np.isnan(bars.lines[0].get_ydata()).all() for bars in last)
