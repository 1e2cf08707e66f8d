"""Studies, and the one driver of them all: `run`.

A study is a config, stages of work, figures and findings. It is resumed,
drawn, reported and called from binaries and notebooks by what is here; see
`STUDIES` for those that there are.
"""

import contextlib
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from geomem import runs


class Step(NamedTuple):
  """What a unit of work yields on its way: progress, and rows if it has some.

  Attributes:
    rows: further rows of the unit.
    size: how far the progress bar moves.
    facts: what the bar says beside it.
    done_before: whether an earlier start did it, so that it tells nothing of
      the time that is left.
  """

  rows: Sequence[runs.Row] = ()
  size: float = 1
  facts: Mapping[str, Any] = types.MappingProxyType({})
  done_before: bool = False


class Unit(NamedTuple):
  """A piece of work whose rows are committed whole.

  Attributes:
    key: names it among the units of its run.
    work: does it; nothing has run before it is called.
    size: the sizes of its steps, added up.
  """

  key: dict[str, Any]
  work: Callable[[], Iterator[Step]]
  size: float = 1


class Stage(NamedTuple):
  """Units that share a progress bar.

  Attributes:
    title: of the bar; without one there is none, for what takes no time.
    units: in the order they are done.
  """

  title: str
  units: Sequence[Unit]

  @property
  def size(self) -> float | int:
    """The sizes of the units, added up."""
    return sum(unit.size for unit in self.units)


@runtime_checkable
class Study(Protocol):
  """An experiment: what to do, and what to say of its rows.

  Attributes:
    name: the `experiment` of its configs.
    figures: from names to functions of the rows.
    config: what it is made of; its fields are flags.
    origin: the origin of its runs; see `runs.Run`.
    directory: where its runs go by default.

  A study of a finished run takes a `TrainedRun` beside its config; where
  `needs_run` is False, it can do without.
  """

  name: str
  figures: dict[str, Callable[[runs.Rows], Any]]
  config: Any
  origin: dict[str, Any] | None
  directory: pathlib.Path

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as a run directory keeps it."""

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields the stages; what they are may depend on the rows so far.

    All bad input has been refused before, by the study's constructor.
    """

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> Sequence[Any]:
    """Says what the rows of a complete run show; `str` gives sentences."""

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns a table for the terminal, or nothing."""


class _Silent(contextlib.nullcontext):
  """A progress bar that nobody sees."""

  initial = 0

  def __enter__(self):
    return self

  def update(self, size):
    """Does nothing."""

  def set_postfix(self, facts, **_):
    """Does nothing."""


def silent(**_: Any) -> _Silent:
  """Shows no progress."""
  return _Silent()


# Entered with a run directory while there is work; gives what to call after
# every step.
Watch = Callable[
  [pathlib.Path], contextlib.AbstractContextManager[Callable[[], None]]
]


@contextlib.contextmanager
def unwatched(path: pathlib.Path) -> Iterator[Callable[[], None]]:
  """Does nothing while a run is worked on."""
  del path
  yield lambda: None


def run(
  study: Study,
  path: pathlib.Path | str | None = None,
  *,
  progress: Callable[..., Any] = silent,
  report: Callable[[Any], None] | None = None,
  watch: Watch = unwatched,
) -> runs.Rows:
  """Does what is left of a study, and returns its rows.

  Units of work that are done already are passed over; a complete run is left
  alone. Killed at any moment and started again, it ends with the same rows.

  Args:
    study: what to do.
    path: the run directory; by default the study's own.
    progress: makes the progress bars, as `tqdm.tqdm` does, and may be that.
    report: called with the run before it is marked as complete.
    watch: a context for the time that the directory is worked on, which gives
      a function that is called after every step: what keeps a log, say.

  Raises:
    RunError: the directory is of another study, config, data or parent run.
    BusyError: another process holds it.
  """
  path = study.directory if path is None else path
  with runs.open_run(path, study.as_dict(), study.origin) as out:
    if not out.is_done:
      with watch(out.path) as tell, runs.Clock(out.path) as clock:

        def step_done() -> None:
          clock.tick()
          tell()

        for stage in study.stages(out):
          _do_stage(stage, out, progress, step_done)
        if report is not None:
          report(out)
        out.finish()
    return out.rows


def _do_stage(stage: Stage, out: runs.Run, progress, step_done) -> None:
  """Does the units of a stage, with a progress bar."""
  done = [out.has(unit.key) for unit in stage.units]
  show = progress if stage.title and stage.units else silent
  # What is first waited for; the first step puts its facts in its place.
  facts = {} if all(done) else {"postfix": "compiling"}
  with show(total=stage.size, desc=stage.title, **facts) as bar:
    for unit, is_done in zip(stage.units, done, strict=True):
      if is_done:
        bar.initial += unit.size
        bar.update(unit.size)
      else:
        _do(unit, out, bar, step_done)


def _do(unit: Unit, out: runs.Run, bar, step_done) -> None:
  """Does a unit that is not done yet, and commits its rows."""
  rows, done, shown = [], 0.0, 0
  for step in unit.work():
    rows += step.rows
    done += step.size
    if step.done_before:
      bar.initial += step.size
    else:
      # Not drawn for each step: in a log file that would be a line.
      bar.set_postfix(step.facts, refresh=False)
    # In whole units: parts of one would add up to more than the total.
    whole = min(int(done + 1e-6), int(unit.size))
    bar.update(whole - shown)
    shown = whole
    step_done()
  out.commit(unit.key, rows)
