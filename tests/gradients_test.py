"""Gradients split by labels: explicit Jacobians, closed forms, the binary."""

import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geomem import data, models, runs, studies, training
from geomem.models import layers
from geomem.studies.experiment import training_data
from geomem.studies.gradients import backprop as gradients
from geomem.studies.gradients import law, linear
from geomem.studies.gradients import products as measures
from geomem.studies.trained import checkpoints
from tests.binaries import execute
from tests.fakes import commit, fields_of

CLASSES, SHAPE = 3, (4, 4, 1)


def network_of(norm: bool) -> models.Network:
  def conv(shape, rngs):
    return layers.Conv(shape[-1], 2, norm=norm, rngs=rngs)

  def dense(shape, rngs):
    return layers.Dense(math.prod(shape), CLASSES, relu=False, rngs=rngs)

  return models.Network("tiny", (("conv", conv), ("logits", dense)), SHAPE)


def examples_of(number: int, seed: int = 0) -> gradients.Examples:
  rng = np.random.default_rng(seed)
  return gradients.Examples(
    rng.integers(256, size=(number, *SHAPE), dtype=np.uint8),
    rng.integers(CLASSES, size=number, dtype=np.int32),
    np.float32([128.0]),
    np.float32([70.0]),
  )


def normalized(examples: gradients.Examples) -> jax.Array:
  return data.normalize(*map(jnp.asarray, (examples.images, *examples[2:])))


def flat(tree, network) -> np.ndarray:
  """All parameters in the order of the layers."""
  leaves = [jax.tree.leaves(tree[n]) for n in network.parameter_layers]
  return np.concatenate([np.ravel(x) for by in leaves for x in by])


def means_of(found: gradients.BlockSums, network) -> np.ndarray:
  """`[4, P]` mean over the set, all layers."""
  whole = [found.sums[n].sum(axis=0) for n in network.parameter_layers]
  return np.concatenate(whole, axis=1) / found.counts.sum()


@pytest.mark.parametrize("train", [False, True])
def test_the_parts_add_up_to_the_gradient_of_the_loss(train):
  network = network_of(norm=True)
  state = network.init(jax.random.key(0))
  examples = examples_of(10)
  parameters, statistics = network.split(state)

  images = normalized(examples)

  def loss(parameters):
    merged = network.merge(parameters, statistics)
    logits = network.apply(merged, images, train=train).logits
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, examples.labels
    ).mean()

  expected = flat(jax.grad(loss)(parameters), network)
  # In training mode one batch; else three, the last of them padded.
  size = 10 if train else 4
  found = gradients.block_sums(
    network, state, examples, batch_size=size, train=train
  )
  np.testing.assert_array_equal(found.counts, [10] if train else [4, 4, 2])
  total = means_of(found, network)[0]
  np.testing.assert_allclose(total, expected, atol=2e-6)


def explicit_jacobian(network, state, examples):
  """`[n, C]` logits and, by layer, their `[n, C, P]` Jacobian."""
  images = normalized(examples)
  logits, jacobian = jax.jit(
    lambda s: (
      network.apply(s, images).logits,
      jax.jacrev(lambda s: network.apply(s, images).logits)(s),
    )
  )(state)
  by_layer = {
    name: np.concatenate(
      [np.reshape(x, (*logits.shape, -1)) for x in jax.tree.leaves(by)], -1
    )
    for name, by in jacobian.items()
    if name in network.parameter_layers
  }
  return logits, by_layer


def test_each_part_is_that_of_the_explicit_jacobian():
  network = network_of(norm=False)
  state = network.init(jax.random.key(0))
  examples = examples_of(7)
  logits, by_layer = explicit_jacobian(network, state, examples)
  J = np.concatenate([by_layer[n] for n in network.parameter_layers], axis=-1)
  p, e = np.asarray(jax.nn.softmax(logits)), np.eye(CLASSES)[examples.labels]
  found = gradients.block_sums(network, state, examples, batch_size=4)
  basis = means_of(found, network)
  expected = {
    ("total", None): p - e,
    ("label", "raw"): -e,
    ("label", "centered"): 1 / CLASSES - e,
    ("independent", "raw"): p,
    ("independent", "centered"): p - 1 / CLASSES,
  }
  assert set(expected) == set(measures.PARTS)
  for part, cotangent in expected.items():
    mean = np.einsum("nc,ncp->p", cotangent, J) / 7
    np.testing.assert_allclose(
      measures.PARTS[part] @ basis, mean, atol=2e-6, err_msg=str(part)
    )
  for block, chosen in enumerate((slice(0, 4), slice(4, 7))):
    rest = e[chosen] - e[chosen].mean(axis=0)
    expected_sum = -np.einsum("nc,ncp->p", rest, J[chosen])
    sums = [found.sums[n][block] for n in network.parameter_layers]
    covariance = measures.COVARIANCE @ np.concatenate(sums, axis=1)
    np.testing.assert_allclose(covariance, expected_sum, atol=2e-5)


