"""Presets: the rehearsal of the paper's run, through its binary."""

import json

import numpy as np
import pytest

from experiments.presets import PRESETS
from geomem import analysis, runs
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


@pytest.mark.slow
def test_the_rehearsal_of_the_papers_run(tmp_path):
  write_images(tmp_path / "images.npz")
  done = execute(
    "memorization",
    preset="tiny_vgg16",
    out=tmp_path / "run",
    dataset=f"npz:{tmp_path / 'images.npz'}",
    num_probes=20,
    epochs=1,
    layers="conv5_3,fc2",
    subsets="permuted,test",
  )
  assert done.returncode == 0, done.stderr
  config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
  assert config["width"] == PRESETS["tiny_vgg16"].values["width"]
  assert config["num_probes"] == 20  # Given, so before the preset.
  measured = {
    (row["layer"], row["epoch"], row["subset"])
    for row in runs.read_rows(tmp_path / "run")
    if row["metric"] == "capacity"
  }
  assert len(measured) == 2 * 2 * 2


def test_presets_name_fields_and_those_unknown_are_listed():
  for preset in PRESETS.values():
    kind = {
      "memorization": analysis.ExperimentConfig,
      "model_size": analysis.ModelSizeConfig,
    }[preset.binary]
    kind(**preset.values)
  done = execute("memorization", preset="paper_vgg61")
  assert done.returncode == 2
  assert "choose one of paper_vgg16, paper_vgg16_bn" in done.stderr
