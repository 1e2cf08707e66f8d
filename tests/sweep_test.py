"""Sweeps: seeds together as alone, cells that are jobs, and what they say."""

import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geomem import runs, studies, training
from geomem.studies import experiment as experiments
from geomem.studies import model_size, study, sweep
from geomem.studies.fields import Fields
from geomem.studies.study import _Silent
from geomem.studies.trained import checkpoints
from geomem.training import together
from tests import binaries
from tests.fakes import SMALL_RUN, draw_as_png

# As many sets are measured together as elsewhere: there is less to compile.
TINY = SMALL_RUN | {
  "permuted_fraction": 0.5,
  "subsets": "unpermuted,permuted,restored,test",
}
del TINY["model"], TINY["width"]
WIDTHS = [2, 3]


def prepared(**fields):
  config = studies.make_config(**TINY | fields)
  experiment = studies.prepare(config)
  seeds = studies.prepare_seeds(experiment)
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


def test_a_network_that_is_not_needed_may_diverge():
  experiment, seeds = prepared()
  data = experiments.training_data(experiment, seeds[0])
  labels = jnp.stack([jnp.asarray(seed.labels.labels) for seed in seeds])

  def spoil(states):
    bad = jax.tree.map(lambda x: x * jnp.nan, states[1].network)
    return [states[0], states[1]._replace(network=bad)]

  def train(needed):
    *_, (states, losses) = training.train_seeds(
      jnp.stack([seed.training_key for seed in seeds]),
      experiment.network,
      data._replace(labels=labels),
      experiment.recipe,
      resume=spoil,
      needed=needed,
    )
    return states[0].network, losses[0]

  alone, loss = trained_alone(experiment, seeds[0])
  network, found = train(lambda: {0: "seed 5"})
  assert found == pytest.approx(loss, rel=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), network, alone
  )
  for needed, name in (
    (lambda: {0: "seed 5", 1: "seed 6"}, "seed 6"),
    (None, "network 1"),
  ):
    with pytest.raises(training.NonFiniteLossError, match=f"of {name} is nan"):
      train(needed)


@pytest.mark.parametrize(
  ("model", "form", "tolerance"),
  [
    ("mlp1", "vmapped", 1e-5),
    ("mlp1", "one_by_one", 0),
    ("mlp1", "unrolled", 1e-5),
    ("convnet", "vmapped", 1e-4),
    ("convnet", "products", 1e-4),
  ],
)
def test_seeds_together_become_what_each_is_alone(
  monkeypatch, model, form, tolerance
):
  grouped = (model, form) == ("convnet", "vmapped")
  if grouped and not together.can_vmap_convolutions():
    pytest.skip("JAX 0.7 has no gradients of convolutions under vmap.")
  # Augmented, so that every key is used; vmap is what accelerators get.
  experiment, seeds = prepared(model=model, width=3, crop=1, learning_rate=0.01)
  monkeypatch.setattr(together, "fastest_form", lambda _: form)
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
  forms = {
    (model, width): together.fastest_form(
      prepared(model=model, width=width)[0].network
    )
    for model, width in (("mlp1", 64), ("mlp1", 256), ("convnet", 2))
  }
  assert forms == {
    ("mlp1", 64): "vmapped",
    ("mlp1", 256): "one_by_one",
    ("convnet", 2): "one_by_one",
  }


@pytest.mark.parametrize(
  ("can", "form"), [(True, "vmapped"), (False, "products")]
)
def test_on_an_accelerator_all_are_one_program(monkeypatch, can, form):
  network = prepared(model="convnet", width=2)[0].network
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(together, "can_vmap_convolutions", lambda: can)
  assert together.fastest_form(network) == form


