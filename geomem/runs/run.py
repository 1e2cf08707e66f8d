"""An open run directory, to which one process appends whole groups of rows."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pathlib
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

from geomem import disk, environment
from geomem.runs import directory, units
from geomem.runs.directory import BusyError, RunError
from geomem.runs.lines import Row, encode, parse, rows_file
from geomem.runs.rows import Rows

_LOG = logging.getLogger(__name__)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def _unit(key: units.Key, lines: list[bytes]) -> dict[str, tuple[str, ...]]:
  """Returns the checksums of a unit's lines, by its name."""
  return {units.name_of(key): tuple(map(units.checksum, lines))}


def is_held(path: pathlib.Path | str) -> bool:
  """Returns whether a process holds a run directory; False if there is none."""
  try:
    with open(pathlib.Path(path) / ".lock") as lock:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except OSError as error:
    return isinstance(error, BlockingIOError)
  return False


class Run(contextlib.AbstractContextManager):
  """An open run directory, held by one process at a time."""

  def __init__(
    self,
    path: pathlib.Path | str,
    config: dict[str, Any],
    origin: dict[str, Any] | None = None,
  ):
    """Creates the directory, or resumes the run in it.

    A complete run can also be opened on a read-only disk.

    Args:
      path: the directory.
      config: the run's config, of JSON types.
      origin: the source of its numbers: `data`, the fingerprint of the data, or
        `run`, from `Parent.as_origin`.

    Raises:
      RunError: the directory holds a run with another config, on other data or
        derived from another run.
      BusyError: another process holds the directory.
      DiskError: the directory cannot be written to.
    """
    self.path = pathlib.Path(path)
    self.config = json.loads(json.dumps(config))
    self._origin = json.loads(json.dumps(origin or {}))
    self._units = {}
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

  def _open_lock(self):
    """Opens the lock file; None for a complete run on a read-only disk."""
    disk.check_literal(self.path)
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      # Of a link planted here, neither the target is made nor its content lost.
      flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
      return os.fdopen(os.open(self.path / ".lock", flags, 0o666), "r+")
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
    if not file.exists():
      directory.check_no_results(self.path)
    elif not self._is_replaced():
      directory.check_unrounded(self.path)
      self._warn_of_other_versions()
      return
    content = {
      "config": self.config,
      "origin": self._origin,
      "id": uuid.uuid4().hex,
      "environment": environment.describe(),
    }
    disk.write_whole(file, (json.dumps(content, indent=2) + "\n").encode())

  def _is_replaced(self) -> bool:
    """Returns whether the present config takes the place of one without work.

    Raises:
      RunError: the directory holds another run.
    """
    directory.read_content(self.path)  # Files of others are not replaced.
    try:
      directory.check_config(self.path, self.config, self._origin)
    except RunError:
      if directory.has_work(self.path):
        raise
      # Of the other config; they are made again.
      for labels in self.path.glob("labels_seed*.npz"):
        labels.unlink()
      return True
    return False

  def _warn_of_other_versions(self) -> None:
    """Warns if the remaining rows come from other code than the first ones."""
    if self.is_done:
      return
    recorded = directory.read_content(self.path).get("environment")
    changes = environment.changes_since(recorded)
    if changes:
      _LOG.warning(
        "%s was begun with %s; the rest is computed with the present version.",
        self.path,
        ", ".join(changes),
      )

  def _repair(self) -> None:
    """Keeps the rows of whole units; moves all others to another file.

    Rows that an interrupted unit has just written are dropped: the unit is done
    again, and the file becomes that of an uninterrupted run. A complete run is
    not changed.
    """
    if self.is_done:
      self._units = units.read_units(self.path)
      return
    file, journal_file = rows_file(self.path), units.units_file(self.path)
    content = units.content(file)
    # Editors and version control may have changed the ends of lines.
    lines = content.replace(b"\r\n", b"\n").split(b"\n")
    known = units.read_units(self.path)
    self._units = units.whole_units(known, lines)
    left = Counter(line for group in self._units.values() for line in group)
    kept, others = [], []
    for line in lines:
      if left[units.checksum(line)]:
        left[units.checksum(line)] -= 1
        kept.append(line)
      elif line.strip():
        others.append(line)
    journal = units.journal(self._units)
    directory.unmark(self.path)
    # A torn last line of the journal would spoil the next one as well.
    if units.join(kept) == content and journal == units.content(journal_file):
      return
    # A killed unit leaves rows only behind those of the units in the journal.
    is_tail = known == self._units != {} and lines[: len(kept)] == kept
    is_tail |= known.keys() == {units.name_of({})}  # Derived by `replace`.
    if others and not (is_tail and all(map(parse, others[:-1]))):
      aside = self.path / "results.jsonl.damaged"
      disk.append_whole(aside, units.join(others))
      _LOG.warning(
        "Moved %d line(s) of %s to %s, as they are damaged or their unit of"
        " work is not whole; the work is repeated.",
        len(others),
        file,
        aside.name,
      )
    disk.write_whole(journal_file, journal)
    disk.write_whole(file, units.join(kept))

  def check_place(self) -> None:
    """Checks that the directory is still the one that is locked.

    Raises:
      RunError: it was moved or removed, and another may be in its place.
    """
    if self._lock is None:
      return
    with contextlib.suppress(OSError):
      there = os.stat(self.path / ".lock")
      if os.path.samestat(there, os.fstat(self._lock.fileno())):
        return
    raise RunError(
      f"{self.path} is no longer the directory that was opened: it was moved,"
      " or its file .lock was removed, and another process may work in its"
      " place. Nothing more is written there; repeat the command to continue."
    )

  def has(self, key: units.Key) -> bool:
    """Returns whether a unit of work is done: all of its rows are on disk."""
    return units.name_of(key) in self._units

  def commit(self, key: units.Key, rows: Iterable[Row] = ()) -> None:
    """Appends the rows of a unit of work, all of them or none.

    Does nothing if the unit is already done.

    Args:
      key: identifies the unit within the run, of JSON types.
      rows: the unit's rows; missing columns become null.

    Raises:
      DiskError: writing fails; the unit can be committed later.
    """
    if self.has(key):
      return
    self.check_place()
    lines = [encode(row) for row in rows]
    unit, file = _unit(key, lines), rows_file(self.path)
    length = file.stat().st_size if file.exists() else 0
    disk.append_whole(file, units.join(lines))
    try:
      disk.append_whole(units.units_file(self.path), units.journal(unit))
    except BaseException:
      os.truncate(file, length)
      raise
    self._units |= unit

  def replace(self, rows: Iterable[Row]) -> bool:
    """Replaces all rows by rows that are derived from other runs.

    Returns whether the rows changed; if so, the run is no longer complete.
    """
    self.check_place()
    lines = [encode(row) for row in rows]
    file = rows_file(self.path)
    if units.content(file) == units.join(lines):
      return False
    directory.unmark(self.path)
    unit = _unit({}, lines)
    disk.write_whole(units.units_file(self.path), units.journal(unit))
    disk.write_whole(file, units.join(lines))
    self._units = unit
    return True

  @property
  def rows(self) -> Rows:
    """All rows, in the order in which they were written."""
    return directory.read_rows(self.path)

  @property
  def is_done(self) -> bool:
    """Whether the run is marked as complete and its rows are unchanged."""
    return directory.is_complete(self.path)

  def finish(self) -> None:
    """Marks the run as complete."""
    self.check_place()
    directory.mark_complete(self.path)

  def close(self) -> None:
    """Releases the directory to other processes."""
    if self._lock is not None:
      self._lock.close()

  def __exit__(self, *_) -> None:
    self.close()
