"""A run directory: config, tidy result rows, done marker."""

import datetime
import fcntl
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable
from typing import Any

import numpy as np

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
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jaxopt", "orbax-checkpoint")


class RunError(ValueError):
  """A run directory cannot be used as asked."""


class BusyError(RunError):
  """Another process holds the run directory."""


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with open(temporary, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def read_config(path: pathlib.Path | str) -> dict[str, Any]:
  """The config of a run directory."""
  file = pathlib.Path(path) / "config.json"
  if not file.exists():
    raise RunError(
      f"{path} is not a run directory: it holds no config.json. Give the"
      " --out directory of an earlier run."
    )
  return json.loads(file.read_text())["config"]


def read_rows(path: pathlib.Path | str) -> list[dict[str, Any]]:
  """The rows of a run directory; a damaged line is named and left out."""
  file = pathlib.Path(path) / "results.jsonl"
  rows = []
  if not file.exists():
    return rows
  for number, line in enumerate(file.read_bytes().splitlines(), start=1):
    try:
      rows.append(json.loads(line))
    except ValueError:
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
      RunError: the directory is of another config or not writable.
      BusyError: another process holds it.
    """
    self.path = pathlib.Path(path)
    self.config = json.loads(json.dumps(config))
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = open(self.path / ".lock", "w")  # noqa: SIM115
    except OSError as error:
      raise RunError(
        f"{self.path} cannot be written ({error.strerror}); choose another"
        " directory with --out."
      ) from error
    self._take_lock()
    try:
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
      raise BusyError(
        f"Another process is writing to {self.path}; wait for it, or choose"
        " another directory with --out."
      ) from error

  def _check_config(self) -> None:
    file = self.path / "config.json"
    if not file.exists():
      content = {"config": self.config, "environment": _environment()}
      write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
      return
    old = read_config(self.path)
    for field in [*old, *self.config]:
      if old.get(field) != self.config.get(field):
        raise RunError(
          f"{self.path} holds a run with another {field}:"
          f" {old.get(field)!r} there, {self.config.get(field)!r} asked for."
          " Choose another directory with --out, or give the same flags."
        )

  def _repair(self) -> None:
    """Drops lines that a killed process or a bad disk left unreadable.

    What is dropped stays in `results.jsonl.damaged`; the rows come again when
    the work that gave them is done again.
    """
    file = self.path / "results.jsonl"
    if not file.exists():
      return
    content = file.read_bytes()
    good = [line for line in content.splitlines(True) if _is_row(line)]
    if len(b"".join(good)) == len(content):
      return
    bad = [line for line in content.splitlines(True) if not _is_row(line)]
    with open(file.with_suffix(".jsonl.damaged"), "ab") as kept:
      kept.writelines(line.rstrip(b"\n") + b"\n" for line in bad)
    _LOG.warning("Set aside %d damaged line(s) of %s.", len(bad), file)
    write_atomically(file, b"".join(good))

  def append(self, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows that are not there yet, in one write.

    Rows that are there already (in all but value and stderr) are skipped, so
    that work repeated after a kill leaves the file of an undisturbed run.
    """
    lines = []
    for row in map(_complete, rows):
      if _key(row) not in self._keys:
        self._keys.add(_key(row))
        lines.append(json.dumps(row, allow_nan=False) + "\n")
    if lines:
      with open(self.path / "results.jsonl", "ab") as file:
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())

  def replace(self, rows: Iterable[dict[str, Any]]) -> bool:
    """Puts rows that follow from other runs in the place of all.

    Returns whether that changes them; a complete run is then no more so.
    """
    lines = [json.dumps(row, allow_nan=False) for row in map(_complete, rows)]
    content = "".join(line + "\n" for line in lines).encode()
    file = self.path / "results.jsonl"
    if file.exists() and file.read_bytes() == content:
      return False
    (self.path / "done").unlink(missing_ok=True)
    write_atomically(file, content)
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
    write_atomically(self.path / "done", b"")

  def close(self) -> None:
    """Lets other processes have the directory."""
    self._lock.close()

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _is_row(line: bytes) -> bool:
  try:
    return line.endswith(b"\n") and isinstance(json.loads(line), dict)
  except ValueError:
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


def _git_revision() -> str | None:
  try:
    result = subprocess.run(
      ["git", "rev-parse", "HEAD"],
      capture_output=True,
      text=True,
      check=True,
      cwd=pathlib.Path(__file__).parent,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return result.stdout.strip()


def _environment() -> dict[str, Any]:
  now = datetime.datetime.now(datetime.UTC)
  return {
    "started": now.isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "geomem_revision": _git_revision(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }
