"""The figures of the paper as stages, each of them a study."""

import dataclasses
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

from geomem import runs
from geomem.studies.capacity import Capacity
from geomem.studies.gradients import Gradients
from geomem.studies.measure import Measuring
from geomem.studies.measure_config import MeasuringConfig
from geomem.studies.memorization import Memorization
from geomem.studies.model_size import ModelSize, model_size_sweep
from geomem.studies.paper.scales import Scale
from geomem.studies.presets import make_config
from geomem.studies.rewind import LayerRewind
from geomem.studies.trained import TrainedRun


class PaperStage(NamedTuple):
  """Figures of the paper, and the study that they come from.

  Attributes:
    names: of the figures, as `--only` takes them; the first is the stage's.
    study: its class.
    place: its directory, below that of the paper.
  """

  names: tuple[str, ...]
  study: Any
  place: str

  @property
  def name(self) -> str:
    """Its name."""
    return self.names[0]

  @property
  def of_run(self) -> bool:
    """Whether it is about the networks that the first stage trains."""
    return "/" in self.place


STAGES = (
  PaperStage(("fig3", "fig2"), Memorization, "memorization"),
  # Where reports of the run look for them.
  PaperStage(("fig4ab", "fig4"), LayerRewind, "memorization/rewind"),
  PaperStage(("figa1",), Gradients, "memorization/gradients"),
  PaperStage(("fig1b",), Capacity, "memorization/capacity"),
  PaperStage(("fig4ce", "fig4"), ModelSize, "model_size"),
  # Figure 3 at the epochs that no figure needs, if there is time.
  PaperStage(("epochs",), Measuring, "memorization/measure-mean_field"),
)


def choose(only: Sequence[str] = ()) -> list[PaperStage]:
  """Lists the stages of some figures, with the run that they are about.

  Args:
    only: names of figures; all by default.

  Raises:
    ValueError: there is no such figure.
  """
  names = {name for stage in STAGES for name in stage.names}
  known = sorted(names, key=lambda name: (name == "epochs", name))
  unknown = [name for name in only if name not in known]
  if unknown:
    raise ValueError(
      f"--only={','.join(only)} names {unknown[0]!r}, which is no figure;"
      f" choose of {', '.join(known)}."
    )
  chosen = [s for s in STAGES if not only or set(only) & set(s.names)]
  if any(stage.of_run for stage in chosen) and STAGES[0] not in chosen:
    chosen.insert(0, STAGES[0])
  return chosen


def make(
  stage: PaperStage,
  scale: Scale,
  path: pathlib.Path,
  data_dir: str | None = None,
) -> Any:
  """Makes the study of a stage, or the sweep that it is.

  Args:
    stage: which.
    scale: its size.
    path: the directory of the paper.
    data_dir: where TFDS looks.

  Raises:
    ValueError: the data are not there, or the like.
    RunError: the run that it is about is not complete.
  """
  fields = dict(scale.fields.get(stage.study.name, {}))
  if stage.of_run:
    config = typing.get_type_hints(stage.study.__init__)["config"]
    trained = TrainedRun(path / STAGES[0].place, data_dir)
    if stage.study is Measuring:
      own = vars(trained.experiment.config.measure)
      names = [field.name for field in dataclasses.fields(MeasuringConfig)]
      fields |= {name: own[name] for name in names} | {"measure_epochs": "all"}
    return stage.study(config(**fields), trained)
  fields |= {"data_dir": data_dir}
  if stage.study is Memorization:
    place = path / stage.place
    if (place / "config.json").exists():
      # What was begun before there was a choice goes on without one.
      begun = runs.read_config(place).get("measure", {})
      fields["measure_epochs"] = begun.get("measure_epochs")
    return Memorization(make_config(**fields))
  return model_size_sweep(fields.pop("width", ()), **fields)
