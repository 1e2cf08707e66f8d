"""Command-line experiments; each binary reproduces figures of the paper."""

import sys

_tell = sys.excepthook


def _stopped(kind, error, trace):
  """Prints a sentence where Ctrl-C comes before any work."""
  if issubclass(kind, KeyboardInterrupt):
    print("\nStopped before anything was done.", file=sys.stderr)
  else:
    _tell(kind, error, trace)


sys.excepthook = _stopped
