"""Uses of the binaries that no test had: each gave a wrong number or worse."""

import errno
import json
import pathlib

import jax
import jaxtyping
import numpy as np
import pytest

from benchmarks.benchmark import Benchmark, BenchmarkConfig
from experiments import cli, log
from geomem import data, geometry, parallel, plots, runs, studies, training
from geomem.studies.fields import sequence
from geomem.studies.memorization import Memorization
from geomem.studies.packing import pack
from geomem.studies.similarity import Similarity, SimilarityConfig
from geomem.studies.truncate import Truncate, TruncateConfig
from tests.fakes import SMALL_RUN, curve, fields_of, write_run

CHEAP = SMALL_RUN | {"num_seeds": 1, "layers": "last", "epochs": 1}
KEY = jax.random.key(0)
M = CHEAP["manifold_points"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  path = tmp_path_factory.mktemp("misuse") / "run"
  studies.run(Memorization(studies.make_config(**CHEAP)), path)
  return path


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_chance_is_that_of_the_studys_own_margin(finished, kappa):
  config = studies.MeasuringConfig(
    kappa=kappa, num_probes=10, layers="last", measure_epochs="last"
  )
  study = studies.Measuring(config, studies.TrainedRun(finished))
  rows = studies.run(study, finished / f"kappa{kappa}")
  expected = float(geometry.simplex_capacity(M, kappa))
  assert rows.chance_capacity() == expected
  of_run = runs.read_rows(finished).chance_capacity()
  assert of_run == pytest.approx(2 / M, rel=1e-4)
  assert (expected == of_run) == (kappa == 0)


def test_the_benchmark_is_drawn_and_ends(tmp_path, monkeypatch):
  monkeypatch.setattr(Benchmark, "stages", lambda self, run: iter(()))
  table = staticmethod(lambda rows: "the table")
  monkeypatch.setattr(Benchmark, "table", table)
  monkeypatch.setattr(cli, "watched", studies.study.unwatched)
  study = Benchmark(BenchmarkConfig(sizes=(3,), kappas=(0.0,), layer=False))
  for _ in range(2):
    assert cli.do(study, tmp_path / "benchmark") == 0
  assert runs.is_complete(tmp_path / "benchmark")


def test_memory_that_runs_out_in_a_sweep_is_a_sentence(
  tmp_path, monkeypatch, capsys
):
  swept = studies.memorization_sweep({"permuted_fraction": [0.5]}, **SMALL_RUN)
  (cell,) = swept.cells(tmp_path)
  error = RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 5.0GiB")
  failures = [studies.sweep.Failure(cell, error)]
  monkeypatch.setattr(studies, "run_sweep", lambda *_, **__: failures)
  assert cli.do_sweep(swept, tmp_path) == 1
  told = capsys.readouterr().err
  assert f"Failed: {cell.path}: Memory ran out where 5.0GiB" in told
  assert "RESOURCE_EXHAUSTED" not in told


@pytest.fixture
def as_a_user():
  """Turns off the checks of types, which only tests have."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_a_user")
def test_numbers_of_numpy_are_stored_like_pythons_own(tmp_path):
  given = {"epochs": np.int64(3), "width": np.int32(4), "kappa": np.float64(1)}
  given |= {"learning_rate": np.float64(0.5), "flip": np.bool_(True)}
  config = studies.make_config(permuted_fraction=np.float32(0.25), **given)
  plain = {name: value.item() for name, value in given.items()}
  expected = studies.make_config(permuted_fraction=0.25, **plain)
  assert json.dumps(config.as_dict()) == json.dumps(expected.as_dict())
  rewind = studies.RewindConfig(epochs=np.arange(2), kinds=["single"])
  assert json.dumps(vars(rewind))
  assert rewind == studies.RewindConfig(epochs=(0, 1), kinds=("single",))
  axes = {"width": [np.int64(4)]}
  with runs.Run(tmp_path, studies.memorization_sweep(axes).as_dict()):
    (cell,) = studies.memorization_sweep(axes).cells(tmp_path)
  assert json.dumps(cell.as_dict())


@pytest.mark.parametrize(
  "one",
  [
    lambda: studies.RewindConfig(layers="fc1"),
    lambda: studies.RewindConfig(kinds="single"),
    lambda: studies.RewindConfig(epochs="best"),
    lambda: studies.RewindConfig(epochs=3),
    lambda: TruncateConfig(dimensions=4),
    lambda: BenchmarkConfig(sizes=3),
    lambda: studies.memorization_sweep({"model": "mlp"}),
    lambda: studies.model_size_sweep("64"),
    lambda: studies.model_size_sweep(width=64),
    lambda: sequence("width", 4),
    lambda: sequence("width", np.array(4)),
    lambda: runs.read_runs("r1", fields="width"),
  ],
)
@pytest.mark.usefixtures("as_a_user")
def test_one_value_is_not_taken_for_several(one):
  with pytest.raises(ValueError, match=r"is .*; a sequence of .* was expected"):
    one()


@pytest.mark.parametrize("axes", [{}, {"width": []}])
def test_a_sweep_has_values(axes):
  with pytest.raises(ValueError, match="at least one field with at least one"):
    studies.memorization_sweep(axes)


def test_presets_are_of_studies_that_exist():
  sentence = "'tiny_vgg16' has no presets; choose one of memorization, model"
  with pytest.raises(ValueError, match=sentence):
    studies.make_config("tiny_vgg16")


def test_seeds_epochs_and_layers_of_a_finished_run(finished):
  trained = studies.TrainedRun(finished)
  for ask in (trained.best, trained.last):
    assert ask(np.int64(0)) == ask(0)
    with pytest.raises(runs.RunError, match=r"no seed 7 in .*; there are 0\."):
      ask(7)
  state = trained.state(np.int64(0), np.int64(1), ["logits"])
  assert list(state) == ["logits"]
  with pytest.raises(ValueError, match="a sequence of values was expected"):
    trained.state(0, 1, "logits")
  with pytest.raises(ValueError, match="'fc9' has no state; choose from"):
    trained.state(0, 1, ["fc9"])


@pytest.mark.parametrize("labels", ["file:own.npy", "cifar_n:noisy_label"])
def test_labels_that_bring_their_fraction_get_no_other(labels):
  with pytest.raises(ValueError, match="have their own fraction"):
    studies.make_config(labels=labels, permuted_fraction=0.9)
  with pytest.raises(ValueError, match="have their own fraction"):
    studies.memorization_sweep({"permuted_fraction": [0.2, 0.9]}, labels=labels)
  # The fraction of a preset or a default is not theirs, and is not recorded.
  config = studies.make_config(labels=labels, preset="tiny_vgg16")
  assert config.data.permuted_fraction is None
  again = studies.ExperimentConfig.from_dict(config.as_dict())
  assert again == config == config.replace(epochs=config.training.epochs)


@pytest.mark.parametrize("beyond", [2**32, 5 * 2**32])
def test_labels_do_not_wrap_around(tmp_path, beyond):
  dataset = data.load("digits", "train")
  size = dataset.ids.max() + 1
  np.save(tmp_path / "own.npy", np.zeros(size, np.int64) + beyond)
  with pytest.raises(data.DatasetError, match=f"labels from {beyond}"):
    data.make_labels(f"file:{tmp_path / 'own.npy'}", KEY, dataset, None)


def test_a_text_file_is_not_called_a_pickle(tmp_path):
  (tmp_path / "own.txt").write_text("0 1 2")
  dataset = data.load("digits", "train")
  with pytest.raises(data.DatasetError) as caught:
    data.make_labels(f"file:{tmp_path / 'own.txt'}", KEY, dataset, None)
  assert "pickle" not in str(caught.value)


def test_subsets_that_are_empty_are_refused_before_any_work():
  fields = SMALL_RUN | {"permuted_fraction": 0.0, "subsets": "permuted"}
  sentence = "there are none of these examples, but unpermuted, test"
  with pytest.raises(ValueError, match=sentence):
    studies.Memorization(studies.make_config(**fields))


def test_more_directions_than_there_are_are_refused_before_any_work(finished):
  config = studies.MeasuringConfig(centers="7")
  with pytest.raises(ValueError, match="cannot be removed from 3 manifolds"):
    studies.Measuring(config, studies.TrainedRun(finished))


def test_geometry_of_rewinds_with_other_statistics_is_refused(finished):
  config = studies.RewindConfig(geometry=True, batch_norm="parameters")
  with pytest.raises(ValueError, match="statistics are rewound together"):
    studies.LayerRewind(config, studies.TrainedRun(finished))


def test_a_stored_config_that_lacks_a_field_is_named():
  config = studies.make_config(**SMALL_RUN).as_dict()
  del config["training"]["learning_rate"]
  with pytest.raises(ValueError, match="'training' has no 'learning_rate'"):
    studies.ExperimentConfig.from_dict(config)


def test_one_class_is_refused_before_any_work(tmp_path):
  images = np.zeros((6, 4, 4), np.uint8)
  arrays = {f"x_{split}": images for split in ("train", "test")}
  arrays |= {f"y_{split}": np.zeros(6, int) for split in ("train", "test")}
  np.savez(tmp_path / "one.npz", **arrays)
  fields = CHEAP | {"num_classes": None, "dataset": f"npz:{tmp_path}/one.npz"}
  with pytest.raises(data.DatasetError, match="has 1 class; at least two"):
    studies.prepare(studies.make_config(**fields))


def rows_of(values, stderr=None):
  """Rows of three layers at two epochs, all of one value a layer."""
  facts = {"best_epoch": 0, "last_epoch": 1, "manifold_points": 10}
  facts["chance_capacity"] = 0.2
  rows = [{"seed": 0, "metric": m, "value": v} for m, v in facts.items()]
  for epoch in (0, 1):
    at = {"seed": 0, "epoch": epoch, "subset": "test", "stderr": stderr}
    rows.append(at | {"metric": "accuracy", "value": 0.5})
    for i, layer in enumerate(("input", "fc1", "logits")):
      place = at | {"layer": layer, "layer_index": i}
      for metric in ("capacity", "radius", "dimension"):
        rows.append(place | {"metric": metric, "value": values[i]})
  return runs.Rows(dict.fromkeys(runs.COLUMNS) | row for row in rows)


@pytest.mark.parametrize(
  ("values", "stderr"),
  [
    ((np.nan, np.nan, np.nan), np.nan),
    ((0.0, 0.0, 0.0), 0.0),
    ((0.3, 0.4, 0.5), np.nan),
  ],
)
def test_what_is_not_finite_leaves_a_panel_empty(tmp_path, values, stderr):
  rows = rows_of(values, stderr)
  figures = {name: draw(rows) for name, draw in plots.MEMORIZATION.items()}
  assert figures.pop("loss") is None
  for name, figure in figures.items():
    (file,) = plots.save_figure(figure, tmp_path / name, suffixes=(".png",))
    assert file.stat().st_size
  np.testing.assert_array_equal(
    curve(*figures["accuracy"].axes, "test"), [[0, 1], [0.5, 0.5]]
  )
  axes = figures["geometry_by_layer"].axes
  assert len(axes) == 6
  for ax in axes:
    np.testing.assert_array_equal(curve(ax, "test"), [[0, 1, 2], values])
  (image,) = figures["capacity_by_epoch"].axes[0].get_images()
  drawn = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
  # On its scale there is no place for zero.
  over = [value / 0.2 if value > 0 else np.nan for value in values]
  np.testing.assert_allclose(drawn, np.transpose([over, over]))


def test_a_run_that_was_stopped_in_training_is_drawn(tmp_path):
  scored = runs.Rows(
    row
    for row in rows_of((0.3, 0.4, 0.5))
    if row["metric"] == "accuracy" or row["epoch"] is None
  ).where(metric="accuracy")
  config = fields_of(studies.make_config())
  write_run(tmp_path / "run", config, scored, done=False)
  (drawn,) = {path.stem for path in studies.draw(tmp_path / "run")}
  assert drawn == "accuracy"


def test_the_table_names_epochs_that_there_are():
  rows = rows_of((0.3, 0.4, 0.5), 0.1)
  other = runs.Rows(row | {"seed": 1} for row in rows)
  for row in other.where("best_epoch"):
    row["value"] = 1
  lines = Memorization.table(runs.Rows(rows + other)).splitlines()
  assert [line.split()[1] for line in lines[1:]] == ["0-1", "1"]


def test_packs_follow_links_and_not_without_end(finished, tmp_path):
  run = tmp_path / "run"
  pack(finished, run)
  study = run / "rewind"
  trained = studies.TrainedRun(run)
  studies.run(studies.LayerRewind(studies.RewindConfig(), trained), study)
  elsewhere = tmp_path / "scratch"
  study.rename(elsewhere)
  study.symlink_to(elsewhere)
  (elsewhere / "back").symlink_to(run)
  pack(run, tmp_path / "small", networks="none")
  copied = tmp_path / "small" / "rewind"
  assert runs.read_rows(copied) == runs.read_rows(elsewhere)
  assert not copied.is_symlink()
  assert not (copied / "back").exists()


def test_networks_that_are_not_saved_are_not_packed(finished, tmp_path):
  with pytest.raises(ValueError, match="Epoch 4 of networks is not saved"):
    pack(finished, tmp_path / "small", networks="4")
  assert not (tmp_path / "small").exists()


def test_fields_that_do_not_apply_are_refused(finished):
  trained = studies.TrainedRun(finished)
  with pytest.raises(ValueError, match="num_manifolds is 99, but it applies"):
    studies.Capacity(studies.CapacityConfig(num_manifolds=99), trained)
  with pytest.raises(ValueError, match="epochs is last, but it applies to"):
    studies.Capacity(studies.CapacityConfig(epochs="last"))


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan")])
def test_a_momentum_that_diverges_is_refused(momentum):
  with pytest.raises(ValueError, match="momentum is"):
    training.TrainingConfig(momentum=momentum)


def sentence_about(function, *arguments, **options) -> str | None:
  try:
    function(*arguments, **options)
  except ValueError as error:
    return log.sentence(error)
  raise AssertionError("An error was expected.")


def test_whether_figures_are_there_is_asked_of_one_process(
  finished, monkeypatch
):
  """All processes make the same calls, whatever each sees on its disk."""
  study = Memorization(studies.make_config(**CHEAP))
  asked, from_first = [], parallel.from_first

  def counted(function):
    asked.append(function)
    return from_first(function)

  monkeypatch.setattr(parallel, "from_first", counted)
  monkeypatch.setattr(studies, "draw", lambda *_, **__: [])
  counts = []
  for make in (lambda place: None, lambda place: place.touch()):
    place = finished / "figures" / "accuracy.png"
    place.parent.mkdir(exist_ok=True)
    make(place)
    asked.clear()
    assert cli.do(study, finished) == 0
    counts.append(len(asked))
  assert counts[0] == counts[1]


def test_what_cannot_be_read_is_not_said_to_be_unwritable():
  error = PermissionError(errno.EACCES, "Permission denied", "results.jsonl")
  said = log.sentence(error)
  assert said == "results.jsonl cannot be read or written: Permission denied."
  full = log.sentence(OSError(errno.ENOSPC, "No space left", "a.npz"))
  assert full.startswith("a.npz cannot be written")


def test_networks_that_a_copy_lacks_are_refused_before_work(finished, tmp_path):
  copy = tmp_path / "copy"
  pack(finished, copy, networks="first")
  trained = studies.TrainedRun(copy)
  said = r"network of the last epoch, 1, of seed 0 is missing in .*epochs 0\."
  for make in (
    lambda: studies.Capacity(studies.CapacityConfig(epochs="last"), trained),
    lambda: Truncate(TruncateConfig(), trained),
    lambda: studies.LayerRewind(studies.RewindConfig(), trained),
    lambda: Similarity(SimilarityConfig(other=str(finished)), trained),
    lambda: Similarity(
      SimilarityConfig(other=str(copy)), studies.TrainedRun(finished)
    ),
  ):
    with pytest.raises(runs.RunError, match=said):
      make()
  Similarity(SimilarityConfig(), trained)


def test_the_text_of_a_library_is_no_sentence_of_ours():
  ours = sentence_about(geometry.detectable_difference, 1.0, num_samples=0)
  assert ours.startswith("num_samples is 0")
  # From C code, and from Python.
  assert sentence_about(np.zeros(2).reshape, 3) is None
  assert sentence_about(np.broadcast_shapes, (2,), (3,)) is None
  assert sentence_about(np.linalg.multi_dot, [np.eye(2)]) is None
  # Python's own libraries have texts, too.
  assert sentence_about(pathlib.Path("a").relative_to, "b") is None
