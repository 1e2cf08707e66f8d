"""Truncation: nothing left out changes nothing, by hand, and by its name."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import models, runs, studies
from geomem.studies.truncate import Truncate, TruncateConfig
from tests.binaries import execute
from tests.fakes import SMALL_RUN

SMALL = SMALL_RUN | {
  "model": "mlp",
  "width": 6,
  "num_seeds": 1,
  "layers": "last",
  "measure_epochs": "last",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp("trained")
  config = studies.make_config(**SMALL)
  studies.run(studies.Memorization(config), path)
  return studies.TrainedRun(path)


def test_all_components_are_the_whole_network(trained):
  config = TruncateConfig(dimensions=(6,), layers="fc1,fc3")
  rows = studies.run(Truncate(config, trained))
  figure = Truncate.figures["truncation"](rows)
  both = trained.experiment.train.labels, trained.experiment.test.labels
  share = max(np.bincount(labels).max() / len(labels) for labels in both)
  for ax in figure.axes:
    assert f"chance accuracy {share:.3g}" in {
      line.get_label() for line in ax.get_lines()
    }
  whole = trained.rows.at("last").where("accuracy", layer=None)
  for subset in whole.subsets:
    truncated = rows.where("accuracy", subset=subset, kept=6)
    np.testing.assert_array_equal(
      truncated.values, whole.where(subset=subset).values[0]
    )


def test_logits_are_those_of_the_projected_layer(trained):
  """By hand: principal components of fc2 by scikit-learn, the rest dense."""
  from sklearn.decomposition import PCA

  from geomem.studies.truncate import _Truncated

  experiment = trained.experiment
  state = trained.state(0, trained.last(0))
  truncated = _Truncated(experiment, state, "fc2")
  one, found = truncated.logits(experiment.test.images, (1, 2))
  assert np.abs(np.asarray(one - found)).max() > 0.01
  network = experiment.network

  def layer(images):
    x = (np.asarray(images) - experiment.mean) / experiment.std
    x = jnp.asarray(x, jnp.float32)
    return np.asarray(network.apply(state, x).activations["fc2"])

  pca = PCA(2).fit(layer(experiment.train.images))
  kept = pca.inverse_transform(pca.transform(layer(experiment.test.images)))
  fc3, last = (state[name]["dense"] for name in ("fc3", "logits"))
  fc3, last = (jax.tree.map(np.asarray, layer) for layer in (fc3, last))
  hidden = np.maximum(kept @ fc3["kernel"] + fc3["bias"], 0)
  expected = hidden @ last["kernel"] + last["bias"]
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_components_of_half_precision_are_computed_in_single(trained):
  """NumPy's mean of bfloat16 numbers is far off."""
  from geomem.studies.truncate import _Truncated

  experiment, state = trained.experiment, trained.state(0, 0)
  exact = _Truncated(experiment, state, "fc2")
  network = models.build(
    "mlp",
    num_classes=experiment.num_classes,
    image_shape=experiment.network.image_shape,
    width=SMALL["width"],
    dtype=jnp.bfloat16,
  )
  rounded = _Truncated(experiment._replace(network=network), state, "fc2")
  assert rounded._center.dtype == rounded._components.dtype == np.float32
  size = np.abs(exact._center).max()
  np.testing.assert_allclose(rounded._center, exact._center, atol=0.01 * size)


def test_more_components_than_there_are_are_left_out(trained, tmp_path):
  config = TruncateConfig(dimensions=(2, 500), layers="fc1")
  rows = studies.run(Truncate(config, trained), tmp_path)
  assert rows.distinct("kept") == [2]


def test_nothing_to_look_for_is_said():
  """Whatever is kept: no accuracy was lost, or there are fewer components."""
  rows = runs.Rows(r for r in rows_of([{1: 0.2}]) if r["metric"] != "recovered")
  (found,) = Truncate.findings({}, rows)
  assert (found.holds, found.sentence) == (None, "no test accuracy was lost")
  rows = runs.Rows(row for row in rows if row.get("kept") is None)
  (found,) = Truncate.findings({}, rows)
  assert found.holds is None
  assert found.sentence.startswith("no layer has more components than were")


def rows_of(recovered, seed=0, error=0.05):
  facts = {"best_epoch": 1, "last_epoch": 3}
  rows = [{"metric": k, "value": v, "subset": None} for k, v in facts.items()]
  for layer, values in enumerate(recovered):
    for kept, value in values.items():
      place = {"epoch": 3, "layer": f"fc{layer}", "layer_index": layer}
      place |= {"kept": kept}
      scores = {"recovered": value, "accuracy": 0.5 + value / 10}
      rows += [
        place | {"subset": "test", "metric": m, "value": v}
        for m, v in scores.items()
      ]
      permuted = {"subset": "permuted", "metric": "accuracy"}
      rows.append(place | permuted | {"value": kept / 10})
  empty = dict.fromkeys((*runs.COLUMNS, "kept"))
  return runs.Rows(
    empty | {"seed": seed, "stderr": error} | row for row in rows
  )


def test_the_finding_follows_the_rows():
  (found,) = Truncate.findings({}, rows_of([{1: 0.2, 2: 0.5}, {1: 0.95, 2: 0}]))
  assert found.holds
  assert "at most 95% comes back, by keeping 1 component of fc1" in str(found)
  assert "permuted accuracy 0.100" in str(found)
  (found,) = Truncate.findings({}, rows_of([{1: 0.2, 2: 0.5}, {1: 0.65}]))
  assert found.holds is False
  for share in (0.75, 0.85):  # 80% was expected, and the error is 5%.
    (found,) = Truncate.findings({}, rows_of([{1: 0.2}, {1: share}]))
    assert found.holds is None
    assert str(found).endswith("cannot be known within two errors.")


