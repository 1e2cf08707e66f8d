"""Presets: the rehearsal of the paper's run, through its binary."""

import json

import numpy as np
import pytest

from geomem import runs, studies
from geomem.studies import paper
from tests.binaries import execute


def write_images(path, num_classes=10, each=60):
  """Classes that differ in their mean colour, of CIFAR's form."""
  rng = np.random.default_rng(0)
  colors = rng.integers(60, 200, (num_classes, 1, 1, 1, 3))
  arrays = {}
  for split in ("train", "test"):
    noise = rng.integers(-50, 50, (num_classes, each, 32, 32, 3))
    images = (colors + noise).astype(np.uint8)
    arrays[f"x_{split}"] = images.reshape(-1, 32, 32, 3)
    arrays[f"y_{split}"] = np.repeat(np.arange(num_classes), each)
  np.savez(path, **arrays)


@pytest.mark.long
def test_the_rehearsal_of_the_papers_run(tmp_path):
  write_images(tmp_path / "images.npz")
  done = execute(
    "memorization",
    preset="tiny_vgg16",
    out=tmp_path / "run",
    dataset=f"npz:{tmp_path / 'images.npz'}",
    num_probes=20,
    epochs=1,
    layers="fc2",
    subsets="permuted,test",
  )
  assert done.returncode == 0, done.stderr
  config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
  assert (
    config["model"]["width"] == studies.PRESETS["tiny_vgg16"].values["width"]
  )
  assert config["measure"]["num_probes"] == 20  # Given, so before the preset.
  measured = {
    (row["layer"], row["epoch"], row["subset"])
    for row in runs.read_rows(tmp_path / "run")
    if row["metric"] == "capacity"
  }
  assert len(measured) == 2 * 2


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """Files of ten and of a hundred classes."""
  path = tmp_path_factory.mktemp("images")
  for num_classes in (10, 100):
    write_images(path / f"{num_classes}.npz", num_classes, 52)
  return path


@pytest.mark.parametrize("name", studies.PRESETS)
def test_a_preset_is_what_it_says_and_can_be_prepared(name, images):
  """On images of the right number of classes, in place of those it names."""
  preset = studies.PRESETS[name]
  config = studies.make_config(preset.study, name)
  fields = config.flat()
  for field, value in preset.values.items():
    assert field == "width" or fields[field] == value
  num_classes = 10 if name.startswith(("tiny", "digits")) else 100
  changed = {"dataset": f"npz:{images / f'{num_classes}.npz'}"}
  if config.data.dataset == "digits":
    changed = {}
  if config.data.examples_per_class:
    changed |= {"examples_per_class": 40}
  changed |= {"manifold_points": 2}
  experiment = studies.prepare(config.replace(**changed))
  assert experiment.network.name == config.model.model
  studies.prepare_seed(experiment, 0)


def test_the_papers_run_is_as_it_states():
  """The network, the data, the points and the labels; and our recipe."""
  config = studies.make_config(**paper.SCALES["paper"].fields["memorization"])
  stated = {"model": "vgg16", "dataset": "cifar100", "permuted_fraction": 0.5}
  stated |= {"manifold_points": 50, "num_probes": 300, "num_seeds": 5}
  stated |= {"labels": "permuted", "num_classes": None, "width": None}
  recipe = {"epochs": 40, "batch_size": 128, "optimizer": "adam"}
  recipe |= {"learning_rate": 5e-4, "schedule": "cosine"}
  assert (stated | recipe).items() <= config.flat().items()
  long = studies.make_config(preset="paper_vgg16_long").flat()
  changed = {"epochs": 1000, "optimizer": "sgd", "learning_rate": 0.01}
  changed |= {"schedule": "constant", "momentum": 0.9}
  expected = stated | recipe | changed | {"num_seeds": 1}
  assert {name: long[name] for name in expected} == expected


@pytest.mark.parametrize("name", paper.SCALES)
def test_every_scale_has_fields_that_its_studies_take(name):
  fields = paper.SCALES[name].fields
  configs = {
    "memorization": studies.make_config,
    "rewind": studies.RewindConfig,
    "gradients": studies.GradientConfig,
    "capacity": studies.CapacityConfig,
  }
  assert set(fields) <= {*configs, "model_size"}
  for study, config in configs.items():
    made = config(**fields.get(study, {}))
    made = made.flat() if study == "memorization" else vars(made)
    given = fields.get(study, {}).items()
    assert all(made[k] == v for k, v in given if k != "preset")
  sizes = dict(fields.get("model_size", {}))
  widths = sizes.pop("width", ())
  sweep = studies.model_size_sweep(widths, **sizes)
  assert not widths or tuple(sweep.axes["width"]) == widths


def test_presets_of_a_study_are_listed():
  done = execute("memorization", preset="paper_vgg61")
  assert done.returncode == 2
  assert "paper_vgg16, paper_vgg16_long, paper_vgg16_bn" in done.stderr


def test_what_is_given_goes_before_the_preset_and_that_before_the_recipe():
  config = studies.make_config(preset="paper_vgg16_bn", epochs=7)
  assert config.training.epochs == 7
  assert config.training.learning_rate == 0.001
  assert config.data.dataset == "cifar100"
  assert studies.make_config().model.model == "convnet"
  assert studies.make_config(dataset="cifar10").model.model == "vgg16"
  sweep = studies.model_size_sweep(preset="paper_double_descent")
  assert sweep.axes["width"][0] == 4
  assert sweep.config.training.num_seeds == 5
