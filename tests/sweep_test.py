"""Sweeps: seeds together as alone, cells that are jobs, and what they say."""

import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments import work
from geomem import analysis, runs, training
from geomem.analysis import experiment as experiments
from geomem.analysis import model_size, noise, sweep
from geomem.training import together
from tests import binaries

TINY = {
  "num_classes": 4,
  "examples_per_class": 20,
  "epochs": 3,
  "batch_size": 16,
  "manifold_points": 5,
  "num_probes": 10,
  "num_seeds": 2,
}
WIDTHS = [2, 3]


def prepared(**fields):
  config = analysis.ExperimentConfig(**TINY | {"num_probes": 10} | fields)
  experiment = analysis.prepare(config)
  seeds = [
    analysis.prepare_seed(experiment, n) for n in range(config.num_seeds)
  ]
  return experiment, seeds


def trained_together(experiment, seeds):
  data = experiments.training_data(experiment, seeds[0])
  labels = jnp.stack([jnp.asarray(seed.labels.labels) for seed in seeds])
  *_, (states, losses) = training.train_seeds(
    jnp.stack([seed.training_key for seed in seeds]),
    experiment.network,
    data._replace(labels=labels),
    experiment.recipe,
  )
  return [state.network for state in states], losses


def trained_alone(experiment, seed):
  *_, (state, loss) = training.train(
    seed.training_key,
    experiment.network,
    experiments.training_data(experiment, seed),
    experiment.recipe,
  )
  return state.network, loss


@pytest.mark.parametrize(
  ("model", "vmapped", "tolerance"),
  [("mlp1", True, 1e-5), ("mlp1", False, 0), ("convnet", True, 1e-4)],
)
def test_seeds_together_become_what_each_is_alone(
  monkeypatch, model, vmapped, tolerance
):
  # Augmented, so that every key is used; vmap is what accelerators get.
  experiment, seeds = prepared(model=model, width=3, crop=1, learning_rate=0.01)
  monkeypatch.setattr(together, "_gains_from_vmap", lambda _: vmapped)
  (first, second), losses = trained_together(experiment, seeds)
  alone, loss = trained_alone(experiment, seeds[1])
  assert losses[1] == pytest.approx(loss, rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=0),
    second,
    alone,
  )
  # And they are two networks, not one.
  kernels = (
    network["logits"]["dense"]["kernel"] for network in (first, second)
  )
  assert float(jnp.abs(jnp.subtract(*kernels)).max()) > 0.1


def test_on_cpu_small_dense_networks_only_are_vmapped():
  gains = {
    (model, width): together._gains_from_vmap(
      prepared(model=model, width=width)[0].network
    )
    for model, width in (("mlp1", 64), ("mlp1", 256), ("convnet", 2))
  }
  assert gains == {
    ("mlp1", 64): True,
    ("mlp1", 256): False,
    ("convnet", 2): False,
  }


def test_a_seed_that_has_memorized_ends_and_the_others_go_on(tmp_path):
  # Wide, so that each seed is a program of its own and rows are equal exactly.
  experiment, seeds = prepared(
    model="mlp",
    width=80,
    epochs=40,
    optimizer="adam",
    learning_rate=0.003,
    stop_when_memorized=True,
  )
  with runs.Run(tmp_path / "together", {}) as run:
    list(analysis.train_seeds(run, experiment, seeds))
    found = run.rows()
    list(analysis.train_seeds(run, experiment, seeds))
    assert run.rows() == found
  last = {r["seed"]: r["value"] for r in found if r["metric"] == "last_epoch"}
  assert last[0] != last[1]
  assert max(last.values()) < 40
  for seed in seeds:
    with runs.Run(tmp_path / f"seed{seed.seed}", {}) as run:
      list(analysis.train_seed(run, experiment, seed))
      assert run.rows() == [r for r in found if r["seed"] == seed.seed]


def sizes_config(**fields):
  return model_size.ModelSizeConfig(**TINY | fields).filled()


def do_sweep(path, widths=WIDTHS, share=None, **fields):
  return work.run_sweep(
    path,
    "model_size",
    sizes_config(**fields),
    {"width": widths},
    analysis.summarize_sizes,
    share,
  )