def test_a_seed_that_has_memorized_ends_and_the_others_go_on(
  tmp_path, monkeypatch
):
  # Wide, so that each seed is a program of its own and rows are equal exactly.
  fields = {
    "model": "mlp1",
    "width": 80,
    "examples_per_class": 20,
    "batch_size": 15,
    "epochs": 40,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "stop_when_memorized": True,
    "layers": "last",
    "measure_epochs": "last",
  }
  config = studies.make_config(**TINY | fields)
  found = studies.run(studies.Memorization(config), tmp_path / "together")
  last = found.epochs("last")
  assert last[0] != last[1]
  assert max(last.values()) < 40
  for seed in (0, 1):
    alone = studies.Memorization(config.replace(seed=seed, num_seeds=1))
    rows = studies.run(alone, tmp_path / f"seed{seed}")
    assert rows == found.where(seed=seed)
  # What one becomes after its end does not matter to the other.
  train, ended = training.train_seeds, min(last, key=last.get)

  def spoiled(*arguments, **options):
    for states, losses in train(*arguments, **options):
      if states.epoch > last[ended]:
        losses[ended] = np.nan
      yield states, losses

  monkeypatch.setattr(training, "train_seeds", spoiled)
  rows = studies.run(studies.Memorization(config), tmp_path / "spoiled")
  assert rows == found


def sweep_of(widths=WIDTHS, share=None, **fields):
  return studies.model_size_sweep(widths, share=share, **TINY | fields)


def do_sweep(path, widths=WIDTHS, share=None, drawn=False, **fields):
  """Runs a sweep as its binary does; returns whether it had to report."""
  reported = []

  def report(run, sentences):
    if drawn:
      studies.draw(run.path)
    reported.append(sentences)

  sweep = sweep_of(widths, share, **fields)
  failures = studies.run_sweep(sweep, path, report=report)
  assert not failures, failures
  return bool(reported)


def start(path, *more):
  """Starts the binary on the same sweep; it prints to a file beside."""
  fields = TINY | {"out": path, "width": ",".join(map(str, WIDTHS))}
  told = f"{path}.told"
  return binaries.start("model_size", *more, stdout=told, stderr=told, **fields)


def results(path):
  return (path / "results.jsonl").read_bytes()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  path = tmp_path_factory.mktemp("calm")
  with pytest.MonkeyPatch.context() as patched:
    draw_as_png(patched)
    assert do_sweep(path, drawn=True)
  return path


def test_a_sweep_is_whole_and_the_second_start_does_nothing(calm):
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
  assert parameters == {w: 64 * w + w + 3 * w + 3 for w in WIDTHS}
  for name in ("model_size", "geometry_by_size", "size_by_epoch"):
    assert (calm / "figures" / f"{name}.png").stat().st_size
  before = results(calm)
  assert not do_sweep(calm)
  again = start(calm)
  again.join()
  assert again.exitcode == 0
  assert "nothing to do" in pathlib.Path(f"{calm}.told").read_text()
  assert results(calm) == before


def test_a_cell_is_a_run_that_can_be_opened(calm):
  experiment = studies.TrainedRun(calm / "width=3").experiment
  assert experiment.network.num_parameters == 64 * 3 + 3 + 3 * 3 + 3
  with checkpoints(calm / "width=3", 1) as saved:
    assert saved.epochs == [0, 1, 2]


def test_killed_in_the_middle_it_ends_with_the_same_rows(calm, tmp_path):
  class KilledError(BaseException):
    """A failure is reported, and a kill is not."""

  class Bar(_Silent):
    """One of training, of which the first epoch kills."""

    def update(self, size):
      if size:
        raise KilledError

  def bar(desc, **_):
    is_first = not (tmp_path / "width=2" / "done").exists()
    return _Silent() if is_first or "training" not in desc else Bar()

  with pytest.raises(KilledError):
    studies.run_sweep(sweep_of(), tmp_path, progress=bar)
  assert (tmp_path / "width=3" / "config.json").exists()
  assert not (tmp_path / "width=3" / "done").exists()
  first = (tmp_path / "width=2" / "done").stat().st_mtime_ns
  do_sweep(tmp_path)
  assert results(tmp_path) == results(calm)
  assert (tmp_path / "width=2" / "done").stat().st_mtime_ns == first


