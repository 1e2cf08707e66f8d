"""How a binary ends: errors and stops are sentences, and an exit status."""

import os
import shlex
import signal
import sys
from collections.abc import Callable

from absl import flags

from experiments import errors, log

_PATIENCE = 2.0  # Seconds until a stop that was lost is raised again.
# What carries on after a stop is told by which signal it was.
_EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


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
      log.stopped_by(signal.Signals(number).name)
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


def _told(error: Exception) -> int:
  """Prints an error as a sentence and returns the exit status."""
  if isinstance(error, BrokenPipeError):
    return abandoned()
  sentence = errors.sentence(error)
  if sentence is None:
    raise error
  print(f"Error: {sentence}", file=sys.stderr)
  return 2 if isinstance(error, flags.Error) else 1


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
    log.start()
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
