"""Finished training runs, which other studies start from."""

import functools
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsIndex

from geomem import runs, training
from geomem.studies.config import ExperimentConfig
from geomem.studies.experiment import Experiment, Seed, prepare, prepare_seeds
from geomem.studies.fields import sequence
from geomem.studies.finding import doubts
from geomem.studies.study import Stage, Step, Unit, at_once

_LOG = logging.getLogger(__name__)


def checkpoints(
  path: pathlib.Path | str, seed: SupportsIndex, *, must_exist: bool = False
) -> training.Checkpoints:
  """Opens the saved networks of one seed of a run, by epoch."""
  directory = pathlib.Path(path) / "checkpoints" / f"seed{seed}"
  return training.Checkpoints(directory, must_exist=must_exist)


class TrainedRun:
  """A finished training run.

  Attributes:
    path: its directory.
    data_dir: directory of the data, as given; None if they did not move.
    experiment: data, network and recipe.
    rows: its rows.
    seeds: labels, subsets and manifolds of each seed.
  """

  def __init__(self, path: pathlib.Path | str, data_dir: str | None = None):
    """Opens a run, from the config in its directory.

    Args:
      path: the run directory.
      data_dir: directory of the data, if they were moved.

    Raises:
      RunError: the directory is not a training run, its training has not ended,
        or the data have changed.
    """
    self.path, self.data_dir = pathlib.Path(path), data_dir
    content = runs.read_content(path)
    config = _config_of(self.path, content["config"])
    self.rows = runs.read_rows(path)
    # Only copies with rounded networks have this entry.
    self._dtype = content.get("networks")
    if self._dtype:
      _LOG.warning(
        "The networks in %s are a copy that was rounded to %s: results from"
        " them differ from those of the original run.",
        self.path,
        self._dtype,
      )
    self._best = self.rows.fact("best_epoch")
    self._last = self.rows.fact("last_epoch")
    for seed in config.training.seeds:
      if seed not in self._last:
        raise runs.RunError(
          f"The run in {path} is not finished: the training of seed {seed} has"
          " not ended. Repeat the run's own command first."
        )
    if data_dir is not None:
      config = config.replace(data_dir=data_dir)
    self.experiment: Experiment = prepare(config)
    trained_on = (content.get("origin") or {}).get("data")
    if trained_on and trained_on != self.experiment.fingerprint:
      raise runs.RunError(
        f"The run in {path} was trained on data with the fingerprint"
        f" {trained_on}; the present data have {self.experiment.fingerprint}."
        " Restore the data, or give their directory with --data_dir."
      )

  @functools.cached_property
  def seeds(self) -> list[Seed]:
    """Labels, subsets and manifolds of each seed.

    Raises:
      RunError: the labels differ from those that the run was trained on.
    """
    return prepare_seeds(self.experiment, self.path)

  @property
  def origin(self) -> dict[str, Any]:
    """The origin of runs that are derived from this one."""
    origin = runs.parent_of(self.path).as_origin()
    return origin | ({"networks": self._dtype} if self._dtype else {})

  def best(self, seed: SupportsIndex) -> int:
    """Returns the epoch of a seed with the best test accuracy."""
    return self._of_seed(self._best, seed)

  def last(self, seed: SupportsIndex) -> int:
    """Returns the last epoch of a seed."""
    return self._of_seed(self._last, seed)

  def _of_seed(self, facts: dict[int, int], seed: SupportsIndex) -> int:
    if seed not in facts:
      raise runs.RunError(
        f"There is no seed {seed!r} in {self.path}; there are"
        f" {', '.join(map(str, facts))}."
      )
    return facts[seed]

  def epochs(self, seed: SupportsIndex) -> list[int]:
    """Lists the epochs of a seed whose networks are saved.

    A warning names the networks that were scored but are missing.
    """
    with checkpoints(self.path, seed, must_exist=True) as saved:
      epochs = [epoch for epoch in saved.epochs if epoch <= self.last(seed)]
    scored = self.rows.where("accuracy", seed=seed).distinct("epoch")
    missing = sorted(set(scored) - set(epochs))
    if missing:
      _LOG.warning(
        "The networks of epochs %s of seed %d are missing in %s; left out.",
        ", ".join(map(str, missing)),
        seed,
        self.path / "checkpoints",
      )
    return epochs

  def check_networks(self, *which: str, seeds: Sequence[Seed] = ()) -> None:
    """Checks that networks without which a study cannot be are saved.

    Args:
      *which: `best` or `last`.
      seeds: the seeds that it needs; all by default.

    Raises:
      RunError: a network is missing; names its epoch.
    """
    for word, seed in itertools.product(which, seeds or self.seeds):
      epoch, number = getattr(self, word)(seed.number), seed.number
      with checkpoints(self.path, number, must_exist=True) as saved:
        there = saved.epochs
      if epoch not in there:
        raise runs.RunError(
          f"The network of the {word} epoch, {epoch}, of seed {number} is"
          f" missing in {self.path}, which holds those of epochs"
          f" {', '.join(map(str, there))}. Give the original of this copy, or"
          " train the run again."
        )

  def state(
    self, seed: SupportsIndex, epoch: SupportsIndex, layers: Any = None
  ) -> dict[str, Any]:
    """Loads the network of a seed at an epoch.

    Args:
      seed: the seed.
      epoch: one of `epochs`.
      layers: names of the layers to load; all by default.

    Raises:
      CheckpointError: the checkpoint is missing or damaged.
      ValueError: a layer has no state.
    """
    like = self.experiment.network.abstract_state
    with checkpoints(self.path, seed, must_exist=True) as saved:
      if layers is None:
        return saved.load(epoch, like)
      chosen = sequence("layers", layers)
      for name in chosen:
        if name not in like:
          raise ValueError(
            f"Layer {name!r} has no state; choose from {', '.join(like)}."
          )
      return saved.load_layers(epoch, {name: like[name] for name in chosen})

  def recovered(self, seed: int, scores: list[runs.Row]) -> list[runs.Row]:
    """Computes the share of the lost test accuracy that a change gives back.

    It is (changed - last) / (best - last). Without a loss there is no row. Its
    error is that of the changed accuracy alone: best and last count as exact.

    Args:
      seed: the seed.
      scores: the scores of its changed last network.
    """
    tested = self.rows.where("accuracy", subset="test", seed=seed)
    best, last = (
      tested.where(epoch=epoch).values[0]
      for epoch in (self.best(seed), self.last(seed))
    )
    if best == last:
      return []
    (changed,) = runs.Rows(scores).where("accuracy", subset="test")
    value, error = changed["value"], changed["stderr"]
    share = {
      "metric": "recovered",
      "value": (value - last) / (best - last),
      "stderr": None if error is None else error / abs(best - last),
    }
    return [changed | share]


