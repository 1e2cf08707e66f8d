"""How a command ends: errors and stops become messages and exit statuses."""

import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable

import jax
from absl import flags

from experiments import log
from geomem import parallel

_PATIENCE = 2.0  # Seconds until a lost stop is raised again.
# Seconds until a failed process leaves the others: the first, and another one.
# Those that fail together all say why, and the first must be the last to leave.
_FAREWELLS = (6.0, 5.0)
# By its exit status the caller learns which signal stopped the process.
_EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class _Stopped(KeyboardInterrupt):
  """Exception that is raised when the process is asked to stop."""


def _stop_by_exception() -> list[int]:
  """Makes signals raise `_Stopped`; returns the list of those received.

  An exception that is raised within a callback (the garbage collector's, say)
  is lost there, so it is raised again until the work has stopped.
  """
  received = []
  previous_hook = sys.unraisablehook

  def stop(number, _):
    if number in _EXIT_STATUS:
      received.append(number)
      log.stopped_by(signal.Signals(number).name)
      # A second request ends the process at once.
      signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    raise _Stopped

  for number in (*_EXIT_STATUS, signal.SIGALRM):
    signal.signal(number, stop)
  sys.unraisablehook = lambda lost: (
    None if isinstance(lost.exc_value, _Stopped) else previous_hook(lost)
  )
  return received


def _told(error: Exception) -> int:
  """Prints an error's message and returns the exit status."""
  if isinstance(error, BrokenPipeError):
    return abandoned()
  sentence = log.sentence(error)
  if sentence is None:
    if not jax.distributed.is_initialized():
      raise error
    traceback.print_exception(error)
    return 1
  print(f"Error: {sentence}", file=sys.stderr)
  return 2 if isinstance(error, flags.Error) else 1


def abandoned() -> int:
  """Silences stdout whose reader has gone, as after `| head`.

  Returns the exit status of a process that SIGPIPE ends.
  """
  # Flushing the rest of the output at exit must not fail again.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 128 + signal.SIGPIPE


def _stopped(number: int) -> int:
  command = shlex.join(sys.orig_argv)
  print(
    f"\nStopped. All finished work is kept; resume with:\n  {command}",
    file=sys.stderr,
  )
  return _EXIT_STATUS[number]


def _leave_others(status: int) -> None:
  """Ends this process if it is one of several, which may wait for it.

  JAX's own exit waits for the others, and they for this one, for minutes.
  """
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_FAREWELLS[not parallel.is_first()])
    os._exit(status)


def guarded(main: Callable) -> Callable:
  """Wraps a main function to report its errors as messages.

  The exit status is 0 if everything was done, 1 if something failed, 2 if the
  command line was wrong, and 128 plus the signal's number if the process was
  asked to stop.
  """

  def run(argv) -> int:
    log.start()
    received = _stop_by_exception()
    try:
      status, is_alone = main(argv), False  # Others return as well.
    except Exception as error:
      # A library may turn a stop into an error of its own.
      status, is_alone = 1 if received else _told(error), True
    except KeyboardInterrupt:
      received = received or [signal.SIGINT]
      status, is_alone = 1, True
    signal.setitimer(signal.ITIMER_REAL, 0)
    if received and status:
      status = _stopped(received[0])
    if is_alone:
      _leave_others(status)
    return status

  return run
