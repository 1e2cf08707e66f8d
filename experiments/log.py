"""What a binary tells, on the terminal and in the log of a run.

The log is `log.txt` in the directory that is worked on, and grows by every
start; `--log_dir` names another place. It holds what the terminal shows with
the time, lines of the bars, and how each start ended.
"""

import contextlib
import logging
import os
import pathlib
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Iterator

import jax
from absl import flags
from absl import logging as absl_logging
from tqdm import tqdm

import geomem
from experiments import errors
from geomem import parallel, runs

_LOG = logging.getLogger(__name__)
# By --verbosity, from its least on.
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
# What goes to the log whatever the terminal shows, by the logger's name.
_LEAST = {
  "geomem": logging.INFO,
  "jax": logging.WARNING,
  "experiments": logging.INFO,
}
_MOST_EARLY = 1000

# They are absl's, for all programs; what they do here is up to us.
FLAGS = ("verbosity", "log_dir")
flags.FLAGS["verbosity"].help = (
  "what is told of the work: errors alone (-1), warnings (0), INFO of geomem"
  " and JAX (1), DEBUG (2)"
)
flags.FLAGS["verbosity"].default = 0
flags.FLAGS["log_dir"].help = (
  "where log.txt goes, of every process one; by default into the directory"
  " that is worked on, that of the first process"
)


class _Terminal(logging.Handler):
  """Warnings and the like as sentences, above the bars."""

  def emit(self, record: logging.LogRecord) -> None:
    kind = record.levelname.capitalize()
    tqdm.write(f"{kind}: {record.getMessage()}", file=sys.stderr)


class _Files(logging.Handler):
  """Appends to the logs that are open.

  What is told before the first of them is open, each begins with.
  """

  def __init__(self):
    super().__init__()
    self.setFormatter(
      logging.Formatter(
        "%(asctime)s [%(process)d] %(kind)s%(message)s", "%Y-%m-%d %H:%M:%S"
      )
    )
    self.begin()

  def begin(self) -> None:
    """Forgets all files, as nothing is open at the start of a process."""
    self.paths: list[pathlib.Path] = []
    self._early: list[str] = []
    self._is_early, self._failed = True, set()

  def emit(self, record: logging.LogRecord) -> None:
    is_plain = record.levelno == logging.INFO
    record.kind = "" if is_plain else f"{record.levelname.capitalize()}: "
    line = self.format(record)
    if self._is_early and len(self._early) < _MOST_EARLY:
      self._early.append(line)
    for path in self.paths:
      self._append(path, line)

  def open(self, path: pathlib.Path) -> None:
    """Begins to append to a file."""
    self._is_early = False
    self.paths.append(path)
    for line in self._early:
      self._append(path, line)

  def _append(self, path: pathlib.Path, line: str) -> None:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    except OSError as error:
      if path not in self._failed:
        self._failed.add(path)
        tqdm.write(
          f"Warning: {path} cannot be written: {error.strerror}. The work goes"
          " on without it.",
          file=sys.stderr,
        )


_FILES = _Files()
_STOPS: list[str] = []


def start() -> None:
  """Chooses what is told, as the flags say, and of whom.

  What other packages log of their start-up, or of an error that they raise as
  well, is of no use here.
  """
  flag = flags.FLAGS["verbosity"]
  given = flag.value if flag.present else 0
  level = _LEVELS[min(max(given, -1), 2) + 1]
  absl_logging.set_verbosity(absl_logging.FATAL)
  terminal = _Terminal()
  terminal.setLevel(level)
  for name, least in _LEAST.items():
    logger = logging.getLogger(name)
    logger.setLevel(min(level, least))
    logger.handlers, logger.propagate = [_FILES], False
    if name != "experiments":  # Whose lines are printed already.
      logger.addHandler(terminal)
  _FILES.begin()
  _STOPS.clear()
  _LOG.info("Command: %s", shlex.join(sys.orig_argv))


def stopped_by(signal: str) -> None:
  """Takes down which signal asked the process to end, for its logs."""
  _STOPS.append(signal)


def say(text: object) -> None:
  """Prints, and keeps it in the log."""
  print(text, flush=True)
  # Tables begin below the time, where their columns meet.
  told = str(text).strip("\n")
  _LOG.info("%s%s", "\n" if "\n" in told else "", told)


def note(text: str) -> None:
  """Keeps in the log what is shown otherwise."""
  _LOG.info("%s", text)


def _elsewhere() -> pathlib.Path | None:
  """Returns the file of this process below `--log_dir`, if there is that."""
  directory = flags.FLAGS["log_dir"].value
  if not directory:
    return None
  number = jax.process_index()
  name = f"log.{number}.txt" if number else "log.txt"
  return pathlib.Path(directory).expanduser() / name


def open_elsewhere() -> None:
  """Begins the log that `--log_dir` asks for; devices are known by now."""
  file = _elsewhere()
  if file is not None:
    _FILES.open(file)


@contextlib.contextmanager
def kept(directory: pathlib.Path | str) -> Iterator[None]:
  """Keeps a log of what is done in a directory, and of how it ends."""
  file = pathlib.Path(directory) / "log.txt"
  writes = parallel.is_first() and _elsewhere() is None
  if writes:
    _FILES.open(file)
  began = time.monotonic()
  devices = jax.devices()
  _LOG.info(
    "Work on %s begins: geomem %s, jax %s, %d %s, process %d of %d on %s.",
    os.path.abspath(directory),
    geomem.__version__,
    jax.__version__,
    len(devices),
    devices[0].device_kind,
    jax.process_index(),
    jax.process_count(),
    platform.node(),
  )
  ended = "is done"
  try:
    yield
  except BaseException as error:
    ended = _ending(error)
    raise
  finally:
    seconds = time.monotonic() - began
    # Of a sweep, whose runs may lie side by side, it is no sum of this kind.
    has_own = (pathlib.Path(directory) / "duration.json").exists()
    in_all = runs.read_duration(directory) if has_own else None
    _LOG.info(
      "Work on %s %s after %.1f s%s.",
      os.path.abspath(directory),
      ended,
      seconds,
      "" if in_all is None else f", {in_all:.1f} s in all starts",
    )
    if writes:
      _FILES.paths.remove(file)


def _ending(error: BaseException) -> str:
  """Says how work ended by an error; one that was not expected is shown."""
  # A stop may come out of a library as an error of its own.
  if _STOPS or isinstance(error, KeyboardInterrupt):
    return f"was stopped by {(*_STOPS, 'SIGINT')[0]}"
  if not isinstance(error, Exception):
    return "was left off"
  told = errors.sentence(error)
  if told is None:
    told = "".join(traceback.format_exception(error)).rstrip()
  _LOG.error("%s", told)
  return "failed"
