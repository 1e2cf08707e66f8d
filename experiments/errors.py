"""Messages that explain errors to the user of a command."""

import errno
import pathlib
import re
import sysconfig
import traceback

from absl import flags

import geomem
from geomem import disk, parallel

_PACKAGES = [pathlib.Path(x).parent for x in (geomem.__file__, __file__)]
_PYTHON = sysconfig.get_path("stdlib")


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
