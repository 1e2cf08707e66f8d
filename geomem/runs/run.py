"""An open run directory: rows are appended all or none, by one process."""

import errno
import fcntl
import json
import logging
import pathlib
import uuid
from collections.abc import Iterable
from typing import Any

from geomem import disk, environment
from geomem.runs import directory, rows
from geomem.runs.directory import BusyError, RunError

_LOG = logging.getLogger(__name__)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Run:
  """An open run directory, held by one process at a time."""

  def __init__(
    self,
    path: pathlib.Path | str,
    config: dict[str, Any],
    origin: dict[str, Any] | None = None,
  ):
    """Creates the directory, or resumes the run in it.

    A complete run is opened on a disk that cannot be written to, too.

    Args:
      path: the directory.
      config: what the run is made of, of JSON types.
      origin: what it comes from: `data`, the fingerprint of the data, or `run`,
        from `Parent.as_origin`.

    Raises:
      RunError: the directory is of another config, of other data, or derived
        from another run.
      BusyError: another process holds it.
      DiskError: it cannot be written to.
    """
    self.path = pathlib.Path(path)
    self.config = json.loads(json.dumps(config))
    self._origin = json.loads(json.dumps(origin or {}))
    self._lock = self._open_lock()
    if self._lock is not None:
      self._take_lock()
    try:
      self._check_config()
      if self._lock is not None:
        disk.remove_partial(self.path)
        self._repair()
    except Exception:
      self.close()
      raise
    self._keys = {rows.key_of(row) for row in self.rows()}

  def _open_lock(self):
    """The lock's file; None for a complete run that cannot be written to."""
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      return open(self.path / ".lock", "w")
    except OSError as error:
      if error.errno in _READ_ONLY and directory.is_complete(self.path):
        return None
      raise disk.explain(self.path, error) from error

  def _take_lock(self) -> None:
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      self._lock.close()
      if not isinstance(error, BlockingIOError):
        raise RunError(
          f"{self.path} cannot be locked ({error.strerror}), so that two"
          " processes might write to it; choose a directory on another disk."
        ) from error
      raise BusyError(
        f"Another process is writing to {self.path}; wait for it, or choose"
        " another directory with --out."
      ) from error

  def _check_config(self) -> None:
    file = self.path / "config.json"
    if file.exists():
      directory.check_config(self.path, self.config, self._origin)
      return
    content = {
      "config": self.config,
      "origin": self._origin,
      "id": uuid.uuid4().hex,
      "environment": environment.describe(),
    }
    disk.write_whole(file, (json.dumps(content, indent=2) + "\n").encode())

  def _repair(self) -> None:
    """Drops a last line that was cut, sets aside what a bad disk damaged.

    The rows come again when the work that gave them is done again: the run is
    complete no more.
    """
    file = rows.rows_file(self.path)
    content = file.read_bytes() if file.exists() else b""
    *lines, cut = content.split(b"\n")
    bad = [line for line in lines if rows.parse(line) is None]
    lost = directory.is_marked(self.path) and not self.is_done
    if not (bad or cut or lost):
      return
    if bad or lost:
      # Where it lies, rows of any work may be missing.
      disk.append_whole(self._damaged, rows.join(bad))
    directory.unmark(self.path)
    if bad:
      _LOG.warning(
        "Set aside %d damaged line(s) of %s in %s; their work is done again.",
        len(bad),
        file,
        self._damaged.name,
      )
    if bad or cut:
      good = [line for line in lines if rows.parse(line) is not None]
      disk.write_whole(file, rows.join(good))

  @property
  def _damaged(self) -> pathlib.Path:
    return self.path / "results.jsonl.damaged"

  @property
  def has_holes(self) -> bool:
    """Whether damaged rows were set aside since the run was last complete.

    Then the last row of some work says no more that all of its rows are there.
    """
    return self._damaged.exists() and not self.is_done

  def append(self, found: Iterable[dict[str, Any]]) -> None:
    """Appends rows that are not there yet, all or none of them.

    Rows that are there already (in all but value and stderr) are skipped, so
    that work repeated after a kill leaves the file of an undisturbed run.

    Raises:
      DiskError: the disk is full, or the like; the rows can be appended later.
    """
    new = {}
    for row in map(rows.complete, found):
      if rows.key_of(row) not in self._keys:
        new.setdefault(rows.key_of(row), rows.encode(row))
    if new:
      disk.append_whole(rows.rows_file(self.path), rows.join(new.values()))
      self._keys |= set(new)

  def replace(self, found: Iterable[dict[str, Any]]) -> bool:
    """Puts rows that follow from other runs in the place of all.

    Returns whether that changes them; a complete run is then no more so.
    """
    content = rows.join(rows.encode(rows.complete(row)) for row in found)
    file = rows.rows_file(self.path)
    if file.exists() and file.read_bytes() == content:
      return False
    directory.unmark(self.path)
    disk.write_whole(file, content)
    self._keys = {rows.key_of(row) for row in self.rows()}
    return True

  def rows(self) -> list[dict[str, Any]]:
    """All rows, in the order of their writing."""
    return rows.read_rows(self.path)

  @property
  def is_done(self) -> bool:
    """Whether the run was marked as complete, and its rows are still there."""
    return directory.is_complete(self.path)

  def mark_done(self) -> None:
    """Says that nothing is left to do."""
    directory.mark_complete(self.path)

  def close(self) -> None:
    """Lets other processes have the directory."""
    if self._lock is not None:
      self._lock.close()

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *_) -> None:
    self.close()