def command(path, *more):
  widths = ",".join(map(str, WIDTHS))
  values = TINY | {"out": path, "width": widths}
  return binaries.command("model_size", *more, **values)


def results(path):
  return (path / "results.jsonl").read_bytes()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  path = tmp_path_factory.mktemp("calm")
  assert do_sweep(path) == 0
  return path


def test_a_sweep_is_whole_and_the_second_start_does_nothing(calm, capsys):
  rows = runs.read_rows(calm)
  for metric in ("accuracy", "dimension"):
    found = {
      (row["width"], row["seed"])
      for row in rows
      if (row["metric"], row["subset"]) == (metric, "test")
    }
    assert found == {(w, s) for w in WIDTHS for s in (0, 1)}
  assert {row["layer"] for row in rows} == {None, "fc1"}
  parameters = {
    row["width"]: row["value"]
    for row in rows
    if row["metric"] == "num_parameters"
  }
  assert parameters == {w: 64 * w + w + 4 * w + 4 for w in WIDTHS}
  for name in ("model_size", "geometry_by_size", "size_by_epoch"):
    assert (calm / "figures" / f"{name}.png").stat().st_size
  before = results(calm)
  assert do_sweep(calm) == 0
  assert "nothing to do" in capsys.readouterr().out
  assert results(calm) == before


def test_a_cell_is_a_run_that_can_be_opened(calm):
  experiment = analysis.load_experiment(calm / "width=3")
  assert experiment.network.num_parameters == 64 * 3 + 3 + 4 * 3 + 4
  with analysis.checkpoints_of(calm / "width=3", 1) as saved:
    assert saved.epochs == [0, 1, 2, 3]


