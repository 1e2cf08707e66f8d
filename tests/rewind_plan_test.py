"""Which rewinds there are, and what is said of them."""

import itertools

import pytest

from geomem import models, runs, studies
from geomem.studies import hybrids
from geomem.studies.rewind import make_rewinds
from geomem.studies.rewind_findings import best_rewinds, find_rewinds

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
  assert chosen.columns == {"kind": "custom", "rewound": "stem+logits"}


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
    ({"layers": ("stem", "fc")}, r"'fc' is no layer .* there are stem,"),
    ({"layers": ("pool",)}, r"'pool' is no layer .* with something"),
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
      rows.append(columns | found | {"metric": "recovered", "value": value})
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
  assert "the last 2 layers (from c on) of 4 recover 50% ± 7%" in last.sentence
  assert "80% takes the last 3 layers (from b on): 90% ± 7%" in last.sentence
  assert outside.holds
  assert "is b at epoch 1 (permuted accuracy 1.000 to 0.400" in outside.sentence
  assert "In the last third (c, d) it is d at epoch 1" in outside.sentence
  single["d"] = (0.1, 1.0)
  rows = made_rows([0.1, 0.85, 0.9, 1], single)
  last, outside = find_rewinds(rows)
  assert last.holds
  assert not outside.holds
  assert "is d at epoch 1" in outside.sentence
  assert best_rewinds(rows)[0].startswith(
    "Best suffix rewind: the last 3 layers (from b on), to epoch 1; 90% ± 7%"
  )


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
  (found,) = find_rewinds(prefix_rows([0.1, 0.85, 0.9, 1]))
  assert not found.holds
  # Nor do layers that never restore.
  (found,) = find_rewinds(prefix_rows([0.1, 0.2, 0.3, 0.4]))
  assert found.holds
  assert "no number of layers gives 80%" in found.sentence


@pytest.mark.parametrize(("error", "told"), [(0.3, True), (0.5, False)])
def test_shares_of_next_to_nothing_tell_nothing(error, told):
  """Of two seeds the mean has an error of .21, of .35: .25 is the limit."""
  for rows in (made_rows([0.1, 0.9, 0.9, 1], {}), prefix_rows([0.9] * 4)):
    for row in rows:
      if row["metric"] == "recovered":
        row["stderr"] = error
    assert rows.seeds == [0, 1]
    (found,) = find_rewinds(rows)
    assert (found.holds is not None) == told
    assert told or "the test examples alone leave ± 35%" in str(found)
    assert bool(best_rewinds(rows)) == told