def test_two_processes_share_a_sweep(calm, tmp_path):
  other = start(tmp_path, "--cell=0/2")
  do_sweep(tmp_path, share="1/2")
  other.join()
  told = pathlib.Path(f"{tmp_path}.told").read_text()
  assert other.exitcode == 0, told
  assert "complete" in told or "Figures:" in told
  assert results(tmp_path) == results(calm)
  assert (tmp_path / "done").exists()


def test_a_cell_held_by_another_is_done_last(calm, tmp_path, monkeypatch):
  monkeypatch.setattr(sweep, "_PATIENCE", 0.05)
  cell = sweep_of().cells(tmp_path)[0]
  held = runs.Run(cell.path, cell.as_dict())
  others = [tmp_path / f"width={w}" / "done" for w in WIDTHS[1:]]
  freed, made = [], []

  def make(config):
    made.append(config.model.width)
    return studies.Memorization(config)

  monkeypatch.setattr(sweep, "Memorization", make)
  make.name = studies.Memorization.name

  def free():
    while not all(path.exists() for path in others):
      time.sleep(0.02)
    freed.append((tmp_path / "width=2" / "done").exists())
    held.close()

  thread = threading.Thread(target=free)
  thread.start()
  do_sweep(tmp_path)
  thread.join()
  assert freed == [False]
  assert results(tmp_path) == results(calm)
  # However often the lock was tried, data were loaded once for each cell.
  assert sorted(made) == sorted(WIDTHS)


def test_cells_that_are_done_are_opened_in_their_order(tmp_path, monkeypatch):
  """All processes of a job open them together."""
  opened = []

  class Opened(contextlib.nullcontext):
    def close(self):
      pass

  widths = list(range(2, 22))
  monkeypatch.setattr(
    sweep.Cell, "is_done", property(lambda cell: cell.path.name != "width=21")
  )
  monkeypatch.setattr(sweep, "_do_cells", lambda *_: [])
  monkeypatch.setattr(sweep, "_gather", lambda *_: None)
  monkeypatch.setattr(
    runs, "open_run", lambda path, _: opened.append(path.name) or Opened()
  )
  studies.run_sweep(sweep_of(widths), tmp_path)
  assert opened == [f"width={width}" for width in widths[:-1]]


def test_cells_of_other_data_are_not_pooled(calm, tmp_path):
  path = tmp_path / "sweep"
  shutil.copytree(calm, path)
  file = path / "width=3" / "config.json"
  content = json.loads(file.read_text())
  (path / "done").unlink()
  # What earlier versions did not record is not compared.
  file.write_text(json.dumps(content | {"origin": {}}))
  do_sweep(path)
  (path / "done").unlink()
  file.write_text(json.dumps(content | {"origin": {"data": "0123abcd"}}))
  with pytest.raises(runs.RunError, match=r"width=3 was trained on data with"):
    do_sweep(path)
  # Axes that choose the data are another matter.
  swept = studies.memorization_sweep({"num_classes": [2, 3]}, **TINY)
  cells = [config.flat() for _, config in swept.cells(path)]
  assert len({sweep._named_data(flat) for flat in cells}) == 2


def test_a_sweep_whose_cells_all_failed_can_be_corrected(tmp_path):
  bad = studies.memorization_sweep(
    {"permuted_fraction": [0.2, 0.5]}, **TINY | {"dataset": "npz:/no/where"}
  )
  assert len(studies.run_sweep(bad, tmp_path)) == 2
  assert not (tmp_path / "results.jsonl").exists()
  good = studies.memorization_sweep({"permuted_fraction": [0.2, 0.5]}, **TINY)
  sweep._open(tmp_path, good).close()


