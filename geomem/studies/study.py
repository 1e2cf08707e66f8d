"""The interface of studies, and `run`, the driver of all of them.

A study is a config, stages of work, figures and findings. Through this
interface it is run, resumed, drawn and reported, from binaries and notebooks;
`STUDIES` lists all studies.
"""

import contextlib
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from geomem import runs


class Step(NamedTuple):
  """Progress within a unit of work, with the rows finished since the last step.

  Attributes:
    rows: further rows of the unit.
    size: how far the progress bar moves.
    facts: values that the progress bar shows.
    done_before: whether an earlier start did this step; such a step does not
      count in estimating the remaining time.
  """

  rows: Sequence[runs.Row] = ()
  size: float = 1
  facts: Mapping[str, Any] = types.MappingProxyType({})
  done_before: bool = False


class Unit(NamedTuple):
  """A piece of work whose rows are committed all at once.

  Attributes:
    key: identifies the unit within its run.
    work: starts the work and yields its steps; nothing runs before the call.
    size: the sum of the sizes of its steps.
  """

  key: dict[str, Any]
  work: Callable[[], Iterator[Step]]
  size: float = 1


def at_once(
  key: dict[str, Any], rows: Callable[[], Sequence[runs.Row]], **facts: Any
) -> Unit:
  """Makes a unit of a single step, whose rows a function computes."""
  return Unit(key, lambda: iter([Step(rows(), facts=facts)]))


class Stage(NamedTuple):
  """Units that share a progress bar.

  Attributes:
    title: title of the bar; if empty, as for instant work, no bar is shown.
    units: the units, in the order of execution.
  """

  title: str
  units: Sequence[Unit]


@runtime_checkable
class Study(Protocol):
  """An experiment: the work to do, and the interpretation of its rows.

  Attributes:
    name: the `experiment` entry of its configs.
    figures: by name, functions that draw the rows.
    config: its settings; the fields are command-line flags.
    origin: the origin of its runs; see `runs.Run`.
    directory: the default run directory.

  The constructor of a study of a finished run takes a `TrainedRun` beside the
  config; if `needs_run` is False, the run is optional.
  """

  name: str
  figures: dict[str, Callable[[runs.Rows], Any]]
  config: Any
  origin: dict[str, Any] | None
  directory: pathlib.Path

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as stored in a run directory."""

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields the stages, which may depend on the rows so far.

    The study's constructor has rejected invalid input before.
    """

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> Sequence[Any]:
    """Returns what the rows of a complete run show; `str` gives sentences."""

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns a table for the terminal, or an empty string."""


class _Silent(contextlib.nullcontext):
  """A progress bar that shows nothing."""

  initial = 0

  def __enter__(self):
    return self

  def update(self, size):
    """Does nothing."""

  def set_postfix(self, facts, **_):
    """Does nothing."""


def silent(**_: Any) -> _Silent:
  """Returns a progress bar that shows nothing."""
  return _Silent()


# Makes a context that is entered while a run directory is worked on, and yields
# a function to call after every step.
Watch = Callable[
  [pathlib.Path], contextlib.AbstractContextManager[Callable[[], None]]
]


def unwatched(_: pathlib.Path) -> contextlib.nullcontext:
  """Watches nothing: a context whose function does nothing."""
  return contextlib.nullcontext(lambda: None)


def run(
  study: Study,
  path: pathlib.Path | str | None = None,
  *,
  progress: Callable[..., Any] = silent,
  report: Callable[[Any], None] | None = None,
  watch: Watch = unwatched,
) -> runs.Rows:
  """Does the remaining work of a study, and returns its rows.

  Units that are already done are skipped, and a complete run is left unchanged.
  A run that is killed at any moment and restarted ends with the same rows.

  Args:
    study: the study to run.
    path: the run directory; by default the study's own.
    progress: makes the progress bars: `tqdm.tqdm`, or a function like it.
    report: called with the run before it is marked as complete.
    watch: makes a context that is entered while the directory is worked on, and
      yields a function to call after every step, such as one that keeps a log.

  Raises:
    RunError: the directory belongs to another study, config, data or parent.
    BusyError: another process holds it.
  """
  path = study.directory if path is None else path
  with runs.open_run(path, study.as_dict(), study.origin) as out:
    if not out.is_done:
      with watch(out.path) as notify, runs.Clock(out.path) as clock:

        def step_done() -> None:
          clock.tick()
          notify()

        for stage in study.stages(out):
          _do_stage(stage, out, progress, step_done)
        if report is not None:
          report(out)
        out.finish()
    return out.rows


def _do_stage(stage: Stage, out: runs.Run, progress, step_done) -> None:
  """Does the remaining units of a stage, with a progress bar."""
  done = [out.has(unit.key) for unit in stage.units]
  show = progress if stage.title and stage.units else silent
  # Compilation comes first; the facts of the first step replace this text.
  facts = {} if all(done) else {"postfix": "compiling"}
  size = sum(unit.size for unit in stage.units)
  with show(total=size, desc=stage.title, **facts) as bar:
    for unit, is_done in zip(stage.units, done, strict=True):
      if is_done:
        bar.initial += unit.size
        bar.update(unit.size)
      else:
        _do(unit, out, bar, step_done)


def _do(unit: Unit, out: runs.Run, bar, step_done) -> None:
  """Does the work of a unit, and commits its rows.

  The bar shows the end after that: it may end the work by an exception.
  """
  rows, done, shown, completed = [], 0.0, 0, 0
  for step in unit.work():
    rows += step.rows
    done += step.size
    if step.done_before:
      bar.initial += step.size
    else:
      # Not refreshed at each step: in a log file each refresh is a line.
      bar.set_postfix(step.facts, refresh=False)
    # Whole numbers only: fractions would add up to more than the total.
    completed = min(int(done + 1e-6), int(unit.size))
    if completed < int(unit.size):
      bar.update(completed - shown)
      shown = completed
    step_done()
  out.commit(unit.key, rows)
  bar.update(completed - shown)
