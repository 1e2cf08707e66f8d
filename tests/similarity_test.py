"""CKA, the probe and the readout: against formulas, scikit-learn, by hand."""

import copy
import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from geomem import geometry, runs, studies
from geomem.measures import probe
from geomem.studies import similarity as similarity_study
from geomem.studies.experiment import manifold_images
from geomem.studies.readout import Readout, ReadoutConfig
from geomem.studies.similarity import Similarity, SimilarityConfig
from tests.fakes import compute

SMALL = {
  "model": "mlp1",
  "width": 6,
  "epochs": 2,
  "num_classes": 3,
  "examples_per_class": 60,
  "batch_size": 20,
  "manifold_points": 7,
  # The cheapest: the studies measure again.
  "measures": "spectrum",
  "layers": "last",
}


def points_of(seed, shape=(3, 5, 8)):
  return np.random.default_rng(seed).normal(size=shape).astype("f4")


def flat(points):
  return points.reshape(-1, points.shape[-1]).astype(float)


def cka_by_features(X, Y):
  """‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred features."""
  X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
  norm = np.linalg.norm
  return norm(Y.T @ X) ** 2 / (norm(X.T @ X) * norm(Y.T @ Y))


def unbiased_hsic(X, Y):
  """Song et al., equation 5, as it is written."""
  K, L = X @ X.T, Y @ Y.T
  np.fill_diagonal(K, 0)
  np.fill_diagonal(L, 0)
  n = len(K)
  total = np.trace(K @ L) + K.sum() * L.sum() / ((n - 1) * (n - 2))
  return (total - 2 / (n - 2) * (K @ L).sum()) / (n * (n - 3))


def unbiased_cka(A, B):
  own = unbiased_hsic(A, A) * unbiased_hsic(B, B)
  return unbiased_hsic(A, B) / np.sqrt(own)


def test_cka_is_that_of_the_features():
  a, b = points_of(0), points_of(1, (3, 5, 4)) + 3
  b[..., 0] += 2 * a[..., 0]
  products = [geometry.point_products(x) for x in (a, b)]
  expected = cka_by_features(flat(a), flat(b))
  assert geometry.linear_cka(*products) == pytest.approx(expected, rel=1e-5)
  expected = unbiased_cka(flat(a), flat(b))
  found = geometry.linear_cka(*products, unbiased=True)
  assert found == pytest.approx(expected, rel=1e-4)


def test_cka_of_rotated_scaled_points_is_one_and_of_strangers_zero():
  a = points_of(0, (4, 20, 30))
  Q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 30)))
  turned = (7e4 * a @ Q + 5).astype("f4")
  strangers = points_of(2, (4, 20, 300))
  of = [geometry.point_products(x) for x in (a, turned, strangers)]
  assert geometry.linear_cka(of[0], of[1]) == pytest.approx(1, abs=1e-3)
  # Eighty points in 300 features: most of the biased value is the diagonals'.
  assert geometry.linear_cka(of[0], of[2]) > 0.3
  assert abs(geometry.linear_cka(of[0], of[2], unbiased=True)) < 0.05
  with pytest.raises(ValueError, match="same points"):
    geometry.linear_cka(of[0], geometry.point_products(a[:3]))


@jax.jit
@jax.grad
def alignment_slope(points):
  return geometry.label_alignment(geometry.point_products(points))