def test_a_failed_cell_is_reported_and_the_others_go_on(calm, tmp_path):
  # A file where the first cell's directory would be.
  (tmp_path / "width=2").touch()
  (failure,) = studies.run_sweep(sweep_of(), tmp_path)
  assert failure.cell.path == tmp_path / "width=2"
  assert (tmp_path / "width=3" / "done").exists()
  fields = TINY | {"out": tmp_path, "width": "2,3"}
  told = binaries.execute("model_size", **fields)
  assert told.returncode == 1
  assert f"Failed: {tmp_path / 'width=2'}" in told.stderr
  assert "Complete: 1 of 2 cells" in told.stdout
  (tmp_path / "width=2").unlink()
  assert runs.read_rows(tmp_path).distinct("width") == [3]
  # The sweep can grow; another one is refused.
  do_sweep(tmp_path)
  assert runs.read_rows(tmp_path).distinct("width") == [2, 3]
  assert results(tmp_path) == results(calm)
  with pytest.raises(runs.RunError, match="epochs differs"):
    do_sweep(tmp_path, epochs=3)


def test_runs_that_are_no_cells_are_left_out(calm, tmp_path, caplog):
  """A copy of a cell, and a run of another recipe, each below the sweep."""
  path = tmp_path / "sweep"
  shutil.copytree(calm, path)
  for name in ("width=3.bak", "fast"):
    shutil.copytree(path / "width=3", path / name)
  config = path / "fast" / "config.json"
  config.write_text(config.read_text().replace('"epochs": 2', '"epochs": 8'))
  assert not do_sweep(path)
  assert results(path) == results(calm)
  assert "fast (epochs differs)" in caplog.text
  assert "width=3.bak (the cell is width=3)" in caplog.text
  # Where a cell is to be, another run is an error.
  shutil.copy(config, path / "width=3")
  with pytest.raises(runs.RunError, match=r"width=3 holds .* epochs differs"):
    do_sweep(path)


def test_a_cell_has_one_name_however_its_value_is_written(tmp_path):
  def names(*values):
    axes = {"permuted_fraction": values}
    swept = studies.memorization_sweep(axes, **TINY)
    return [cell.path.name for cell in swept.cells(tmp_path)]

  @dataclasses.dataclass(frozen=True)
  class Fraction(Fields):  # Whose types no test checks.
    permuted_fraction: float | None

  assert str(Fraction(1).permuted_fraction) == "1.0"
  assert names(0.5, np.float32(1)) == names(0.5, 1.0)
  assert names(0.5, 1.0) == ["permuted_fraction=0.5", "permuted_fraction=1.0"]
  with pytest.raises(ValueError, match="names a value twice"):
    names(np.float32(1), 1.0)


@pytest.mark.parametrize(
  ("axes", "sentence"),
  [
    ({"model": ["mlp1", "resent18"]}, "'resent18' is not known"),
    ({"permuted_fraction": [0.0, 5.0]}, "permuted_fraction is 5.0"),
    ({"optimizer": ["sgd", "foo"]}, "'foo' is not known"),
    ({"dtype": ["float32", "half"]}, "'half' is not known"),
    ({"epochs": [1, 0]}, "epochs is 0; a positive"),
    ({"batch_size": [1, 0]}, "batch_size is 0; a positive"),
  ],
)
def test_what_no_cell_can_do_is_refused_before_the_first(
  axes, sentence, tmp_path
):
  fields = {name: x for name, x in TINY.items() if name not in axes}
  with pytest.raises(ValueError, match=sentence):
    studies.memorization_sweep(axes, **fields).cells(tmp_path)


def test_bad_lists_are_sentences(tmp_path):
  for widths, sentence in (
    ([0, 2], "width is 0; at least 1"),
    ([2, 2], "names a value twice"),
  ):
    with pytest.raises(ValueError, match=sentence):
      do_sweep(tmp_path, widths)
  for axes in ({"width": [None, 8]}, {"labels": ["permuted", "file:/a.npy"]}):
    with pytest.raises(ValueError, match="must be something without a slash"):
      studies.memorization_sweep(axes, **TINY).cells(tmp_path)
  for share in ("2/2", "1", "a/b"):
    with pytest.raises(ValueError, match="is not a share"):
      do_sweep(tmp_path, share=share)
  found = binaries.execute("model_size", out=tmp_path, width="2,x", **TINY)
  assert found.returncode == 2
  assert "--width=2,x is not a whole number" in found.stderr
  assert not list(tmp_path.iterdir())