def test_a_set_smaller_than_a_training_batch_is_refused():
  network = network_of(norm=True)
  state = network.init(jax.random.key(0))
  with pytest.raises(ValueError, match="the set has 5"):
    gradients.block_sums(
      network, state, examples_of(5), batch_size=8, train=True
    )


def test_measures_are_those_of_the_vectors():
  rng = np.random.default_rng(0)
  counts = np.array([5, 5, 3])
  sums = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
  found = measures.inner_products(
    *(gradients.BlockSums({"a": jnp.asarray(s)}, counts) for s in sums), ["a"]
  )
  rows = measures.measure(found["a"])

  def value(metric, **columns):
    (row,) = [
      row
      for row in rows
      if row["metric"] == metric
      and all(row.get(k) == v for k, v in columns.items())
    ]
    return pytest.approx(row["value"], rel=1e-4)

  total, label, *_ = sums[0].sum(axis=0) / 13
  raw = label - sums[0, :, 2].sum(axis=0) / 13
  unpermuted = {"subset": "unpermuted", "part": "label"}
  norm = np.linalg.norm
  assert norm(raw) == value("norm", **unpermuted, labels="raw")
  along = raw @ total / norm(total)
  assert along == value("projection", **unpermuted, labels="raw")
  rest = total - label
  assert 1 - norm(total) / (norm(label) + norm(rest)) == value(
    "cancellation", subset="unpermuted", labels="centered"
  )
  other = sums[1, :, 1].sum(axis=0) / 13
  pair = {"part": "label", "labels": "centered"}
  assert norm(other) / norm(label) == value("ratio", **pair)
  cosine = other @ label / norm(other) / norm(label)
  assert cosine == value("cosine", **pair)
  projections = [
    row["value"]
    for row in rows
    if (row["metric"], row.get("subset")) == ("projection", "permuted")
  ]
  norm_of_total = norm(sums[1, :, 0].sum(axis=0) / 13)
  # Raw label and independent part, then centred ones.
  assert sum(projections) == pytest.approx(2 * norm_of_total, rel=1e-4)


def test_the_norm_without_noise_is_unbiased_for_shuffled_labels():
  rng = np.random.default_rng(0)
  number, blocks = 48, np.arange(4).repeat(12)
  # Per-example Jacobians with a mean far from zero, and uneven classes.
  J = rng.normal(size=(number, 3, 5)) + 2 * rng.normal(size=(3, 5))
  labels = rng.choice(3, number, p=[0.5, 0.3, 0.2])
  estimates, plain, errors = [], [], []
  for _ in range(600):
    e = np.eye(3)[rng.permutation(labels)]
    means = np.stack([e[blocks == b].mean(axis=0) for b in range(4)])
    g = -np.einsum("nc,ncp->np", e - means[blocks], J)
    S = np.stack([g[blocks == b].sum(axis=0) for b in range(4)])
    found = measures.unbiased_square(S @ S.T, np.full(4, 12))
    estimates.append(found[0])
    errors.append(found[1])
    plain.append((g.mean(axis=0) ** 2).sum())
  spread = np.std(estimates)
  assert abs(np.mean(estimates)) < 4 * spread / 600**0.5
  assert np.mean(plain) > 20 * spread / 600**0.5
  # The error that is reported does not understate.
  assert np.sqrt(np.mean(np.square(errors))) > 0.9 * spread


def test_the_norm_without_noise_finds_a_covariance():
  rng = np.random.default_rng(1)
  signal = rng.normal(size=(3, 5))
  e = np.eye(3)[rng.integers(3, size=40_000)]
  # g = −(e − ē)ᵀJ with J_c = signal_c where y = c: Cov = Σ_c π_c(1 − …).
  J = np.einsum("nk,kp->np", e, signal) + rng.normal(size=(len(e), 5))
  blocks = np.array_split(np.arange(len(e)), 8)
  S = np.stack([((e[b] - e[b].mean(0)).T @ J[b]).ravel() for b in blocks])
  square, error = measures.unbiased_square(
    S @ S.T, np.array([len(b) for b in blocks])
  )
  expected = ((np.eye(3) / 3 - 1 / 9) @ signal) ** 2
  assert square == pytest.approx(expected.sum(), abs=4 * error)
  assert error < 0.05 * square


