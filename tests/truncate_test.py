"""Truncation: nothing left out changes nothing, by hand, and by its name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import runs, studies
from geomem.studies.truncate import Truncate, TruncateConfig
from tests.binaries import execute

SMALL = {
  "model": "mlp",
  "width": 6,
  "epochs": 3,
  "num_classes": 3,
  "examples_per_class": 40,
  "batch_size": 20,
  "manifold_points": 5,
  "num_probes": 10,
  "layers": "last",
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
  found = _Truncated(experiment, state, "fc2").logits(experiment.test.images, 2)
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


def test_more_components_than_there_are_are_left_out(trained, tmp_path):
  config = TruncateConfig(dimensions=(2, 500), layers="fc1")
  rows = studies.run(Truncate(config, trained), tmp_path)
  assert rows.distinct("kept") == [2]


def rows_of(recovered):
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
  return runs.Rows(empty | {"seed": 0} | row for row in rows)


def test_the_finding_follows_the_rows():
  (found,) = Truncate.findings({}, rows_of([{1: 0.2, 2: 0.5}, {1: 0.85, 2: 0}]))
  assert found.holds
  assert "at most 85% come back, by keeping 1 components of fc1" in str(found)
  assert "permuted accuracy 0.100" in str(found)
  (found,) = Truncate.findings({}, rows_of([{1: 0.2, 2: 0.5}, {1: 0.75}]))
  assert not found.holds


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
  with pytest.raises(ValueError, match="positive numbers were expected"):
    TruncateConfig(dimensions=(0,))


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