def test_killed_in_the_middle_it_ends_with_the_same_rows(calm, tmp_path):
  process = subprocess.Popen(
    command(tmp_path),
    cwd=binaries.ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  while not (tmp_path / "width=2" / "done").exists():
    assert process.poll() is None
    time.sleep(0.02)
  process.kill()
  process.wait()
  assert not (tmp_path / "width=3" / "done").exists()
  first = (tmp_path / "width=2" / "done").stat().st_mtime_ns
  assert do_sweep(tmp_path) == 0
  assert results(tmp_path) == results(calm)
  assert (tmp_path / "width=2" / "done").stat().st_mtime_ns == first


def test_two_processes_share_a_sweep(calm, tmp_path):
  with subprocess.Popen(
    command(tmp_path, "--cell=0/2"),
    cwd=binaries.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert do_sweep(tmp_path, share="1/2") == 0
    told, _ = other.communicate()
    assert other.returncode == 0
  assert "complete" in told or "Figures:" in told
  assert results(tmp_path) == results(calm)
  assert (tmp_path / "done").exists()


def test_a_cell_held_by_another_is_done_last(calm, tmp_path, monkeypatch):
  monkeypatch.setattr(work, "_PATIENCE", 0.05)
  config = analysis.config_dict(sizes_config(width=2))
  held = runs.Run(tmp_path / "width=2", config)
  others = [tmp_path / f"width={w}" / "done" for w in WIDTHS[1:]]
  freed = []

  def free():
    while not all(path.exists() for path in others):
      time.sleep(0.02)
    freed.append((tmp_path / "width=2" / "done").exists())
    held.close()

  thread = threading.Thread(target=free)
  thread.start()
  assert do_sweep(tmp_path) == 0
  thread.join()
  assert freed == [False]
  assert results(tmp_path) == results(calm)


def test_a_failed_cell_is_reported_and_the_others_go_on(tmp_path, capsys):
  # A file where the cell's directory would be.
  (tmp_path / "width=3").touch()
  assert do_sweep(tmp_path, [2, 3], num_seeds=1) == 1
  told = capsys.readouterr()
  assert f"Failed: {tmp_path / 'width=3'}" in told.err
  assert "1 of 2 cells are complete" in told.out
  (tmp_path / "width=3").unlink()
  assert {row["width"] for row in runs.read_rows(tmp_path)} == {2}
  # The sweep can grow; another one is refused.
  assert do_sweep(tmp_path, [2, 3], num_seeds=1) == 0
  assert {r.get("width") for r in runs.read_rows(tmp_path)} == {2, 3, None}
  with pytest.raises(runs.RunError, match="another epochs"):
    do_sweep(tmp_path, [2, 3], num_seeds=1, epochs=4)


def test_bad_lists_are_sentences(tmp_path):
  wrong = flags.IllegalFlagValueError
  with pytest.raises(wrong, match="width is 0; at least 1"):
    do_sweep(tmp_path, [0, 2])
  with pytest.raises(wrong, match="names a value twice"):
    do_sweep(tmp_path, [2, 2])
  for share in ("2/2", "1", "a/b"):
    with pytest.raises(wrong, match="is no share"):
      do_sweep(tmp_path, share=share)
  found = binaries.execute("model_size", out=tmp_path, width="2,x", **TINY)
  assert found.returncode == 2
  assert "--width=2,x is not a whole number" in found.stderr
  assert not list(tmp_path.iterdir())


def test_shares_are_a_partition():
  cells = sweep.make_cells("s", analysis.ExperimentConfig(), {"width": WIDTHS})
  parts = [sweep.share_of(cells, f"{i}/2") for i in (0, 1)]
  assert {cell.path for part in parts for cell in part} == {
    cell.path for cell in cells
  }
  assert [len(part) for part in parts] == [1, 1]


def test_the_memorization_experiment_is_swept_over_fraction_and_model(tmp_path):
  axes = {"permuted_fraction": [0.0, 0.5, 1.0], "model": ["mlp", "mlp1"]}
  config = analysis.ExperimentConfig(
    **TINY | {"width": 4, "epochs": 1, "layers": "last"}
  )
  run = [tmp_path, "memorization_sweep", config, axes, analysis.summarize_noise]
  assert work.run_sweep(*run) == 0
  rows = runs.read_rows(tmp_path)
  assert len({(r["permuted_fraction"], r["model"]) for r in rows}) == 6
  subsets = {
    fraction: {r["subset"] for r in rows if r["permuted_fraction"] == fraction}
    for fraction in axes["permuted_fraction"]
  }
  assert subsets[0.0] == {None, "unpermuted", "test"}
  assert subsets[0.5] == {None, "unpermuted", "permuted", "restored", "test"}
  assert subsets[1.0] == {None, "permuted", "restored", "test"}
  for name in ("last_layer", "departure"):
    assert (tmp_path / "figures" / f"{name}.png").stat().st_size


def test_the_dip_of_a_known_curve_is_found():
  rng = np.random.default_rng(0)
  curve = np.array([0.3, 0.5, 0.6, 0.5, 0.45, 0.55, 0.7])
  noisy = (
    curve[:, None]
    + rng.normal(0, 0.01, (7, 1)) * 0
    + rng.normal(0, 0.02, (1, 5))
  )
  dip = model_size.find_dip(noisy)
  assert (dip.before, dip.at) == (2, 4)
  # What seeds share over all sizes is no error of a difference.
  assert dip.depth == pytest.approx(0.15)
  assert dip.stderr == pytest.approx(0, abs=1e-12)
  assert dip.rise == pytest.approx(0.25)
  assert model_size.find_dip(np.sort(noisy, axis=0)) is None


def test_the_error_of_the_dip_is_that_of_paired_differences():
  accuracy = np.array([[0.5, 0.7], [0.4, 0.4], [0.9, 0.9]])
  dip = model_size.find_dip(accuracy)
  assert dip.depth == pytest.approx(0.2)
  assert dip.stderr == pytest.approx(0.1)  # Differences 0.1 and 0.3.


def test_the_departure_from_chance_is_the_first_layer_that_stays_above():
  chance = 0.1
  for capacity, layer in (
    ([0.1, 0.1, 0.2], 2),
    ([0.2, 0.1, 0.2], 2),
    ([0.2, 0.2, 0.2], 0),
    ([0.1, 0.2, 0.1], None),
  ):
    assert noise.departure_layer(np.array(capacity), chance) == layer