def test_shares_are_a_partition():
  cells = sweep_of().cells("s")
  parts = [sweep_of(share=f"{i}/2").own(cells) for i in (0, 1)]
  assert {cell.path for part in parts for cell in part} == {
    cell.path for cell in cells
  }
  assert [len(part) for part in parts] == [1, 1]


def test_the_memorization_experiment_is_swept_over_fraction_and_model(
  tmp_path, monkeypatch
):
  draw_as_png(monkeypatch)
  axes = {"permuted_fraction": [0.0, 1.0], "model": ["mlp", "mlp1"]}
  # Accuracies are of all subsets.
  fields = TINY | {"layers": "last", "measure_epochs": "last"}
  fields |= {
    "width": 4,
    "epochs": 1,
    "num_seeds": 1,
    "subsets": "permuted,test",
  }
  swept = studies.memorization_sweep(axes, **fields)
  assert not studies.run_sweep(swept, tmp_path)
  studies.draw(tmp_path)
  rows = runs.read_rows(tmp_path)
  assert len({(r["permuted_fraction"], r["model"]) for r in rows}) == 4
  subsets = {
    fraction: {r["subset"] for r in rows if r["permuted_fraction"] == fraction}
    for fraction in axes["permuted_fraction"]
  }
  assert subsets[0.0] == {None, "unpermuted", "test"}
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
  # What seeds share over all sizes is not an error of a difference.
  assert dip.depth == pytest.approx(0.15)
  assert dip.stderr == pytest.approx(0, abs=1e-12)
  assert dip.rise == pytest.approx(0.25)
  assert model_size.find_dip(np.sort(noisy, axis=0)) is None


def test_the_error_of_the_dip_is_that_of_paired_differences():
  accuracy = np.array([[0.5, 0.7], [0.4, 0.4], [0.9, 0.9]])
  dip = model_size.find_dip(accuracy)
  assert dip.depth == pytest.approx(0.2)
  assert dip.stderr == pytest.approx(0.1)  # Differences 0.1 and 0.3.


@pytest.mark.parametrize(
  ("probe", "whose"),
  [
    ((0.8, 0.6, 0.8), "representation"),
    ((0.8, 0.8, 0.8), "readout"),
    ((0.6, 0.7, 0.8), "readout"),
  ],
)
def test_whose_the_dip_is_follows_from_a_new_readout(probe, whose):
  rows = runs.Rows()
  for width, accuracy, of_probe in zip(
    (2, 4, 8), (0.7, 0.4, 0.8), probe, strict=True
  ):
    for seed in (0, 1):
      common = {"seed": seed, "width": width, "stderr": None}
      facts = {"best_epoch": 1, "last_epoch": 1, "num_parameters": width}
      facts |= {"num_unpermuted": 10, "num_permuted": 0}
      place = {"epoch": None, "layer": None, "layer_index": None}
      rows += [
        common | place | {"subset": None, "metric": name, "value": value}
        for name, value in facts.items()
      ]
      place = place | {"epoch": 1}
      rows += [
        common | place | {"subset": s, "metric": "accuracy", "value": accuracy}
        for s in ("unpermuted", "test")
      ]
      place = place | {"layer": "fc1", "layer_index": 1, "subset": "test"}
      rows.append(
        common | place | {"metric": "probe_accuracy", "value": of_probe}
      )
  _, sentences = model_size.summarize_sizes(rows)
  assert sentences[-1].endswith(f"the dip is mostly due to the {whose}.")
  change = {0.6: "loses 0.200", 0.8: "loses 0.000", 0.7: "gains 0.100"}[
    probe[1]
  ]
  assert f" {change} ± 0.000: " in sentences[-1]