def test_sums_merge_in_pairs_and_end_with_all():
  sizes = [64] * 7 + [10]
  batches = [({"a": jnp.full((1, 1), 2.0**i)}, n) for i, n in enumerate(sizes)]
  merged = [
    (count, int(sums["a"][0, 0]), halves is not None)
    for count, sums, halves in law.merge_doubling(batches)
  ]
  assert [(n, s) for n, s, _ in merged if n == 64] == [
    (64, 2**i) for i in range(7)
  ]
  assert [s for n, s, _ in merged if n == 128] == [0b11, 0b1100, 0b110000]
  assert [s for n, s, _ in merged if n == 256] == [0b1111]
  assert merged[-1] == (458, 0b11111111, False)
  assert all(halves == (n in (128, 256)) for n, _, halves in merged)


def test_norms_by_size_are_those_of_the_explicit_jacobian(monkeypatch):
  monkeypatch.setattr(law, "BATCH_SIZE", 4)
  network = network_of(norm=False)
  state = network.init(jax.random.key(0))
  examples = examples_of(10)
  _, by_layer = explicit_jacobian(network, state, examples)
  draws = np.random.default_rng(1).integers(CLASSES, size=(2, 10))
  found = law.norms_by_size(network, state, examples, np.int32(draws))
  assert set(found) == set(by_layer) == set(network.parameter_layers)
  e = np.eye(CLASSES)[draws]
  for layer, J in by_layer.items():

    def mean(cotangents, first, last, J=J):
      chosen = cotangents[:, first:last], J[first:last]
      return np.einsum("dnc,ncp->dp", *chosen) / (last - first)

    expected = {4: ([], None), 8: ([], []), 10: ([], None)}
    for g in (-e, 1 / CLASSES - e):  # Raw and centred.
      halves = mean(g, 0, 4), mean(g, 4, 8)
      expected[4][0].append(np.mean([(x**2).sum(1) for x in halves], axis=0))
      for n in (8, 10):
        expected[n][0].append((mean(g, 0, n) ** 2).sum(axis=1))
      expected[8][1].append((halves[0] * halves[1]).sum(axis=1))
    assert list(found[layer]) == [4, 8, 10]
    for n, (squares, crossed) in expected.items():
      np.testing.assert_allclose(found[layer][n][0], squares, rtol=1e-4)
      if crossed is None:
        assert found[layer][n][1] is None
      else:
        np.testing.assert_allclose(
          found[layer][n][1], crossed, rtol=1e-4, atol=1e-5
        )


def test_the_error_of_the_slope_is_its_spread():
  rng = np.random.default_rng(0)
  sizes = np.array([64, 128, 256])
  noise = rng.lognormal(sigma=0.2, size=(300, 20, 3))
  slopes, errors = np.transpose(
    [law.fit_slope(sizes, x / sizes) for x in noise]
  )
  assert np.sqrt((errors**2).mean()) == pytest.approx(slopes.std(), rel=0.2)
  assert slopes.mean() == pytest.approx(-0.5, abs=0.01)


def test_the_slope_of_a_power_law_is_found():
  sizes = np.array([64, 128, 256, 300])
  squares = np.array([3.0, 5.0])[:, None] / sizes
  slope, error = law.fit_slope(sizes, squares)
  assert (slope, error) == (pytest.approx(-0.5), pytest.approx(0, abs=1e-9))
  slope, error = law.fit_slope(sizes, squares[:1])
  assert (slope, error) == (pytest.approx(-0.5), pytest.approx(0, abs=1e-9))


def test_deep_linear_gradients_are_covariances():
  network, state = linear.deep_linear(CLASSES, SHAPE, seed=0)
  examples = examples_of(200)
  images = linear.centered_images(examples.images, examples.std)
  rows = linear.linear_rows(network, state, images, examples.labels, "permuted")
  errors = {
    part: max(row["value"] for row in rows if row["part"] == part)
    for part in ("label", "total")
  }
  assert errors["label"] < 1e-4
  assert errors["total"] < 1e-2
  expected = linear.closed_form(network, state, images, examples.labels)
  # By finite differences of nothing but the network: −⟨Jᵀe_y⟩ is linear in one
  # kernel, so a difference is exact.
  kernel = np.asarray(state["fc2"]["dense"]["kernel"])
  direction = np.zeros_like(kernel)
  direction[1, 2] = 1.0

  def label_part(shift):
    moved = {"dense": state["fc2"]["dense"] | {"kernel": kernel + shift}}
    logits = network.apply(state | {"fc2": moved}, jnp.asarray(images)).logits
    e = np.eye(CLASSES)[examples.labels]
    return -float((np.asarray(logits, np.float64) * e).sum(axis=1).mean())

  difference = label_part(100 * direction) - label_part(0 * direction)
  kernels = expected["fc2"][-kernel.size :].reshape(kernel.shape)
  assert kernels[1, 2] == pytest.approx(difference / 100, rel=1e-3)


