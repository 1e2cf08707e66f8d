"""Finished runs: what others are derived from."""

import dataclasses
import logging
import pathlib
from typing import Any

from geomem import runs
from geomem.analysis.config import ExperimentConfig
from geomem.analysis.experiment import Experiment, prepare
from geomem.analysis.findings import epoch_of
from geomem.analysis.memorization import checkpoints_of

_LOG = logging.getLogger(__name__)


def load_experiment(
  path: pathlib.Path | str, data_dir: str | None = None
) -> Experiment:
  """The experiment of a finished run, from the config in its directory.

  Args:
    path: the run directory.
    data_dir: where the data lie now, if not where they were.

  Raises:
    RunError: the directory is no run of `experiments.memorization`, or its
      training has not come to an end, or the data are others now.
  """
  content = runs.read_content(path)
  config = _run_config(path, content["config"])
  done = {
    r["seed"] for r in runs.read_rows(path) if r["metric"] == "last_epoch"
  }
  for seed in range(config.seed, config.seed + config.num_seeds):
    if seed not in done:
      raise runs.RunError(
        f"The run in {path} is not finished: seed {seed} has not been trained"
        " to its end. Give its own command again first."
      )
  if data_dir is not None:
    config = dataclasses.replace(config, data_dir=data_dir)
  experiment = prepare(config)
  trained_on = (content.get("origin") or {}).get("data")
  if trained_on and trained_on != experiment.fingerprint:
    raise runs.RunError(
      f"The run in {path} was trained on other data (fingerprint {trained_on})"
      f" than are there now ({experiment.fingerprint}). Put them back, or name"
      " where they are with --data_dir."
    )
  return experiment


def _run_config(path, fields: dict[str, Any]) -> ExperimentConfig:
  """The config of a run directory, its fields checked."""
  known = {field.name for field in dataclasses.fields(ExperimentConfig)}
  if not known >= set(fields):
    raise runs.RunError(
      f"{path} holds no run of experiments.memorization; its config has the"
      f" fields {sorted(set(fields) - known)}."
    )
  try:
    return ExperimentConfig(**fields)
  except ValueError as error:
    raise runs.RunError(
      f"{pathlib.Path(path) / 'config.json'} was changed: {error} Put it back."
    ) from error


def saved_epochs(path: pathlib.Path | str, seed: int) -> list[int]:
  """The epochs of a finished run's seed whose networks are there.

  Where some that were saved are not there any more, it says so.
  """
  rows = runs.read_rows(path)
  last = epoch_of(rows, "last", seed)
  with checkpoints_of(path, seed, must_exist=True) as saved:
    epochs = [epoch for epoch in saved.epochs if epoch <= last]
  scored = {
    row["epoch"]
    for row in rows
    if row["seed"] == seed and row["metric"] == "accuracy"
  }
  missing = sorted(scored - set(epochs))
  if missing:
    _LOG.warning(
      "The networks of epochs %s of seed %d are missing in %s; left out.",
      ", ".join(map(str, missing)),
      seed,
      pathlib.Path(path) / "checkpoints",
    )
  return epochs
