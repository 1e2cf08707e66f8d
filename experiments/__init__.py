"""Commands that train, measure and show networks, and the code they share."""

import runpy
import sys

_tell = sys.excepthook


def _stopped(kind, error, trace):
  """Replaces the traceback of a Ctrl-C before any work by a message."""
  if issubclass(kind, KeyboardInterrupt):
    print("\nStopped before anything was done.", file=sys.stderr)
  else:
    _tell(kind, error, trace)


sys.excepthook = _stopped


def main(*words: str) -> None:
  """Does the same as `python -m experiments`: the console script `geomem`.

  The words come before those of the command line.
  """
  sys.argv[1:1] = words
  runpy.run_module(__name__, run_name="__main__", alter_sys=True)