def test_draws_of_labels():
  labels = np.array([0, 0, 1, 2], np.int32)
  rng = np.random.default_rng(0)
  drawn = law.draw_labels(labels, 3, 50, rng)
  np.testing.assert_array_equal(drawn["shuffled"][0], labels)
  assert (np.sort(drawn["shuffled"]) == labels).all()
  assert {int(x) for x in drawn["independent"].ravel()} == {0, 1, 2}
  assert len({int((row == 0).sum()) for row in drawn["independent"]}) > 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A tiny run, trained and not measured."""
  path = tmp_path_factory.mktemp("gradients") / "run"
  config = studies.make_config(
    model="mlp", width=8, epochs=2, num_classes=3, manifold_points=5
  )
  experiment = studies.prepare(config)
  seed = studies.prepare_seed(experiment, 0)
  with (
    runs.Run(path, fields_of(config)) as run,
    checkpoints(run.path, 0) as saved,
  ):
    for state, _ in training.train(
      seed.training_key,
      experiment.network,
      training_data(experiment, seed),
      experiment.recipe,
    ):
      saved.save(state.epoch, state.network)
    facts = {"best_epoch": 1, "last_epoch": 2}
    rows = [{"metric": k, "value": v} for k, v in facts.items()]
    commit(run, runs.tagged(rows, seed=0))
  return path


def study_of(path, **config):
  config = studies.GradientConfig(**{"draws": 2} | config)
  return studies.Gradients(config, studies.TrainedRun(path))


def measure(path) -> list[dict]:
  """Does what is left; rows in the order of the file."""
  study = study_of(path)
  rows = studies.run(study)
  (study.directory / "done").unlink()
  return rows


def test_the_closed_form_takes_so_many_examples(trained, monkeypatch):
  """Of all images of a large set the products in float64 take gigabytes."""
  monkeypatch.setattr(linear, "MOST_EXAMPLES", 7)
  monkeypatch.setattr(law, "norms_by_size", lambda *_: {})
  monkeypatch.setattr(law, "law_rows", lambda *_: [])
  taken = []

  def linear_rows(network, state, images, labels, subset):
    taken.append((len(images), len(labels)))
    # They are centred about their own mean.
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=1e-6)
    return []

  monkeypatch.setattr(linear, "linear_rows", linear_rows)
  study = study_of(trained)
  list(study._measure_law(study.trained.seeds[0], {}))
  assert taken == [(7, 7)] * 2


@pytest.mark.long
def test_a_run_is_measured_resumed_and_then_left_alone(trained):
  out = trained / "gradients"
  rows = measure(trained)
  norms = [row for row in rows if row["metric"] == "norm"]
  # Four layers and the whole, three epochs, two subsets, five parts.
  assert len(norms) == 5 * 3 * 2 * 5
  keys = {tuple((k, v) for k, v in r.items() if k != "value") for r in rows}
  assert len(keys) == len(rows)
  # Killed in the middle of a line.
  file = out / "results.jsonl"
  whole = file.read_bytes()
  for part in (0.2, 0.9):
    file.write_bytes(whole[: int(part * len(whole))])
    assert measure(trained) == rows
  # What the binary adds: figures, findings, and that it is done.
  first = execute("gradients", run=trained, draws=2)
  assert first.returncode == 0, first.stderr
  assert all(f"G{number} " in first.stdout for number in range(1, 6))
  for name in ("parts", "comparison", "law"):
    assert (out / "figures" / f"gradient_{name}.png").stat().st_size
  assert file.read_bytes() == whole
  assert "nothing to do" in execute("gradients", run=trained, draws=2).stdout


def test_bad_input_is_a_sentence_before_any_work(trained, tmp_path):
  run = studies.TrainedRun(trained)
  config = studies.GradientConfig(max_examples=32)
  with pytest.raises(runs.RunError, match="Each subset gives 32 examples"):
    studies.Gradients(config, run)
  experiment = run.experiment
  run.experiment = experiment._replace(
    network=models.build(
      "vgg16_bn", num_classes=3, image_shape=(8, 8, 1), width=1
    ),
    config=experiment.config.replace(batch_size=101),
  )
  with pytest.raises(runs.RunError, match="--notraining_mode"):
    studies.Gradients(studies.GradientConfig(max_examples=100), run)
  run.experiment = experiment
  (seed,) = run.seeds
  clean = {k: v for k, v in seed.subsets.items() if k != "permuted"}
  run.seeds = [seed._replace(subsets=clean)]
  with pytest.raises(runs.RunError, match="no permuted examples"):
    studies.Gradients(studies.GradientConfig(), run)
  with pytest.raises(ValueError, match="max_examples is -1"):
    studies.GradientConfig(max_examples=-1)
  for name in ("results.jsonl", "config.json"):
    shutil.copy(trained / name, tmp_path)
  with pytest.raises(ValueError, match="There are no checkpoints"):
    study_of(tmp_path)
