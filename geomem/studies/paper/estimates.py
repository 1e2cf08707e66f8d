"""Estimates of what stages take: their counted work at the device's prices."""

import functools
import json
import os
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from geomem import disk, models, parallel
from geomem.runs import units
from geomem.studies.capacity import CapacityConfig
from geomem.studies.gradients import GradientConfig
from geomem.studies.memorization import Memorization
from geomem.studies.model_size import ModelSize
from geomem.studies.paper import work
from geomem.studies.paper.calibration import calibrate
from geomem.studies.paper.stages import STAGES, PaperStage, Scale, make
from geomem.studies.paper.work import Work
from geomem.studies.rewind import RewindConfig

_FILE = "calibration.json"
# What the kinds of work are called; `steps` are gradients in one stage.
_WORDS = Work(
  *("training", "scores", "geometry", "simulation", "disk"),
  *("compilation", "compilation", "figures", "commits"),
)


def duration(minutes: float | int) -> str:
  """Formats a duration in minutes, hours or days."""
  if minutes < 99.95:
    return f"{minutes:.1f} min"
  hours = minutes / 60
  return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.0f} days"


class Estimate(NamedTuple):
  """The time that a stage takes, by kind of work.

  Attributes:
    seconds: the seconds for each kind.
    units: the number of units that are committed at once.
    is_rough: whether the prices are those of another network.
    steps: what its steps are.
  """

  seconds: Work
  units: float = 1.0
  is_rough: bool = False
  steps: str = "training"

  @property
  def minutes(self) -> float:
    """All kinds together."""
    return sum(self.seconds) / 60

  @property
  def minutes_a_unit(self) -> float:
    """The mean of a unit; what is interrupted within one is repeated."""
    return self.minutes / max(1.0, self.units)

  def __str__(self) -> str:
    parts: dict[str, float] = {}
    words = _WORDS._replace(steps=self.steps)
    for word, seconds in zip(words, self.seconds, strict=True):
      parts[word] = parts.get(word, 0.0) + seconds / 60
    named = [
      f"{minutes / self.minutes:.0%} {word}"
      for word, minutes in sorted(parts.items(), key=lambda part: -part[1])
      if minutes > 0.05 * self.minutes
    ]
    roughly = "roughly" if self.is_rough else "about"
    text = f"{roughly} {duration(self.minutes)}"
    return f"{text}: {', '.join(named)}" if named else text


def device() -> dict[str, Any]:
  """Returns what identifies the device, and the machine since its last start.

  Containers on different machines may have the same name.
  """
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
  return {
    "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
    "machine": platform.node(),
    "boot": boot.read_text().strip() if boot.exists() else None,
    "cores": os.cpu_count(),
    "jax": jax.__version__,
  }


