"""Rows as TensorBoard event files, without TensorFlow.

They are written of a finished run, or while a run is in progress.
"""

import contextlib
import json
import logging
import os
import pathlib
import shutil
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from geomem import disk, runs
from geomem.report.page import parts_of

_LOG = logging.getLogger(__name__)
_SECONDS = 5.0  # Between updates.
# TensorBoard reads all of these, and no other program writes the latter. Below
# a run, those of earlier versions are its own, too.
_FILES, _OWN_FILES = "events.out.tfevents.*", "events.out.tfevents.*.geomem"

# The points of each tag's curve: (value, epoch).
Curves = dict[str, list[tuple[float, int]]]


class _EventFile:
  """A new event file; points are on disk once they are added.

  tensorboardX's own writer hands them to a thread, and waits forever once that
  has failed, as on a full disk.
  """

  def __init__(self, directory: pathlib.Path):
    """Creates the file, and the directory if it is missing."""
    with disk.explained(directory):
      directory.mkdir(parents=True, exist_ok=True)
    began = f"{time.time():010.0f}.{socket.gethostname()}"
    self._file = directory / _OWN_FILES.replace("*", began)
    self._append([{"file_version": "brain.Event:2"}])

  def add_text(self, tag: str, text: str) -> None:
    """Adds a text."""
    from tensorboardX import summary

    self._append([{"summary": summary.text(tag, text)}])

  def add_curves(self, tags: Curves) -> None:
    """Adds points to curves."""
    from tensorboardX import summary

    self._append(
      {"summary": summary.scalar(tag, value), "step": int(epoch)}
      for tag, points in tags.items()
      for value, epoch in points
    )

  def _append(self, events: Iterable[dict[str, Any]]) -> None:
    """Appends events, all or none, in the form of TFRecord."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = []
    for event in events:
      record = Event(wall_time=time.time(), **event).SerializeToString()
      for part in (struct.pack("<Q", len(record)), record):
        content += part, struct.pack("<I", masked_crc32c(part))
    disk.append_whole(self._file, b"".join(content))


class _Live:
  """The event files of a run, by seed and subset, and their number of rows."""

  def __init__(self, path: pathlib.Path, target: pathlib.Path):
    check_installed()
    self._path, self._target = path, target
    self._files, self._count, self._looked = {}, 0, 0.0
    self._is_ended = False

  def begin(self) -> None:
    """Recreates the files, so that TensorBoard sees no row twice."""
    with self._guarded():
      with disk.explained(self._target):
        for file in self._target.rglob(_FILES):
          file.unlink()
      _write_config(self._path, self._target)
      self.update()

  def look(self) -> None:
    """Adds new rows, unless the last update was only seconds ago."""
    if time.monotonic() - self._looked > _SECONDS:
      self.update()

  def update(self) -> None:
    """Adds the rows committed since the last update."""
    if self._is_ended:
      return
    with self._guarded():
      rows = runs.read_rows(self._path)
      by_run = curves(rows[self._count :], [])
      self._count, self._looked = len(rows), time.monotonic()
      for name, tags in by_run.items():
        if name not in self._files:
          self._files[name] = _EventFile(self._target / name)
        self._files[name].add_curves(tags)

  def end(self) -> None:
    """Rewrites all rows by epoch, as they came in the order of measuring."""
    if self._is_ended:  # Files after a write error stay as they are.
      return
    self._files, self._count = {}, 0
    self.begin()

  @contextlib.contextmanager
  def _guarded(self) -> Iterator[None]:
    """Lets the run continue where the files cannot be written."""
    try:
      yield
    except disk.DiskError as error:
      _LOG.warning("%s Work continues without event files.", error)
      self._is_ended = True


@contextlib.contextmanager
def live_events(path: pathlib.Path | str) -> Iterator[Callable[[], None]]:
  """Writes the rows of a run into `tensorboard` below it as they come.

  The files are recreated: rows of earlier starts come first, so that each row
  is there once. The cells of a sweep have event files, the sweep has none.

  Args:
    path: the directory of a run that is open in this process.

  Yields:
    A function to call after every step; it adds new rows now and then.

  Raises:
    RunError: tensorboardX is not installed.
  """
  path = pathlib.Path(path)
  if runs.read_config(path).get("axes"):
    yield lambda: None
    return
  live = _Live(path, path / "tensorboard")
  live.begin()
  try:
    yield live.look
  finally:
    live.end()


def write_events(
  path: pathlib.Path | str, out: pathlib.Path | str | None = None
) -> pathlib.Path:
  """Writes the rows of a run directory by epoch into `tensorboard` below it.

  Every seed and subset (and cell, in a sweep) is a TensorBoard run, so that the
  subsets of a metric share a chart. The directory is rebuilt each time, and
  replaces the earlier one when it is complete.

  Args:
    path: the run directory.
    out: the parent directory of `tensorboard`; the run's own by default.

  Returns:
    The directory, for `tensorboard --logdir`.

  Raises:
    RunError: `path` is not a run directory, tensorboardX is not installed, or
      `tensorboard` holds other files.
    DiskError: they cannot be written; earlier ones are unchanged.
  """
  path = pathlib.Path(path)
  runs.read_config(path)
  check_installed()
  above = path if out is None else pathlib.Path(out)
  target = above / "tensorboard"
  disk.check_literal(target)
  own_files = _OWN_FILES if out else _FILES
  for file in target.rglob("*"):
    if not (file.is_dir() or file.match(own_files)):
      raise runs.RunError(
        f"{target} would be replaced, but {file} is none of geomem's event"
        " files. Move it away, or choose another directory with --out."
      )
  new = above / f".tensorboard.{os.getpid()}"
  old = above / f".tensorboard.{os.getpid()}.old"
  try:
    for part in parts_of(path):
      _write_part(part, new / part.relative_to(path))
    with disk.explained(target):
      if target.exists():
        target.rename(old)
      new.rename(target)
  finally:
    if old.exists() and not target.exists():
      old.rename(target)
    for leftover in (new, old):
      shutil.rmtree(leftover, ignore_errors=True)
  return target


def check_installed() -> None:
  """Checks that there is tensorboardX, which defines the messages in the files.

  Raises:
    RunError: it is not installed.
  """
  try:
    import tensorboardX  # noqa: F401
  except ImportError as error:
    raise runs.RunError(
      "TensorBoard's files are written by tensorboardX, which is not installed;"
      " in the clone of geomem, pip install '.[tensorboard]' installs it, and"
      " TensorBoard itself."
    ) from error


def _write_part(part: pathlib.Path, target: pathlib.Path) -> None:
  config = _write_config(part, target)
  by_run = curves(runs.read_rows(part), config.get("axes", []))
  for name, tags in by_run.items():
    # A single point is not a curve.
    tags = {tag: points for tag, points in tags.items() if len(points) > 1}
    _EventFile(target / name).add_curves(tags)


def _write_config(part: pathlib.Path, target: pathlib.Path) -> dict[str, Any]:
  """Writes the config of a run as text, and returns it."""
  config = runs.read_config(part)
  text = json.dumps(config, indent=2).replace("\n", "\n    ")
  _EventFile(target).add_text("config", f"    {text}")
  return config


def curves(rows: list[dict], axes: list[str]) -> dict[str, Curves]:
  """Groups the rows that have an epoch by TensorBoard run and tag."""
  further = dict.fromkeys(name for row in rows for name in row)
  further = [n for n in further if n not in (*runs.COLUMNS, *axes)]
  by_run = defaultdict(lambda: defaultdict(list))
  for row in rows:
    if None in (row["epoch"], row["seed"]) or not runs.has_value(row):
      continue
    cell = [f"{axis}={row.get(axis)}" for axis in axes]
    name = "/".join([*cell, f"seed{row['seed']}", row["subset"] or "network"])
    extra = [str(row[n]) for n in further if row.get(n) is not None]
    tag = [row["metric"], "-".join(extra), row["layer"] or ""]
    point = (row["value"], row["epoch"])
    by_run[name]["/".join(filter(None, tag))].append(point)
  for tags in by_run.values():
    for points in tags.values():  # Rows are in the order of measuring.
      points.sort(key=lambda point: point[1])
  return by_run
