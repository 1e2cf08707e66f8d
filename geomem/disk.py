"""Atomic and durable writing to disk, with errors that say why it failed."""

import contextlib
import errno
import os
import pathlib
import socket
import time
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

# What to do about a failed write, by its cause.
_ADVICE = dict.fromkeys(
  (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
  "Make room, then repeat the command to continue from here.",
) | dict.fromkeys(
  (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR),
  "Choose another directory.",
)
# A temporary file that has not been touched for longer was left behind.
_SECONDS_TO_WRITE = 600


class DiskError(ValueError):
  """A failed write; what was there before is unchanged."""


def explain(path: pathlib.Path | str, error: Exception) -> DiskError:
  """Returns an error that says why something cannot be written.

  Args:
    path: the file or directory to be written.
    error: the cause, either the system's own error or a library's that quotes
      the system's message.
  """
  reason = getattr(error, "strerror", None) or type(error).__name__
  advice = ""
  for code in _ADVICE:
    if os.strerror(code) in str(error):
      reason, advice = os.strerror(code), f" {_ADVICE[code]}"
      break
  return DiskError(
    f"{path} cannot be written: {reason}. Earlier content is unchanged.{advice}"
  )


def check_literal(path: pathlib.Path | str) -> None:
  """Refuses to write to a path that begins with `~`.

  Shells and commands take it as the home directory, but Python as a name.

  Raises:
    DiskError: the path begins with `~`.
  """
  if str(path).startswith("~"):
    raise DiskError(f"{path} is not written to.{hint(path)}")


def hint(path: pathlib.Path | str) -> str:
  """Returns what to do about a path that begins with `~`, or nothing."""
  if not str(path).startswith("~"):
    return ""
  return (
    " Python does not take ~ as the home directory; give"
    f" pathlib.Path({str(path)!r}).expanduser()."
  )


@contextlib.contextmanager
def explained(path: pathlib.Path | str) -> Iterator[None]:
  """Converts the system's errors into `DiskError`, and refuses a `~`."""
  check_literal(path)
  try:
    yield
  except OSError as error:
    raise explain(path, error) from error


def cache_directory() -> pathlib.Path:
  """Returns the directory of files that can be made again.

  It is `$GEOMEM_CACHE`, or `geomem` below `$XDG_CACHE_HOME` or `~/.cache`.
  """
  # Empty variables count as none, as in the XDG standard.
  default = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  path = os.environ.get("GEOMEM_CACHE") or os.path.join(default, "geomem")
  return pathlib.Path(os.path.expanduser(path))


def checksum(array: np.typing.ArrayLike) -> int:
  """Returns the CRC-32 of an array's bytes, at some 2 GB a second.

  It detects every single-bit error and every burst of up to 32 bits; of other
  damage it misses one case in four billion.
  """
  return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def temporary_beside(path: pathlib.Path) -> pathlib.Path:
  """Returns the temporary file that is written and then renamed to `path`."""
  writer = f"{socket.gethostname()}.{os.getpid()}"
  return path.with_name(f".{path.name}.{writer}.partial")


def remove_partial(directory: pathlib.Path) -> None:
  """Removes the temporary files that killed processes left behind.

  Those of processes on other hosts are removed once they are ten minutes old.
  """
  for path in directory.glob(".*.partial"):
    # Its writer was faster, or is another user, or it is none of ours.
    with contextlib.suppress(OSError, OverflowError):
      if not _is_in_use(path):
        path.unlink()


def _is_in_use(temporary: pathlib.Path) -> bool:
  """Returns whether the writer of a temporary file may still be running."""
  name, _, pid = temporary.name.removesuffix(".partial").rpartition(".")
  if not pid.isdecimal() or not name.endswith(f".{socket.gethostname()}"):
    return time.time() - temporary.stat().st_mtime < _SECONDS_TO_WRITE
  return is_running(int(pid)) and int(pid) != os.getpid()


def is_running(pid: int) -> bool:
  """Returns whether a process of this host is running."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # It runs, for another user.
    pass
  return True


def _keep_name(path: pathlib.Path) -> None:
  """Makes a new name durable, where directories can be synchronized."""
  with contextlib.suppress(OSError):
    directory = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(directory)
    finally:
      os.close(directory)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Yields a new file that replaces `path` in the end, atomically and durably.

  Raises:
    DiskError: it cannot be written.
  """
  temporary = temporary_beside(path)
  try:
    with explained(path), open(temporary, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
      os.replace(temporary, path)
      _keep_name(path)
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Writes a file as `replacing` does."""
  with replacing(path) as file:
    file.write(content)


def append_whole(path: pathlib.Path, content: bytes) -> None:
  """Appends to a file durably, all or nothing unless the process is killed.

  Raises:
    DiskError: it cannot be written; the file keeps its former length.
  """
  # Unbuffered, so that closing the file has nothing left to write.
  with explained(path), open(path, "ab", buffering=0) as file:
    length = file.seek(0, os.SEEK_END)
    try:
      rest = memoryview(content)
      while rest:
        rest = rest[file.write(rest) :]
      os.fsync(file.fileno())
      if length == 0:
        _keep_name(path)
    except BaseException:
      file.truncate(length)
      raise