@pytest.mark.parametrize(
  ("scale", "wide"),
  [(1e9, False), (1e-10, False), (1e-11, False), (1e90, True), (1e-90, True)],
)
def test_the_unit_changes_no_similarity(scale, wide):
  with jax.enable_x64(wide):
    a, b = points_of(0).astype(float), points_of(1, (3, 5, 4))
    products = [geometry.point_products(x) for x in (a * scale, b)]
    expected = cka_by_features(flat(a), flat(b))
    assert geometry.linear_cka(*products) == pytest.approx(expected, rel=1e-5)
    expected = unbiased_cka(flat(a), flat(b))
    found = geometry.linear_cka(*products, unbiased=True)
    assert found == pytest.approx(expected, rel=1e-4)
    labels = np.eye(3)[np.repeat(np.arange(3), 5)]
    expected = cka_by_features(flat(a), labels)
    found = geometry.label_alignment(products[0])
    assert found == pytest.approx(expected, rel=1e-5)
    slopes = [alignment_slope(jnp.array(x)) for x in (a, a * scale)]
    np.testing.assert_allclose(scale * slopes[1], slopes[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint32])
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_integers_on_the_device_keep_their_digits(dtype, wrap):
  """They became float32 before their offset was subtracted."""
  small = np.random.default_rng(0).integers(0, 100, (3, 5, 4))
  mask = np.arange(5)[None] < np.array([[3], [5], [4]])
  large = jnp.asarray(np.where(mask[..., None], small, 7) + 2**30, dtype)
  found = wrap(lambda x: geometry.point_products(x, mask=mask))(large)
  shown = np.where(mask[..., None], small - small[mask].mean(axis=0), 0)
  np.testing.assert_allclose(
    found.gram, flat(shown) @ flat(shown).T, rtol=1e-5, atol=1e-3
  )
  expected = ((small[mask].mean(axis=0) + 2.0**30) ** 2).sum()
  assert found.square == pytest.approx(expected, rel=1e-6)


def test_stacked_products_are_compared_one_by_one():
  sets = [[points_of(i), points_of(i + 3, (3, 5, 4))] for i in range(3)]
  stacks = [
    jax.tree.map(lambda *x: jnp.stack(x), *map(geometry.point_products, of))
    for of in zip(*sets, strict=True)
  ]
  expected = [cka_by_features(flat(a), flat(b)) for a, b in sets]
  np.testing.assert_allclose(geometry.linear_cka(*stacks), expected, rtol=1e-5)
  labels = np.eye(3)[np.repeat(np.arange(3), 5)]
  expected = [cka_by_features(flat(a), labels) for a, _ in sets]
  np.testing.assert_allclose(
    geometry.label_alignment(stacks[0]), expected, rtol=1e-5
  )


def test_points_are_not_their_products():
  # Unwrapped, as the tests' own checks of types come first.
  a = points_of(0)
  for function, given in (
    (geometry.linear_cka, (a, a)),
    (geometry.label_alignment, (geometry.gram_statistics(a),)),
  ):
    with pytest.raises(ValueError, match=r"give geometry\.point_products"):
      inspect.unwrap(function)(*given)


def test_missing_points_change_nothing():
  mask = np.ones((3, 5), bool)
  mask[1, 3:] = False
  a, b = points_of(0), points_of(1)
  there = [flat(x)[mask.reshape(-1)] for x in (a, b)]
  products = [geometry.point_products(x, mask=mask) for x in (a, b)]
  expected = cka_by_features(*there)
  assert geometry.linear_cka(*products) == pytest.approx(expected, rel=1e-5)
  of_self = (unbiased_hsic(x, x) for x in there)
  expected = unbiased_hsic(*there) / np.sqrt(np.prod([*of_self]))
  found = geometry.linear_cka(*products, unbiased=True)
  assert found == pytest.approx(expected, rel=1e-4)
  labels = np.eye(3)[np.repeat(np.arange(3), 5)][mask.reshape(-1)]
  expected = cka_by_features(there[0], labels)
  found = geometry.label_alignment(products[0])
  assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_not_the_same_points_or_has_no_spread_has_no_similarity():
  a = points_of(0)
  mask = np.ones((3, 5), bool)
  mask[1, 3:] = False
  whole, part = (geometry.point_products(a, mask=m) for m in (None, mask))
  assert np.isnan(geometry.linear_cka(whole, part))
  # All points alike, but for what the mean's rounding leaves.
  constant = np.broadcast_to(points_of(1, (1, 1, 8)), a.shape) * 0.1
  still = geometry.point_products(constant.astype("f4"))
  assert np.isnan(geometry.linear_cka(still, whole))
  assert np.isnan(geometry.label_alignment(still))
  found = compute("probe", still)
  assert np.isnan(found["accuracy"])
  # A small spread far from the origin is one.
  far = geometry.point_products(1e-3 * a + 10)
  assert geometry.linear_cka(far, whole) > 0.99