def sized(accuracy, dimension, probe, seeds=2):
  """Rows of three widths: each sequence has a number for each of them."""
  rows = runs.Rows()
  for width, *numbers in zip(
    (2, 4, 8), accuracy, dimension, probe, strict=True
  ):
    for seed in range(seeds):
      common = dict.fromkeys(runs.COLUMNS) | {"seed": seed, "width": width}
      facts = {"best_epoch": 1, "last_epoch": 3, "num_parameters": width}
      facts |= {"num_unpermuted": 10, "num_permuted": 0}
      rows += [common | {"metric": m, "value": v} for m, v in facts.items()]
      for epoch in (1, 3):
        for subset in ("unpermuted", "test"):
          of_network = {"epoch": epoch, "subset": subset, "metric": "accuracy"}
          rows.append(common | of_network | {"value": numbers[0]})
        at = {"epoch": epoch, "layer": "fc1", "layer_index": 1}
        for metric, value in (
          ("dimension", numbers[1] * epoch),
          ("radius", 1.0),
          ("probe_accuracy", numbers[2]),
        ):
          found = {"subset": "test", "metric": metric, "value": value}
          rows.append(common | at | found)
  return rows


def test_what_is_missing_of_the_dip_is_said():
  dip, nan = (0.7, 0.4, 0.8), math.nan
  fitted, fall, growth, _, readout = model_size.summarize_sizes(
    sized(dip, (nan, 2.0, 0.0), (0.8, nan, 0.8))
  )[1]
  assert "No network fits" in fitted
  assert "falls by 0.300" in fall
  assert "unknown in the smallest, +4.000 ± 0.000 (+200%) in the dip" in growth
  assert "unknown in the largest" in growth  # It was dead, with no dimension.
  assert "cannot be told: accuracies of new readouts are missing" in readout
  # Without an error any difference may be noise.
  *_, readout = model_size.summarize_sizes(
    sized(dip, (1.0, 2.0, 1.0), (0.8, 0.5, 0.8), seeds=1)
  )[1]
  assert readout.endswith("which of the two causes the dip cannot be told.")
  further, (fitted, fall) = model_size.summarize_sizes(
    sized((0.7, nan, 1.0), (1.0, 2.0, 1.0), (0.8, 0.5, 0.8))
  )
  assert math.isnan(further[0]["value"])
  assert "fitted cannot be told: accuracies are missing" in fitted
  assert "falls with size cannot be told: accuracies are missing" in fall


@pytest.mark.parametrize(("num_permuted", "width"), [(10, 4), (90, 8)])
def test_each_label_counts_once_towards_interpolation(num_permuted, width):
  """Of .95 of the permuted labels, and all others, 99.5% are fitted or 95.5."""
  rows = sized((1.0, 1.0, 1.0), (1.0,) * 3, (0.8,) * 3)
  counts = {"num_permuted": num_permuted, "num_unpermuted": 100 - num_permuted}
  for row in rows:
    row["value"] = counts.get(row["metric"], row["value"])
  for row in rows.where("accuracy", subset="unpermuted"):
    fitted = {2: 0.5, 4: 0.95, 8: 1.0}[row["width"]]
    rows.append(row | {"subset": "permuted", "value": fitted})
  assert model_size.threshold(model_size.Sizes(rows)) == width


def test_sizes_name_their_own_layers_in_doubt():
  rows = runs.Rows()
  for width, converged in ((2, 1.0), (4, 0.9)):
    at = {"width": width, "seed": 0}
    facts = {"best_epoch": 1, "last_epoch": 1, "num_parameters": width}
    facts |= {"num_unpermuted": 10, "num_permuted": 0}
    rows += [at | {"metric": m, "value": v} for m, v in facts.items()]
    at |= {"epoch": 1, "metric": "accuracy", "value": 0.5}
    rows += [at | {"subset": subset} for subset in ("unpermuted", "test")]
    at |= {"layer": "fc1", "layer_index": 1, "subset": "test"}
    numbers = {"capacity": 0.1, "converged": converged}
    rows += [at | {"metric": m, "value": v} for m, v in numbers.items()]
  empty = dict.fromkeys((*runs.COLUMNS, "width"))
  rows = runs.Rows(empty | row for row in rows)
  _, (doubt, *_) = model_size.summarize_sizes(rows)
  assert doubt.startswith("width 4: Not to be believed: 1 of 1 layers")


