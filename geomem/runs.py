"""A run directory: config, tidy result rows, done marker."""

import fcntl
import json
import logging
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from geomem import disk, environment

_LOG = logging.getLogger(__name__)

COLUMNS = (
  "seed",
  "epoch",
  "layer",
  "layer_index",
  "subset",
  "metric",
  "value",
  "stderr",
)


# Where things lie may change; what a run is made of may not.
_PLACES = ("data_dir",)


class RunError(ValueError):
  """A run directory cannot be used as asked."""


class BusyError(RunError):
  """Another process holds the run directory."""


def read_config(path: pathlib.Path | str) -> dict[str, Any]:
  """The config of a run directory."""
  file = pathlib.Path(path) / "config.json"
  if not file.exists():
    raise RunError(
      f"{path} is not a run directory: it holds no config.json. Give the"
      " --out directory of an earlier run."
    )
  try:
    return json.loads(file.read_text())["config"]
  except (ValueError, KeyError, TypeError) as error:
    raise RunError(
      f"{file} is damaged: it is not the JSON of a config. Put it back from a"
      " copy, or choose another directory with --out."
    ) from error


def read_rows(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """The rows of a run directory; a damaged line is named and left out."""
  file = pathlib.Path(path) / "results.jsonl"
  rows = []
  if not file.exists():
    return rows
  for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
    if _is_row(line):
      row = json.loads(line)
      # JSON has no number for what is not one.
      rows.append(row | {"value": _number(row.get("value"))})
    else:
      _LOG.warning("Line %d of %s is damaged; left out.", number, file)
  return rows


class Run:
  """An open run directory, held by one process at a time."""

  def __init__(self, path: pathlib.Path | str, config: dict[str, Any]):
    """Creates the directory, or resumes the run in it.

    Args:
      path: the directory.
      config: what the run is made of, of JSON types.

    Raises:
      RunError: the directory is of another config.
      BusyError: another process holds it.
      DiskError: it cannot be written to.
    """
    self.path = pathlib.Path(path)
    self.config = json.loads(json.dumps(config))
    with disk.explained(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = open(self.path / ".lock", "w")  # noqa: SIM115
    self._take_lock()
    try:
      disk.remove_partial(self.path)
      self._check_config()
      self._repair()
    except Exception:
      self._lock.close()
      raise
    self._keys = {_key(row) for row in self.rows()}

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
      content = {"config": self.config, "environment": environment.describe()}
      disk.write_whole(file, (json.dumps(content, indent=2) + "\n").encode())
      return
    old = read_config(self.path)
    for field in [*old, *self.config]:
      if field in _PLACES:
        continue
      if old.get(field) != self.config.get(field):
        raise RunError(
          f"{self.path} holds a run with another {field}:"
          f" {old.get(field)!r} there, {self.config.get(field)!r} asked for."
          " Choose another directory with --out, or give the same flags."
        )

  def _repair(self) -> None:
    """Drops a last line that was cut, sets aside what a bad disk damaged.

    The rows come again when the work that gave them is done again: the run is
    complete no more.
    """
    file = self.path / "results.jsonl"
    if not file.exists():
      return
    *lines, cut = file.read_bytes().split(b"\n")
    good = [line for line in lines if _is_row(line)]
    bad = [line for line in lines if not _is_row(line)]
    if not (bad or cut):
      return
    (self.path / "done").unlink(missing_ok=True)
    if bad:
      disk.append_whole(self._damaged, _joined(bad))
      _LOG.warning(
        "Set aside %d damaged line(s) of %s in %s; their work is done again.",
        len(bad),
        file,
        self._damaged.name,
      )
    disk.write_whole(file, _joined(good))

  @property
  def _damaged(self) -> pathlib.Path:
    return self.path / "results.jsonl.damaged"

  @property
  def has_holes(self) -> bool:
    """Whether damaged rows were set aside since the run was last complete.

    Then the last row of some work says no more that all of its rows are there.
    """
    return self._damaged.exists() and not self.is_done

  def append(self, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows that are not there yet, all or none of them.

    Rows that are there already (in all but value and stderr) are skipped, so
    that work repeated after a kill leaves the file of an undisturbed run.

    Raises:
      DiskError: the disk is full, or the like; the rows can be appended later.
    """
    new = {}
    for row in map(_complete, rows):
      if _key(row) not in self._keys:
        new.setdefault(_key(row), json.dumps(row, allow_nan=False))
    if new:
      lines = _joined([line.encode() for line in new.values()])
      disk.append_whole(self.path / "results.jsonl", lines)
      self._keys |= set(new)

  def replace(self, rows: Iterable[dict[str, Any]]) -> bool:
    """Puts rows that follow from other runs in the place of all.

    Returns whether that changes them; a complete run is then no more so.
    """
    lines = [json.dumps(row, allow_nan=False) for row in map(_complete, rows)]
    content = _joined([line.encode() for line in lines])
    file = self.path / "results.jsonl"
    if file.exists() and file.read_bytes() == content:
      return False
    (self.path / "done").unlink(missing_ok=True)
    disk.write_whole(file, content)
    self._keys = {_key(row) for row in self.rows()}
    return True

  def rows(self) -> list[dict[str, Any]]:
    """All rows, in the order of their writing."""
    return read_rows(self.path)

  @property
  def is_done(self) -> bool:
    """Whether the run was marked as complete."""
    return (self.path / "done").exists()

  def mark_done(self) -> None:
    """Says that nothing is left to do."""
    disk.write_whole(self.path / "done", b"")

  def close(self) -> None:
    """Lets other processes have the directory."""
    self._lock.close()

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _number(value: Any) -> Any:
  return math.nan if value is None else value


def _joined(lines: list[bytes]) -> bytes:
  return b"".join(line + b"\n" for line in lines)


def _is_row(line: bytes) -> bool:
  try:
    return "metric" in dict(json.loads(line))
  except (ValueError, TypeError):
    return False


def _plain(value: Any) -> Any:
  """JSON's own types; a number that is not finite becomes null."""
  if isinstance(value, np.ndarray | np.generic) or hasattr(value, "item"):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _complete(row: dict[str, Any]) -> dict[str, Any]:
  return {name: _plain(row.get(name)) for name in [*COLUMNS, *row]}


def _key(row: dict[str, Any]) -> tuple:
  return tuple(
    sorted((k, repr(v)) for k, v in row.items() if k not in COLUMNS[-2:])
  )