def test_points_equally_far_from_each_other_leave_only_rounding():
  """The unbiased kernel of a simplex is 0, but for its rounding."""
  points = 0.3 * np.eye(9, dtype=np.float32)[:, None] + np.float32(0.7)
  products = geometry.point_products(points)
  other = geometry.point_products(points_of(1, (9, 1, 5)))
  assert np.isnan(geometry.linear_cka(products, other, unbiased=True))
  assert geometry.linear_cka(products, other) > 0


@pytest.mark.parametrize("block_size", [None, 2])
def test_cka_and_alignment_have_derivatives_at_features_of_zero(block_size):
  """Points at 0, as a whole or in a block of features, had others' alone."""
  points = points_of(0, (3, 4, 6)).astype(float)
  points[0, 1] = 0
  points[1, 2, 2:4] = 0
  other = points_of(1, (3, 4, 5)).astype(float)

  def both(x):
    products = geometry.point_products(x, block_size=block_size)
    of_other = geometry.point_products(other)
    cka = geometry.linear_cka(products, of_other)
    return cka + geometry.label_alignment(products)

  with jax.enable_x64(True):
    slope = np.asarray(jax.grad(both)(jnp.asarray(points)))
    for where in ((0, 1, 3), (1, 2, 2), (2, 0, 0)):
      step = np.zeros_like(points)
      step[where] = 1e-5
      difference = float(both(points + step) - both(points - step)) / 2e-5
      assert slope[where] == pytest.approx(difference, rel=1e-5)


def test_a_simplex_is_its_labels():
  simplex = np.repeat(np.eye(4, dtype="f4")[:, None], 3, axis=1)
  found = geometry.label_alignment(geometry.point_products(simplex))
  assert found == pytest.approx(1, abs=1e-6)


def test_the_probe_is_the_ridge_regression_of_scikit_learn():
  rng = np.random.default_rng(3)
  points = rng.normal(size=(3, 40, 12)) + 0.5 * rng.normal(size=(3, 1, 12)) + 4
  products = geometry.point_products(points.astype("f4"))
  order = jax.random.permutation(jax.random.key(5), 3 * 40, independent=False)
  fitted, new = np.asarray(order[:80]), np.asarray(order[80:])
  X, labels = flat(points), np.repeat(np.arange(3), 40)

  @jax.jit
  def scores(products, fitted, new, strength):
    return probe._fitted(products, fitted, new)(strength)

  for strength in (1e-2, 1.0, 100.0):
    error, accuracy, count = scores(products, fitted, new, strength)
    kernel = X[fitted] - X[fitted].mean(axis=0)
    ridge = strength * (kernel**2).sum() / len(fitted)
    model = Ridge(alpha=ridge).fit(X[fitted], np.eye(3)[labels[fitted]])
    values = model.predict(X[new])
    squares = ((values - np.eye(3)[labels[new]]) ** 2).sum(axis=1).mean()
    assert error == pytest.approx(squares, rel=1e-3)
    hits = (values.argmax(axis=1) == labels[new]).mean()
    assert accuracy == pytest.approx(hits, abs=1e-6)
    assert count == 40


def test_the_probe_takes_the_best_strength_and_refits():
  """Noise in more features than points; scikit-learn on the same split."""
  P, M = 4, 20
  rng = np.random.default_rng(0)
  points = np.float32(rng.normal(size=(P, M, 60)))
  points += np.float32(0.2 * rng.normal(size=(P, 1, 60)))
  found = compute("probe", geometry.point_products(points))
  order = jax.random.permutation(
    jax.random.key(0), np.tile(np.arange(M), (P, 1)), axis=1, independent=True
  )
  places = np.asarray(order) + M * np.arange(P)[:, None]
  fitted, choosing, held_out = (
    part.ravel() for part in np.split(places, [12, 16], axis=1)
  )
  X, labels = flat(points).astype(float), np.repeat(np.arange(P), M)

  def scores(strength, fitted, new):
    centered = X[fitted] - X[fitted].mean(axis=0)
    ridge = strength * (centered**2).sum() / len(fitted)
    model = Ridge(alpha=ridge).fit(X[fitted], np.eye(P)[labels[fitted]])
    values = model.predict(X[new])
    error = ((values - np.eye(P)[labels[new]]) ** 2).sum(axis=1).mean()
    return error, (values.argmax(axis=1) == labels[new]).mean()

  errors = [scores(s, fitted, choosing)[0] for s in probe.STRENGTHS]
  both = np.concatenate([fitted, choosing])
  best, worst = (probe.STRENGTHS[f(errors)] for f in (np.argmin, np.argmax))
  expected = scores(best, both, held_out)[1]
  assert found["accuracy"] == pytest.approx(expected, abs=1e-6)
  # The strength and the second fit matter.
  assert scores(worst, both, held_out)[1] < expected - 0.1
  assert scores(best, fitted, held_out)[1] < expected - 0.1


