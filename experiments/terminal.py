"""What a terminal, a notebook or a log file sees of a binary, to its end."""

import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable

from absl import flags
from absl import logging as absl_logging
from tqdm import auto, notebook, tqdm

from geomem import disk

_PATIENCE = 2.0  # Seconds until a stop that was lost is raised again.
_LOG_SECONDS = 30.0  # Between the lines of a bar in a log file.
_BAR = "{l_bar}{bar}| {n:.0f}/{total} [{elapsed}<{remaining}{postfix}]"
_LINE = "{desc}: {n:.0f} of {total} [{elapsed}<{remaining}{postfix}]"
# What carries on after a stop is told by which signal it was.
_EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class _Lines:
  """A file for bars: what they draw over and over becomes one line each."""

  def write(self, text: str) -> None:
    line = text.replace("\x1b[A", "").strip()
    if line:
      print(line, file=sys.stderr, flush=True)

  def flush(self) -> None:
    pass


def bar(total: int, desc: str, **options) -> tqdm:
  """Makes a progress bar; without a terminal, a line now and then.

  Args:
    total: units of work.
    desc: what is worked on.
    **options: as tqdm takes them.
  """
  is_notebook = issubclass(auto.tqdm, notebook.tqdm)
  if is_notebook or sys.stderr.isatty():
    return auto.tqdm(total=total, desc=desc, bar_format=_BAR, **options)
  options |= {"mininterval": _LOG_SECONDS, "maxinterval": _LOG_SECONDS}
  return tqdm(
    total=total, desc=desc, bar_format=_LINE, file=_Lines(), **options
  )


class _Warnings(logging.Handler):
  """Warnings as sentences, above the bars."""

  def emit(self, record: logging.LogRecord) -> None:
    tqdm.write(f"Warning: {record.getMessage()}", file=sys.stderr)


def _choose_what_is_logged() -> None:
  """Shows our own warnings and JAX's, and no others."""
  # What others log of their start-up, or of an error they raise as well, is
  # of no use here.
  absl_logging.set_verbosity(absl_logging.FATAL)
  for name in ("geomem", "jax"):
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    logger.handlers, logger.propagate = [_Warnings()], False


class _Stopped(KeyboardInterrupt):
  """The process was asked to end."""


def _stop_by_exception() -> list[int]:
  """Lets work end in order when asked to; gives the signals that came.

  What is raised while others call back (a garbage collector's, say) is lost
  there, so it is raised again until somebody has stopped.
  """
  came = []
  tell = sys.unraisablehook

  def stop(number, _):
    if number in _EXIT_STATUS:
      came.append(number)
      # Whoever asks twice does not want to wait.
      signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    raise _Stopped

  for number in (*_EXIT_STATUS, signal.SIGALRM):
    signal.signal(number, stop)
  sys.unraisablehook = lambda lost: (
    None if isinstance(lost.exc_value, _Stopped) else tell(lost)
  )
  return came


def _out_of_memory(error: Exception) -> str:
  size = re.search(r"[\d.]+ ?[KMGT]?i?B\b|[\d]+ bytes", str(error))
  asked = f" where {size[0]} were asked for" if size else ""
  return (
    f"Memory ran out{asked}. What was done is kept. Lower --batch_size,"
    " --width, --num_seeds, --manifold_points or --num_probes, or"
    " --memory_limit, from which on images stay on the disk."
  )


def _told(error: Exception) -> int:
  """Prints an error as a sentence and returns the exit status."""
  if isinstance(error, flags.Error):
    print(f"Error: {error} See --help.", file=sys.stderr)
    return 2
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    print(f"Error: {_out_of_memory(error)}", file=sys.stderr)
    return 1
  if isinstance(error, BrokenPipeError):
    return abandoned()
  if isinstance(error, OSError):
    error = disk.explain(error.filename or "The output", error)
  if not isinstance(error, ValueError | FloatingPointError):
    raise error
  print(f"Error: {error}", file=sys.stderr)
  return 1


def abandoned() -> int:
  """Ends quietly where nobody reads on, as after `| head`.

  Returns:
    The exit status, that of a process that SIGPIPE ends.
  """
  # What is left to be flushed at the end must not fail again.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 128 + signal.SIGPIPE


def _stopped(number: int) -> int:
  command = shlex.join(sys.orig_argv)
  print(
    f"\nStopped. What was done is kept; this goes on:\n  {command}",
    file=sys.stderr,
  )
  return _EXIT_STATUS[number]


def guarded(main: Callable) -> Callable:
  """Makes a main function whose errors end in sentences.

  Its exit status is 0 where all was done, 1 where something could not be done,
  2 where the command line was not understood, and 128 plus the signal's number
  where the process was asked to stop.
  """

  def run(argv) -> int:
    _choose_what_is_logged()
    came = _stop_by_exception()
    try:
      status = main(argv)
    except Exception as error:
      # A stop may come out of a library as an error of its own.
      status = 1 if came else _told(error)
    except KeyboardInterrupt:
      came = came or [signal.SIGINT]
      status = 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return _stopped(came[0]) if came and status else status

  return run