def _config_of(path: pathlib.Path, fields: dict[str, Any]) -> ExperimentConfig:
  """Reads and validates the config of a training run."""
  fields = dict(fields)
  kind = fields.pop("experiment", None)
  if kind != "memorization":
    raise runs.RunError(
      f"{path} does not hold a run of memorization; its config has the fields"
      f" {sorted(fields)}."
    )
  try:
    return ExperimentConfig.from_dict(fields)
  except ValueError as error:
    raise runs.RunError(
      f"{path / 'config.json'} was changed: {error} Restore it."
    ) from error


class OfRun:
  """A study of a finished run, stored in a directory below it.

  Attributes:
    name: the name of the study and of its directory.
    needs_run: whether there must be a run.
    copied: metrics of networks that it copies from the run; all facts if none.
    config: the settings of the study.
    trained: the finished run.
  """

  name: str
  needs_run = True
  copied: tuple[str, ...] = ()

  def __init__(self, config: Any, trained: TrainedRun | None):
    """Stores both; subclasses reject invalid settings."""
    self.config, self.trained = config, trained
    self.origin = trained.origin if trained else None
    above = trained.path if trained else pathlib.Path("runs")
    self.directory = above / self.name

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as stored in a run directory."""
    return {"experiment": self.name} | vars(self.config)

  def saved_epochs(self) -> dict[int, list[int]]:
    """Lists the epochs whose networks are saved, by seed."""
    return {s.number: self.trained.epochs(s.number) for s in self.trained.seeds}

  def facts(self) -> runs.Rows:
    """Returns the rows of the run to copy beside the study's own."""
    rows = self.trained.rows.where(layer=None)
    return rows.where(self.copied) if self.copied else rows.where(epoch=None)

  def facts_stage(self, **seed: int) -> Stage:
    """Makes the stage that copies `facts`, all or of a seed, without a bar."""
    key = {"stage": "facts"} | seed
    return Stage("", [at_once(key, lambda: self.facts().where(**seed))])

  def stage_of(
    self,
    seed: Seed,
    name: str,
    work: Callable[[Seed, Any], Iterator[Step]],
    size: int = 1,
    title: str | None = None,
    **places: Sequence[Any],
  ) -> Stage:
    """Makes a seed's stage, whose units do `work` at each place of a column."""
    ((column, values),) = places.items()
    units = [
      Unit(
        {"stage": name, "seed": seed.number, column: value},
        functools.partial(work, seed, value),
        size,
      )
      for value in values
    ]
    return Stage(f"{title or name}, seed {seed.number}", units)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> Sequence[Any]:
    """Returns the doubts about the rows."""
    return doubts(rows)

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns an empty string: the study has no table."""
    return ""