def test_the_error_of_the_probe_is_that_of_a_mean_over_its_held_out_points():
  found = compute("probe", geometry.point_products(points_of(10)))
  # A fifth of five points, of each of three manifolds.
  hits = round(3 * float(found["accuracy"]))
  assert 0 < hits < 3
  expected = hits / 3, stats.beta(hits + 1, 3 - hits + 1).std()
  np.testing.assert_allclose(
    [found["accuracy"], found["stderr"]], expected, rtol=1e-5
  )


@pytest.mark.parametrize(("size", "is_known"), [(2, False), (3, True)])
def test_the_probe_needs_three_points_of_a_manifold(size, is_known):
  found = compute("probe", geometry.point_products(points_of(10)[:, :size]))
  assert np.isfinite(found["accuracy"]) == is_known


def test_the_probe_is_scored_on_points_that_it_has_not_seen():
  """Labels without meaning: chance, though 200 features fit them all."""
  points = points_of(4, (4, 60, 200))
  products = geometry.point_products(points)
  found = compute("probe", products)
  # Of 48 points, .25 ± .0625.
  assert abs(found["accuracy"] - 0.25) < 3 * 0.0625
  separate = points + 20 * np.eye(4, 200, dtype="f4")[:, None]
  products = geometry.point_products(separate)
  found = compute("probe", products)
  assert found["accuracy"] == 1
  few = geometry.point_products(separate[:, :2])
  found = compute("probe", few)
  assert np.isnan(found["accuracy"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp("trained")
  config = studies.make_config(**SMALL)
  studies.run(studies.Memorization(config), path)
  return studies.TrainedRun(path)


def activations_of(trained, epoch, subset):
  """By name, `[P, M, features]` float64."""
  experiment = trained.experiment
  images = np.asarray(manifold_images(experiment, trained.seeds[0])[subset])
  x = (images.reshape(-1, *images.shape[2:]) - experiment.mean) / experiment.std
  state = trained.state(0, epoch)
  found = experiment.network.apply(state, jnp.asarray(x, jnp.float32))
  shape = images.shape[:2]
  return {
    name: np.asarray(a, float).reshape(*shape, -1)
    for name, a in found.activations.items()
  }


def test_similarity_compares_layers_epochs_and_runs(trained, tmp_path):
  config = SimilarityConfig(other=str(trained.path), unbiased=False)
  study = Similarity(config, trained)
  rows = studies.run(study, tmp_path)
  epochs = trained.epochs(0)
  of = {epoch: activations_of(trained, epoch, "test") for epoch in epochs}
  first, last = epochs[0], epochs[-1]
  kinds = {
    ("layers", last, "input", "logits"): {"other_layer": "logits"},
    ("epochs", first, "fc1", "fc1"): {"other_epoch": last},
    ("runs", last, "fc1", "input"): {"other_layer": "input"},
  }
  for (kind, epoch, layer, other), columns in kinds.items():
    found = rows.where("cka", kind=kind, epoch=epoch, layer=layer, **columns)
    (value,) = found.values
    against = of[columns.get("other_epoch", epoch)][other]
    expected = cka_by_features(flat(of[epoch][layer]), flat(against))
    assert value == pytest.approx(expected, rel=1e-3)
  assert "fc1" in study.table(rows)
  # Both runs' data may have moved.
  moved = studies.TrainedRun(trained.path, data_dir="elsewhere")
  other = Similarity(config, moved).other.experiment
  assert other.config.data.data_dir == "elsewhere"
  # The other run may move, but may not be another one.
  assert study.as_dict()["other_id"] == runs.parent_of(trained.path).id
  changed = study.as_dict() | {"other_id": "another"}
  with pytest.raises(runs.RunError, match="other_id differs"):
    runs.Run(tmp_path, changed, study.origin)
  # No more kernels than there are images for, whatever number is asked for.
  many = SimilarityConfig(num_images=10**6, other=str(trained.path))
  kernels = len(study.layers) * (len(epochs) + 1)
  needed = 4 * kernels * len(flat(of[last]["fc1"])) ** 2
  with mock.patch.object(similarity_study, "most_held_bytes") as room:
    room.return_value = needed
    Similarity(many, trained)
    room.return_value -= 1
    with pytest.raises(ValueError, match="lower --num_images"):
      Similarity(many, trained)
  with pytest.raises(ValueError, match="'all' is not a subset"):
    Similarity(SimilarityConfig(subset="all"), trained)


def test_images_are_of_all_manifolds_and_at_least_four(trained, monkeypatch):
  seed = trained.seeds[0]
  study = Similarity(SimilarityConfig(num_images=5), trained)
  images = manifold_images(trained.experiment, seed)["test"]
  assert len(images) == 3
  expected = np.concatenate([images[:, 0], images[:2, 1]])
  np.testing.assert_array_equal(study._images(seed), expected)
  few = seed._replace(manifolds={"test": seed.manifolds["test"][:, :1]})
  monkeypatch.setattr(trained, "seeds", [few])
  with pytest.raises(ValueError, match="hold 3 images, and CKA needs 4; take"):
    Similarity(SimilarityConfig(), trained)


def test_decisions_on_activations_that_overflow_are_refused(trained, tmp_path):
  state = trained.state

  def overflowing(*arguments):
    found = state(*arguments)
    found["logits"] = jax.tree.map(lambda x: 3e38 * x, found["logits"])
    return found

  study = Readout(ReadoutConfig(layers="fc1"), trained)
  with (
    mock.patch.object(trained, "state", overflowing),
    pytest.raises(ValueError, match="layer logits are not finite"),
  ):
    studies.run(study, tmp_path)


def test_depth_and_collapse_are_those_by_hand(trained, tmp_path):
  rows = studies.run(Readout(ReadoutConfig(), trained), tmp_path)
  last = trained.last(0)
  experiment = trained.experiment
  for subset in ("permuted", "test"):
    found = activations_of(trained, last, subset)
    decided = flat(found["logits"]).argmax(axis=1)
    depth = np.zeros(len(decided))
    labels = np.repeat(np.arange(3), 7)
    for index, name in enumerate(experiment.network.layer_names):
      X = flat(found[name])
      votes = []
      for i in range(len(X)):
        rest = np.arange(len(X)) != i
        model = KNeighborsClassifier(6).fit(X[rest], labels[rest])
        votes.append(model.predict(X[i : i + 1])[0])
      depth[np.asarray(votes) != decided] = index + 1
    here = rows.where(subset=subset, epoch=last)
    (value,) = here.where("prediction_depth").values
    assert value == pytest.approx(depth.mean())

    h, means = found["fc1"], found["fc1"].mean(axis=1)
    distances = ((h[:, :, None] - means) ** 2).sum(axis=-1)
    agreed = distances.argmin(axis=-1).reshape(-1) == decided
    (row,) = here.where("nc4")
    hits, misses = agreed.sum(), (~agreed).sum()
    expected = agreed.mean(), stats.beta(hits + 1, misses + 1).std()
    assert (row["value"], row["stderr"]) == pytest.approx(expected)
    (W,) = (
      np.asarray(leaf, float)
      for leaf in jax.tree.leaves(trained.state(0, last)["logits"])
      if np.ndim(leaf) == 2
    )
    C = means - means.mean(axis=0)
    unit = [x / np.linalg.norm(x) for x in (W.T, C)]
    (value,) = here.where("nc3").values
    assert value == pytest.approx(np.linalg.norm(unit[0] - unit[1]), rel=1e-4)


def test_epochs_ascend_where_seeds_have_others():
  """CKA of epochs a and b is drawn as a + b / 100, whichever seeds have it."""
  epochs = {0: (0, 1, 17), 1: (0, 1, 2, 32)}
  common = {"metric": "cka", "kind": "epochs", "stderr": None, "subset": "test"}
  common |= {"layer": "fc1", "layer_index": 1}
  rows = [
    common | {"seed": seed, "epoch": a, "other_epoch": b, "value": a + b / 100}
    for seed, of_seed in epochs.items()
    for a in of_seed
    for b in of_seed
  ]
  facts = {"best_epoch": 1, "last_epoch": 17}
  rows += [
    dict.fromkeys(runs.COLUMNS) | {"seed": s, "metric": m, "value": v}
    for s in epochs
    for m, v in facts.items()
  ]
  ax = Similarity.figures["similarity"](runs.Rows(rows)).axes[0]
  expected = [0, 1, 2, 17, 32]
  for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
    assert [int(label.get_text()) for label in labels] == expected
  drawn = np.ma.filled(np.ma.asarray(ax.get_images()[0].get_array()), np.nan)
  both = np.add.outer(np.array(expected), np.array(expected) / 100)
  known = np.isfinite(drawn)
  assert known.sum() == 25 - 4  # No seed has 17 and 2, or 17 and 32.
  np.testing.assert_allclose(drawn[known], both[known])


@pytest.mark.parametrize(
  "decided, scale",
  [
    (0, 0.0),
    (2, 1.0),
    pytest.param(0, 1.0, marks=pytest.mark.long),
    pytest.param(2, 0.0, marks=pytest.mark.long),
  ],
)
def test_a_layer_without_spread_decides_nothing(
  trained, tmp_path, decided, scale
):
  """The last hidden layer is constant: depth, NC3 and NC4 are unknown."""
  constant = copy.copy(trained)

  def state(seed, epoch, layers=None):
    state = jax.tree.map(np.array, trained.state(seed, epoch, layers))
    rng = np.random.default_rng(0)
    for leaf in jax.tree.leaves(state["fc1"]):
      leaf[:] = scale * rng.uniform(1, 2, leaf.shape) * (leaf.ndim == 1)
    state["logits"]["dense"]["bias"][decided] += 100
    return state

  constant.state = state
  rows = studies.run(Readout(ReadoutConfig(), constant), tmp_path)
  for metric in ("prediction_depth", "nc3", "nc4"):
    found = rows.where(metric)
    assert found
    assert np.isnan(found.values).all()
    assert {row["stderr"] for row in found} == {None}
  (found,) = Readout.findings({}, rows)
  assert found.holds is None
  assert "a depth at the last epoch is unknown" in found.sentence
  assert "prediction_depth           nan" in Readout.table(rows)
  assert Readout.figures["readout"](rows) is None
  # The layers below, alone, have their votes.
  below = Readout(ReadoutConfig(layers="input"), constant)
  known = studies.run(below, tmp_path / "input")
  assert np.isfinite(known.where("prediction_depth").values).all()


def depth_rows(unpermuted, permuted, error):
  facts = {"best_epoch": 1, "last_epoch": 2}
  at = {"epoch": 2, "metric": "prediction_depth", "stderr": error}
  rows = [{"metric": m, "value": v} for m, v in facts.items()]
  rows += [
    at | {"subset": "unpermuted", "value": unpermuted},
    at | {"subset": "permuted", "value": permuted},
  ]
  empty = dict.fromkeys(runs.COLUMNS) | {"seed": 0}
  return runs.Rows(empty | row for row in rows)


@pytest.mark.parametrize(
  ("permuted", "error", "holds"),
  [
    (4.5, 0.1, True),
    (0.5, 0.1, False),
    (1.6, 0.1, None),
    (1.5, 0.0, None),
    (4.5, None, None),
  ],
)
def test_who_is_decided_later_is_not_told_within_its_error(
  permuted, error, holds
):
  (found,) = Readout.findings({}, depth_rows(1.5, permuted, error))
  assert found.holds is holds
  assert ("within two errors" in found.sentence) is (holds is None)