def test_whose_the_dip_is_needs_more_than_its_error():
  """A readout that loses .1 ± .1 where test accuracy falls by .2."""

  class KnownSizes(model_size.Sizes):
    layer = "fc1"

    def at(self, which, metric, subset):
      del which, subset
      if metric == "accuracy":
        return np.array([[0.7, 0.7], [0.5, 0.5]])
      return np.array([[0.8, 0.8], [0.8, 0.6]])

  sentence = model_size._readout_sentence(
    KnownSizes.__new__(KnownSizes), model_size.Dip(0, 1, 0.2, 0.0, 0.1, 0.0)
  )
  assert sentence.endswith(
    "loses 0.100 ± 0.100: which of the two causes the dip cannot be told."
  )


def test_whose_the_dip_is_needs_a_fall_beyond_its_error():
  """Test accuracy falls by .2 and .6; the new readout loses .05 of each."""

  class KnownSizes(model_size.Sizes):
    layer = "fc1"

    def at(self, which, metric, subset):
      del which, subset
      if metric == "accuracy":
        return np.array([[0.7, 0.7], [0.5, 0.1]])
      return np.array([[0.8, 0.8], [0.75, 0.75]])

  sentence = model_size._readout_sentence(
    KnownSizes.__new__(KnownSizes), model_size.Dip(0, 1, 0.4, 0.2, 0.1, 0.0)
  )
  assert "falls by 0.400 ± 0.200, a new" in sentence
  assert sentence.endswith(": which of the two causes the dip cannot be told.")


def test_of_one_width_nothing_is_said_about_size():
  rows = sized((0.7,) * 3, (1.0,) * 3, (0.8,) * 3)
  assert "never falls" in model_size.summarize_sizes(rows)[1][-1]
  # Seeds in another order have a mean that differs by rounding.
  same = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
  assert same[0].mean() > same[1].mean()
  assert model_size.find_dip(same) is None
  (fitted,) = model_size.summarize_sizes(rows.where(width=2))[1]
  assert "No network fits" in fitted


def test_geometry_of_sizes_says_where_other_directions_were_removed():
  rows = sized((0.7, 0.4, 0.8), (1.0, 2.0, 1.0), (0.8,) * 3)
  for row in rows.where("radius"):  # K is 2, but for one seed of the dip.
    K = 1 if (row["width"], row["seed"], row["epoch"]) == (4, 1, 3) else 2
    rows.append(row | {"metric": "rank", "value": K})
  said = model_size.summarize_sizes(rows)[1][2]
  assert "in the dip (of other K in 1 of 2 seeds), +2.000" in said
  assert said.count("other K") == 1


def test_an_error_of_one_host_ends_the_sweep_of_several(tmp_path, monkeypatch):
  """The others wait for this host, and not in the next cell."""

  def fail(_):
    raise errors.pop(0)

  hosts = types.SimpleNamespace(process_count=lambda: 2)
  monkeypatch.setattr(sweep, "jax", hosts)
  monkeypatch.setattr(sweep, "Memorization", fail)
  fail.name = studies.Memorization.name
  cells = sweep_of().cells(tmp_path)[:1] * 3
  errors = [runs.RunError("all"), ValueError("all"), OSError("one")]
  bar = study.silent(total=len(cells))
  with pytest.raises(OSError, match="one"):
    sweep._do_cells(cells, bar, study.silent, study.unwatched)
  assert not errors
  # In the work, one host alone may read a damaged image.
  monkeypatch.setattr(sweep, "Memorization", lambda config: config)
  monkeypatch.setattr(sweep, "run", lambda *_, **__: fail(None))
  errors[:] = [training.NonFiniteLossError("all"), ValueError("one")]
  with pytest.raises(ValueError, match="one"):
    sweep._do_cells(cells[:2], bar, study.silent, study.unwatched)
  assert not errors