class Estimates:
  """The estimates of a paper's incomplete stages on the device at hand.

  Prices of a device are kept in the paper's directory, for the next start on
  the same device.
  """

  def __init__(
    self,
    stages: Sequence[PaperStage],
    scale: Scale,
    path: pathlib.Path,
    data_dir: str | None = None,
    say: Callable[[str], None] = print,
  ):
    """Loads the data of the stages; nothing is timed yet.

    Raises:
      ValueError: the data are missing, or a config is not feasible.
    """
    self._scale, self._path, self._say = scale, pathlib.Path(path), say
    self._studies: dict[str, Memorization] = {}
    sizes = [stage for stage in stages if stage.study is ModelSize]
    if len(sizes) < len(stages):
      self._studies["run"] = make(STAGES[0], scale, self._path, data_dir)
    if sizes:
      sweep = make(sizes[0], scale, self._path, data_dir)
      self._cells = sweep.cells(self._path / sizes[0].place)
      study = Memorization(self._cells[0].config)
      self._costs = work.relative_cost(
        [cell.config.model.width for cell in self._cells],
        functools.partial(_with_width, study),
      )
      self._studies["sizes"] = _of_average_cost(study, self._costs)

  def of(self, stage: PaperStage, *, exact: bool = True) -> Estimate:
    """Estimates the rest of a stage.

    Args:
      stage: one of the stages.
      exact: whether to time the stage's own network if that was not done yet;
        else the prices of another one do.
    """
    kind = "sizes" if stage.study is ModelSize else "run"
    prices, is_rough = self._prices(kind, exact)
    counted = self._count(stage)
    if sum(counted):
      number = len(stage.study.figures)
      counted = counted._replace(figures=number)
    steps = "gradients" if stage.study.name == "gradients" else "training"
    return Estimate(counted.at(prices), counted.units, is_rough, steps)

  def _count(self, stage: PaperStage) -> Work:
    name, place = stage.study.name, self._path / stage.place
    if stage.study is ModelSize:
      left = [cell for cell in self._cells if not cell.is_done]
      done = {cell.config.model.width: _done(cell.path) for cell in left}
      return work.of_sweep(self._studies["sizes"], self._costs, done)
    study, done = self._studies["run"], _done(place)
    fields = self._scale.fields.get(name, {})
    if name == "rewind":
      return work.of_rewinds(study, RewindConfig(**fields), done)
    if name == "gradients":
      return work.of_gradients(study, GradientConfig(**fields), done)
    if name == "capacity":
      return work.of_simulations(study, CapacityConfig(**fields), done)
    if name == "measure":
      return work.of_other_epochs(study, done)
    return work.of_training(study, done)

  def _prices(self, kind: str, exact: bool) -> tuple[Work, bool]:
    """Returns the prices of a run's work, and whether they are another's."""
    study = self._studies[kind]
    if known := self._read(kind):
      return known, False
    other = self._studies.get("run")
    if kind == "sizes" and not exact and other is not None:
      return _converted(self._prices("run", exact)[0], other, study), True
    of = study.experiment.network.name
    self._say(f"Timing the device ({device()['devices']}) with {of}.")
    prices = calibrate(study, self._path)
    parallel.from_first(lambda: self._write(kind, prices))
    return prices, False

  def _content(self) -> dict[str, Any]:
    """Reads what is known of this device."""
    file, here = self._path / _FILE, {"device": device()}
    try:
      content = json.loads(file.read_text("utf-8"))
      is_of_here = content["device"] == here["device"]
    except (OSError, ValueError, KeyError, TypeError):  # Missing or damaged.
      return here
    return content if is_of_here else here

  def _read(self, kind: str) -> Work | None:
    def read() -> Work | None:
      try:
        entry = self._content()[kind]
        prices = Work(*(float(entry["seconds"][k]) for k in Work._fields))
        is_valid = entry["config"] == self._config(kind)
      except (KeyError, TypeError, ValueError):  # Missing or damaged.
        return None
      return prices if is_valid and min(prices) >= 0 else None

    return parallel.from_first(read)

  def _write(self, kind: str, prices: Work) -> None:
    entry = {"config": self._config(kind), "seconds": prices._asdict()}
    content = json.dumps(self._content() | {kind: entry}, indent=2)
    disk.write_whole(self._path / _FILE, f"{content}\n".encode())

  def _config(self, kind: str) -> dict[str, Any]:
    """Returns the config of the network that is timed, as JSON has it."""
    return json.loads(json.dumps(self._studies[kind].config.as_dict()))


def _done(path: pathlib.Path) -> work.Keys:
  """Returns the keys of the units that a run directory lists as done."""
  return parallel.from_first(
    lambda: [json.loads(name) for name in units.read_units(path)]
  )


def _with_width(study: Memorization, width: int) -> models.Network:
  """Builds the network of a study with another width."""
  return models.build(
    study.config.model.model,
    num_classes=study.experiment.num_classes,
    image_shape=study.experiment.network.image_shape,
    width=width,
    dtype=models.dtype_named(study.config.model.dtype),
  )


def _of_average_cost(study: Memorization, costs: dict[int, float]):
  """Gives a study the width of about average cost, with the same data."""
  width = min(costs, key=lambda width: abs(costs[width] - 1))
  study.config = study.config.replace(width=width)
  study.experiment = study.experiment._replace(
    config=study.config, network=_with_width(study, width)
  )
  return study


def _converted(prices: Work, of: Memorization, to: Memorization) -> Work:
  """Converts the prices of one network to another by their operations."""
  images = work.operations(to.experiment.network)
  images /= work.operations(of.experiment.network)
  batch = work.Sizes(to).batch / work.Sizes(of).batch
  return prices._replace(
    images=prices.images * images, steps=prices.steps * images * batch
  )
