"""Messages that explain errors to the user of a binary."""

import re

from absl import flags

from geomem import disk


def sentence(error: BaseException) -> str | None:
  """Returns an error's message for the user, or None for a bug of ours."""
  if isinstance(error, flags.Error):
    return f"{error} See --help."
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return _out_of_memory(error)
  if isinstance(error, OSError):
    error = disk.explain(error.filename or "The output", error)
  has_message = isinstance(error, ValueError | FloatingPointError)
  return str(error) if has_message else None


def _out_of_memory(error: BaseException) -> str:
  size = re.search(r"[\d.]+ ?[KMGT]?i?B\b|[\d]+ bytes", str(error))
  asked = f" where {size[0]} were asked for" if size else ""
  return (
    f"Memory ran out{asked}. What was done is kept. Lower --batch_size,"
    " --width, --num_seeds, --manifold_points or --num_probes, or"
    " --memory_limit, from which on images stay on the disk."
  )
