"""The base class of studies of a finished run."""

from typing import Any

from geomem import runs
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import TrainedRun


class OfRun:
  """A study of a finished run, stored in a directory below it.

  Attributes:
    name: the name of the study and of its directory.
    config: the settings of the study.
    trained: the finished run.
  """

  name: str

  def __init__(self, config: Any, trained: TrainedRun):
    """Stores both; subclasses reject invalid settings."""
    self.config = config
    self.trained = trained
    self.origin = trained.origin
    self.directory = trained.path / self.name

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as stored in a run directory."""
    return {"experiment": self.name} | vars(self.config)

  def saved_epochs(self) -> dict[int, list[int]]:
    """Lists the epochs whose networks are saved, by seed."""
    return {s.number: self.trained.epochs(s.number) for s in self.trained.seeds}

  def facts(self) -> runs.Rows:
    """Returns the rows of the run to copy beside the study's own."""
    return self.trained.rows.where(layer=None, epoch=None)

  def facts_stage(self) -> Stage:
    """Makes the stage that copies the rows of `facts`, without a bar."""
    key = {"stage": "facts"}
    return Stage("", [Unit(key, lambda: iter([Step(self.facts())]))])
