"""The stages of the reproduction: studies, and the scales to run them at."""

import dataclasses
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

from geomem import runs
from geomem.studies.capacity import Capacity
from geomem.studies.fields import sequence
from geomem.studies.gradients import Gradients
from geomem.studies.measure import Measuring
from geomem.studies.measure_config import MeasuringConfig
from geomem.studies.memorization import Memorization
from geomem.studies.model_size import ModelSize, model_size_sweep
from geomem.studies.presets import make_config
from geomem.studies.rewind import LayerRewind
from geomem.studies.trained import TrainedRun


class Scale(NamedTuple):
  """The sizes of all stages.

  Attributes:
    text: description of the scale.
    fields: config fields by study; all others have their defaults.
    is_the_papers: whether data and network are those of the paper, so that
      numbers can be compared.
  """

  text: str
  fields: dict[str, dict[str, Any]]
  is_the_papers: bool = False


# Only the epochs that figure 3 shows; a later stage measures the rest.
_FIGURE_3 = {"measure_epochs": "best,last"}

# The stages of the paper with its own networks, data and precision.
_PAPER = {
  "memorization": {"preset": "paper_vgg16", "num_seeds": 5, **_FIGURE_3},
  "model_size": {"preset": "paper_double_descent"},
}
_FEW = {
  "num_classes": 10,
  "examples_per_class": 40,
  "epochs": 2,
  "manifold_points": 5,
  "num_probes": 20,
  "num_seeds": 2,
}
# What makes the paper's stages a rehearsal: sizes alone, so that the same code
# runs on the same data.
_REHEARSED = {
  "memorization": _FEW | {"width": 4},
  "gradients": {"draws": 2},
  "capacity": {"num_draws": 5, "num_probes": 20, "num_shuffles": 1},
  "model_size": _FEW | {"width": (4, 6)},
}

SCALES = {
  "tiny": Scale(
    "two seeds of a small network on 600 digits: shows that all works",
    {
      "memorization": {
        "examples_per_class": 60,
        "epochs": 40,
        "batch_size": 32,
        "manifold_points": 10,
        "num_probes": 50,
        "num_seeds": 2,
        **_FIGURE_3,
      },
      "gradients": {"draws": 5},
      "capacity": {
        "epochs": "last",
        "num_draws": 10,
        "num_probes": 50,
        "num_shuffles": 1,
      },
      "model_size": {
        "width": (8, 16, 128),
        "subsets": "test",
        "num_probes": 50,
        "num_seeds": 2,
      },
    },
  ),
  "laptop": Scale(
    "three seeds of the demo on all digits, and fourteen widths of eight seeds",
    {"memorization": {"num_seeds": 3, **_FIGURE_3}},
  ),
  "rehearsal": Scale(
    "the paper's stages with fewer images, channels, epochs and seeds, before"
    " they go to an accelerator",
    {name: _PAPER.get(name, {}) | few for name, few in _REHEARSED.items()},
  ),
  "paper": Scale(
    "VGG16 and ResNet-18 on CIFAR-100, five seeds each; wants an accelerator",
    _PAPER,
    is_the_papers=True,
  ),
}


class PaperStage(NamedTuple):
  """Figures of the paper, and the study that produces them.

  Attributes:
    names: names of the figures for `--only`; the first is the stage's name.
    study: class of the study.
    place: directory of the stage, below that of the paper.
  """

  names: tuple[str, ...]
  study: Any
  place: str

  @property
  def name(self) -> str:
    """The name of the stage."""
    return self.names[0]

  @property
  def of_run(self) -> bool:
    """Whether it analyses the networks that the first stage trains."""
    return "/" in self.place


STAGES = (
  PaperStage(("fig3", "fig2"), Memorization, "memorization"),
  # Reports of the run look for these studies below its directory.
  PaperStage(("fig4ab", "fig4"), LayerRewind, "memorization/rewind"),
  PaperStage(("figa1",), Gradients, "memorization/gradients"),
  PaperStage(("fig1b",), Capacity, "memorization/capacity"),
  PaperStage(("fig4ce", "fig4"), ModelSize, "model_size"),
  # Measures of figure 3 at the other epochs; last, as no figure needs them.
  PaperStage(("epochs",), Measuring, "memorization/measure-mean_field"),
)


def choose(only: Sequence[str] = ()) -> list[PaperStage]:
  """Lists the stages of some or all figures, with the run that they analyse.

  Raises:
    ValueError: a figure is unknown.
  """
  only = sequence("only", only)
  names = {name for stage in STAGES for name in stage.names}
  known = sorted(names, key=lambda name: (name == "epochs", name))
  unknown = [name for name in only if name not in known]
  if unknown:
    raise ValueError(
      f"--only={','.join(only)} names {unknown[0]!r}, which is not a figure;"
      f" choose from {', '.join(known)}."
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
  """Creates the study or the sweep of a stage, below the paper's directory.

  Raises:
    ValueError: the data are missing, or the config is not feasible.
    RunError: the run that the stage analyses is not complete.
  """
  fields = dict(scale.fields.get(stage.study.name, {}))
  if stage.of_run:
    config = typing.get_type_hints(stage.study.__init__)["config"]
    trained = TrainedRun(path / STAGES[0].place, data_dir)
    if stage.study is Measuring:
      run_fields = vars(trained.experiment.config.measure)
      names = [field.name for field in dataclasses.fields(MeasuringConfig)]
      fields |= {name: run_fields[name] for name in names} | {
        "measure_epochs": "all"
      }
    return stage.study(config(**fields), trained)
  fields |= {"data_dir": data_dir}
  if stage.study is Memorization:
    place = path / stage.place
    if (place / "config.json").exists():
      # A run begun before this field existed resumes without it.
      begun = runs.read_config(place).get("measure", {})
      fields["measure_epochs"] = begun.get("measure_epochs")
    return Memorization(make_config(**fields))
  return model_size_sweep(fields.pop("width", ()), **fields)
