"""Messages and errors of a command, on the terminal and in the log of a run.

The log is `log.txt` in the output directory, and every start appends to it;
`--log_dir` chooses another directory. It holds the terminal's output with
timestamps, lines of the progress bars, and how each start ended.
"""

import contextlib
import errno
import logging
import os
import pathlib
import platform
import re
import shlex
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator

import jax
from absl import flags
from absl import logging as absl_logging
from tqdm import tqdm

import geomem
from geomem import disk, parallel, runs

_LOG = logging.getLogger(__name__)
_PACKAGES = [pathlib.Path(x).parent for x in (geomem.__file__, __file__)]
_PYTHON = sysconfig.get_path("stdlib")
# Levels of --verbosity from -1 to 2.
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
# The log records these levels by logger, even if the terminal shows less.
_LEAST = {
  "geomem": logging.INFO,
  "jax": logging.WARNING,
  "experiments": logging.INFO,
}
_MOST_EARLY = 1000

# absl defines these flags for all programs; we give them a meaning of our own.
FLAGS = ("verbosity", "log_dir")
flags.FLAGS["verbosity"].help = (
  "what is logged to the terminal: errors only (-1), also warnings (0), also"
  " INFO of geomem and JAX (1), also DEBUG (2)"
)
flags.FLAGS["verbosity"].default = 0
flags.FLAGS["log_dir"].help = (
  "directory of the logs, one for each process; by default only the first"
  " process writes one, log.txt in the directory that it works on"
)


class _Terminal(logging.Handler):
  """Handler that prints records as sentences above the progress bars."""

  def emit(self, record: logging.LogRecord) -> None:
    kind = record.levelname.capitalize()
    tqdm.write(f"{kind}: {record.getMessage()}", file=sys.stderr)


class _Files(logging.Handler):
  """Handler that appends records to all open logs.

  Each log begins with the records from before the first one was opened.
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
    """Resets the handler to its state at process start, with no open file."""
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
    """Adds a file to the open logs, and writes the early records to it."""
    self._is_early = False
    self.paths.append(path)
    with contextlib.suppress(OSError):  # Said once a line is written.
      path.parent.mkdir(parents=True, exist_ok=True)
    for line in self._early:
      self._append(path, line)

  def _append(self, path: pathlib.Path, line: str) -> None:
    try:
      # A directory that was moved away is not made again.
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
  """Configures the loggers as the flags say.

  Packages outside `_LEAST` are silenced: what they log is their start-up, or an
  error that they also raise.
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
    if name != "experiments":  # Its lines are shown already.
      logger.addHandler(terminal)
  _FILES.begin()
  _STOPS.clear()
  _LOG.info("Command: %s", shlex.join(sys.orig_argv))


def stopped_by(signal: str) -> None:
  """Records the signal that asked the process to stop, for its logs."""
  _STOPS.append(signal)


def say(text: object) -> None:
  """Prints a text and adds it to the log."""
  print(text, flush=True)
  # Tables start on the line below the timestamp, so that columns align.
  stripped = str(text).strip("\n")
  _LOG.info("%s%s", "\n" if "\n" in stripped else "", stripped)


def open_elsewhere() -> None:
  """Opens the log that `--log_dir` asks for; needs this process's index."""
  if directory := flags.FLAGS["log_dir"].value:
    number = jax.process_index()
    name = f"log.{number}.txt" if number else "log.txt"
    _FILES.open(pathlib.Path(directory).expanduser() / name)


@contextlib.contextmanager
def kept(directory: pathlib.Path | str) -> Iterator[None]:
  """Keeps a log of the work on a directory and of how it ends."""
  file = pathlib.Path(directory) / "log.txt"
  writes = parallel.is_first() and not flags.FLAGS["log_dir"].value
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
  outcome = "is done"
  try:
    yield
  except BaseException as error:
    outcome = _ending(error)
    raise
  finally:
    seconds = time.monotonic() - began
    # A sweep has no duration of its own, as its runs may overlap in time.
    has_own = (pathlib.Path(directory) / "duration.json").exists()
    total = runs.read_duration(directory) if has_own else None
    _LOG.info(
      "Work on %s %s after %.1f s%s.",
      os.path.abspath(directory),
      outcome,
      seconds,
      "" if total is None else f", {total:.1f} s in all starts",
    )
    if writes:
      _FILES.paths.remove(file)


def _ending(error: BaseException) -> str:
  """Returns how an error ended the work, and logs it if it is a failure."""
  # A library may turn a stop into an error of its own.
  if _STOPS or isinstance(error, KeyboardInterrupt):
    return f"was stopped by {(*_STOPS, 'SIGINT')[0]}"
  if not isinstance(error, Exception):
    return "was left off"
  message = sentence(error)
  if message is None:
    message = "".join(traceback.format_exception(error)).rstrip()
  _LOG.error("%s", message)
  return "failed"


def sentence(error: BaseException) -> str | None:
  """Returns an error's message for the user, or None for a bug of ours."""
  if isinstance(error, flags.Error):
    return f"{error} See --help."
  if parallel.has_lost_another(error):
    return (
      "Another process has failed or was stopped; its own output says why."
      " Repeat the command in all of them to continue from here."
    )
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return _out_of_memory(error)
  if isinstance(error, OSError):
    if error.errno in (errno.EACCES, errno.EPERM):
      # Files that geomem writes raise a DiskError. Of others it is not known
      # whether reading or writing failed.
      return (
        f"{error.filename or 'A file'} cannot be read or written:"
        f" {error.strerror}."
      )
    error = disk.explain(error.filename or "The output", error)
  has_message = isinstance(error, ValueError | FloatingPointError)
  return str(error) if has_message and _is_ours(error) else None


def _is_ours(error: BaseException) -> bool:
  """Returns whether geomem raised an error, and not a library below it.

  A library's text explains nothing to a user, and hides where it came from.
  What a library's C code raises ends at a line of ours that is not a `raise`.
  """
  trace = traceback.extract_tb(error.__traceback__)
  if not trace or not trace[-1].line:
    return True
  file = pathlib.Path(trace[-1].filename)
  ours = any(file.is_relative_to(package) for package in _PACKAGES)
  foreign = "site-packages" in file.parts or file.is_relative_to(_PYTHON)
  return (ours or not foreign) and trace[-1].line.startswith("raise")


def _out_of_memory(error: BaseException) -> str:
  size = re.search(r"[\d.]+ ?[KMGT]?i?B\b|[\d]+ bytes", str(error))
  asked = f" where {size[0]} were asked for" if size else ""
  return (
    f"Memory ran out{asked}. What was done is kept. Lower --batch_size,"
    " --width, --num_seeds, --manifold_points or --num_probes, or, for images"
    " of TFDS, --memory_limit, from which on they stay on the disk."
  )