@pytest.mark.parametrize(
  ("error", "said"),
  [
    # One of 355 test examples was lost: ± 100 % sqrt(355 · .15 · .85).
    ((0.85 * 0.15 * 355) ** 0.5, "test examples alone leave ± 673%"),
    (0.26, "test examples alone leave ± 26%"),
    (None, "the error of the recovered shares is unknown"),
  ],
)
def test_shares_of_too_little_cannot_be_told(error, said):
  (found,) = Truncate.findings({}, rows_of([{4: -1.0, 8: 1.0}], error=error))
  assert found.holds is None
  assert said in found.sentence


def test_only_numbers_that_all_seeds_have_are_compared():
  """Of seed 1, fc0 has rank 2; seed 2 has lost nothing, and does not count."""
  full, low = rows_of([{1: 0.2, 2: 0.4, 4: 0.9}]), rows_of([{1: 0, 2: 0.6}], 1)
  third = [r for r in rows_of([{1: 0, 2: 0}], 2) if r["metric"] != "recovered"]
  rows = runs.Rows(full + low + third)
  (found,) = Truncate.findings({}, rows)
  assert found.holds is False
  assert "at most 50% comes back, by keeping 2 components" in found.sentence
  assert found.sentence.endswith("as no test accuracy is lost: seed 2)")
  assert "(test accuracy 0.550, permuted accuracy 0.200)" in found.sentence
  test = Truncate.figures["truncation"](rows).axes[0].get_lines()[0]
  assert list(test.get_xdata()) == [1, 2]
  assert "4" not in Truncate.table(rows).splitlines()[0]


def test_with_unknown_shares_nothing_is_told():
  for shares in ({1: float("nan"), 2: 0.4}, {1: float("nan")}):
    (found,) = Truncate.findings({}, rows_of([shares]))
    assert found.holds is None
    assert found.sentence == "recovered shares are unknown"


def test_shares_have_the_error_of_the_accuracy(trained, tmp_path):
  """The best network had .9 and the last .6: shares are of .3."""
  lost = copy.copy(trained)
  best, last = 1, trained.last(0)
  lost._best = {0: best}
  test_accuracy = {best: 0.9, last: 0.6}
  lost.rows = runs.Rows(
    row | {"value": test_accuracy.get(row["epoch"], row["value"])}
    if (row["metric"], row["subset"]) == ("accuracy", "test")
    else row
    for row in trained.rows
  )
  config = TruncateConfig(dimensions=(1,), layers="fc1")
  rows = studies.run(Truncate(config, lost), tmp_path)
  (share,) = rows.where("recovered")
  (accuracy,) = rows.where("accuracy", subset="test", kept=1)
  assert share["value"] == pytest.approx((accuracy["value"] - 0.6) / 0.3)
  assert share["stderr"] == pytest.approx(accuracy["stderr"] / 0.3)
  assert share["stderr"] > 0


def test_the_figure_shows_the_rows():
  rows = rows_of([{1: 0.2, 2: 0.5}, {1: 0.85, 2: 0}])
  figure = Truncate.figures["truncation"](rows)
  test, permuted = figure.axes[:2]
  drawn = {line.get_label(): line.get_ydata() for line in test.get_lines()}
  np.testing.assert_allclose(drawn["fc0"], [0.52, 0.55])
  np.testing.assert_allclose(drawn["fc1"], [0.585, 0.5])
  np.testing.assert_allclose(permuted.get_lines()[0].get_ydata(), [0.1, 0.2])


def test_bad_input_is_a_sentence(trained):
  with pytest.raises(ValueError, match="layer 'fc9' is not known"):
    Truncate(TruncateConfig(layers="fc9"), trained)
  with pytest.raises(ValueError, match="the logits alone"):
    Truncate(TruncateConfig(layers="logits"), trained)
  with pytest.raises(ValueError, match="positive numbers were expected"):
    TruncateConfig(dimensions=(0,))
  with pytest.raises(ValueError, match="names a number twice"):
    TruncateConfig(dimensions=(4, 2, 4))


@pytest.mark.slow
def test_it_runs_by_its_name(trained):
  flags = {"run": trained.path, "dimensions": "1,2", "layers": "last"}
  out = trained.path / "by_name"
  first = execute("__main__", "truncate", out=out, **flags)
  assert first.returncode == 0, first.stderr
  assert "test accuracy          1       2\n" in first.stdout
  assert (out / "figures" / "truncation.png").stat().st_size
  again = execute("__main__", "truncate", out=out, **flags)
  assert "nothing to do" in again.stdout


@pytest.mark.parametrize(
  ("config", "holds"),
  [
    ({"layers": None, "dimensions": list(TruncateConfig.dimensions)}, False),
    ({"layers": None, "dimensions": [*TruncateConfig.dimensions, 3]}, False),
    ({"layers": "fc1", "dimensions": list(TruncateConfig.dimensions)}, None),
    ({"layers": None, "dimensions": [1]}, None),
  ],
)
def test_a_choice_of_layers_or_numbers_cannot_show_that_none_does(
  config, holds
):
  (found,) = Truncate.findings(config, rows_of([{1: 0.2}, {1: 0.3}]))
  assert found.holds is holds
  assert ("were not tried" in found.sentence) == (holds is None)
  (found,) = Truncate.findings(config, rows_of([{1: 0.95}, {1: 0.96}]))
  assert found.holds is True
