"""Values on the command line: lists, paths, and their errors."""

import contextlib
import math
import os
from collections.abc import Iterator

from absl import flags

from geomem import data, disk, runs, training

# Flags defined here count as key flags of the calling module.
flags.disclaim_key_flags()

_WORDS = {int: "a whole number", float: "a finite number"}
# Errors whose cause is not the command line.
_ELSEWHERE = (
  runs.RunError,
  disk.DiskError,
  training.CheckpointError,
  data.DamagedError,
)


def list_of(name: str, kind: type) -> list:
  """Returns the int, float or str values of a flag that takes several."""
  texts = flags.FLAGS[name].value
  if texts is None:
    return []
  given = f"--{name}={','.join(texts)}"
  if not all(texts) or not (texts or flags.FLAGS[name].default == []):
    raise flags.IllegalFlagValueError(
      f"{given} lacks a value; one was expected, or several, comma-separated."
    )
  if kind is str:
    return texts
  try:
    # Python's int also takes digits of other scripts, which are not ASCII.
    numbers = [kind(text.encode("ascii")) for text in texts]
    if kind is float and not all(map(math.isfinite, numbers)):
      raise ValueError
  except ValueError as error:
    raise flags.IllegalFlagValueError(
      f"{given} is not {_WORDS[kind]}, or several, comma-separated."
    ) from error
  return numbers


@contextlib.contextmanager
def command_line() -> Iterator[None]:
  """Turns ValueErrors within the context into errors of the command line.

  Raises:
    flags.IllegalFlagValueError: in place of every ValueError except those of
      disks, run directories, checkpoints and damaged data.
  """
  try:
    yield
  except _ELSEWHERE:
    raise
  except ValueError as error:
    raise flags.IllegalFlagValueError(str(error)) from error


class _PathParser(flags.ArgumentParser):
  """Parser of paths, in which `~` is the home directory."""

  def parse(self, argument: str) -> str:
    if not argument:
      raise ValueError("a path was expected, but none was given.")
    return os.path.expanduser(argument)

  def flag_type(self) -> str:
    return "string"


def define_path(
  name: str, default: str | None, text: str, *, required: bool = False
) -> flags.FlagHolder:
  """Defines a flag whose value is a path."""
  return flags.DEFINE(_PathParser(), name, default, text, required=required)


def is_path(name: str) -> bool:
  """Returns whether the value of a flag is a path."""
  return isinstance(flags.FLAGS[name].parser, _PathParser)
