"""All studies, by the `experiment` entry of their configs.

To add a study, write its module and add a line here. Figures and findings of a
run directory are those of the study that wrote it.
"""

import inspect
import pathlib
from typing import Any

from geomem import plots, runs
from geomem.studies.capacity import Capacity
from geomem.studies.gradients import Gradients
from geomem.studies.measure import Measuring
from geomem.studies.memorization import Memorization
from geomem.studies.model_size import ModelSize
from geomem.studies.noise import MemorizationSweep
from geomem.studies.paper import Paper
from geomem.studies.readout import Readout
from geomem.studies.rewind import LayerRewind
from geomem.studies.similarity import Similarity
from geomem.studies.task_capacity import TaskCapacity
from geomem.studies.truncate import Truncate

STUDIES = {
  "capacity": Capacity,
  "gradients": Gradients,
  "measure": Measuring,
  "memorization": Memorization,
  "memorization_sweep": MemorizationSweep,
  "model_size": ModelSize,
  "paper": Paper,
  "readout": Readout,
  "rewind": LayerRewind,
  "similarity": Similarity,
  "task_capacity": TaskCapacity,
  "truncate": Truncate,
}


def study_of(path: pathlib.Path | str) -> Any:
  """Returns the study whose run a directory holds.

  Raises:
    RunError: the directory holds no run, or that of an unknown study.
  """
  name = runs.read_config(path).get("experiment", "memorization")
  if name not in STUDIES:
    raise runs.RunError(
      f"{path} holds a run of the experiment {name!r}, which is not known;"
      f" there are {', '.join(STUDIES)}."
    )
  return STUDIES[name]


def draw(
  path: pathlib.Path | str,
  out: pathlib.Path | str | None = None,
  *,
  study: Any = None,
) -> list[pathlib.Path]:
  """Draws every figure for which the rows of a run directory have values.

  Args:
    path: the run directory.
    out: directory in which to create `figures`; the run directory by default.
    study: whose figures to draw; by default the known study of the run.

  Returns:
    The paths of the files.
  """
  target = pathlib.Path(path if out is None else out) / "figures"
  rows = runs.read_rows(path)
  written = []
  study = study_of(path) if study is None else study
  for name, draw_one in study.figures.items():
    figure = draw_one(rows)
    if figure is not None:
      written += plots.save_figure(figure, target / name)
  return written


def findings(path: pathlib.Path | str) -> list[str]:
  """Returns the findings of a complete run directory as sentences."""
  config, rows = runs.read_config(path), runs.read_rows(path)
  return [str(finding) for finding in study_of(path).findings(config, rows)]


def takes_a_run(study: type) -> bool:
  """Tells whether a study takes a finished run, given as a `TrainedRun`."""
  return "trained" in inspect.signature(study.__init__).parameters
