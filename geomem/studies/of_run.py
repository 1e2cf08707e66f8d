"""What studies of a finished run have in common."""

from typing import Any

from geomem import runs
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import TrainedRun


class OfRun:
  """A study of a finished run: where it goes, and what it takes over.

  Attributes:
    name: of the study; its runs lie in a directory of that name.
    config: what it is made of.
    trained: the run that it is about.
  """

  name: str

  def __init__(self, config: Any, trained: TrainedRun):
    """Takes both; what cannot be done is refused by the study itself."""
    self.config = config
    self.trained = trained
    self.origin = trained.origin
    self.directory = trained.path / self.name

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as a run directory keeps it."""
    return {"experiment": self.name} | vars(self.config)

  def saved_epochs(self) -> dict[int, list[int]]:
    """Lists the epochs whose networks are there, by seed."""
    return {s.number: self.trained.epochs(s.number) for s in self.trained.seeds}

  def facts(self) -> runs.Rows:
    """Returns the rows of the run that stand beside the study's own."""
    return self.trained.rows.where(layer=None, epoch=None)

  def facts_stage(self) -> Stage:
    """Makes the stage that takes these rows over, in no time."""
    key = {"stage": "facts"}
    return Stage("", [Unit(key, lambda: iter([Step(self.facts())]))])
