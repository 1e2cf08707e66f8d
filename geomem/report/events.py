"""Rows as TensorBoard event files, without TensorFlow.

They are written of a finished run, or while a run is in progress.
"""

import contextlib
import json
import logging
import os
import pathlib
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from geomem import disk, runs
from geomem.report.page import parts_of

_LOG = logging.getLogger(__name__)
_SECONDS = 5.0  # Between updates.
# The delay until added points are on disk; the writer's own `flush` may run
# before the thread that writes.
_FLUSH_SECONDS = 2.0


# The points of each tag's curve: (value, epoch).
Curves = dict[str, list[tuple[float, int]]]


class _Live:
  """The event files of a run, by seed and subset, and their number of rows."""

  def __init__(self, path: pathlib.Path, target: pathlib.Path):
    self._path, self._target = path, target
    self._open = import_writer()
    self._writers, self._count, self._looked = {}, 0, 0.0
    self._is_ended = False

  def begin(self) -> None:
    """Recreates the directory, so that TensorBoard sees no row twice."""
    with self._guarded():
      shutil.rmtree(self._target, ignore_errors=True)
      _write_config(self._open, self._path, self._target)
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
        if name not in self._writers:
          self._writers[name] = self._open(
            str(self._target / name), flush_secs=_FLUSH_SECONDS
          )
        _add_scalars(self._writers[name], tags)

  def end(self) -> None:
    """Rewrites all rows by epoch, as they came in the order of measuring."""
    self._close()
    if self._is_ended:  # Files after a write error stay as they are.
      return
    self._count = 0
    self.begin()
    self._close()

  def _close(self) -> None:
    for writer in self._writers.values():
      with self._guarded():
        writer.close()
    self._writers = {}

  @contextlib.contextmanager
  def _guarded(self) -> Iterator[None]:
    """Lets the run continue where the files cannot be written."""
    try:
      yield
    except OSError as error:
      if not self._is_ended:
        _LOG.warning(
          "%s cannot be written: %s. Work continues without it.",
          self._target,
          error.strerror or error,
        )
      self._is_ended = True


@contextlib.contextmanager
def live_events(path: pathlib.Path | str) -> Iterator[Callable[[], None]]:
  """Writes the rows of a run into `tensorboard` below it as they come.

  The directory is recreated: rows of earlier starts come first, so that it has
  each row once. The cells of a sweep have event files, the sweep has none.

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
    RunError: `path` is not a run directory, or tensorboardX is not installed.
    DiskError: `out` begins with `~`.
  """
  path = pathlib.Path(path)
  runs.read_config(path)
  open_writer = import_writer()
  above = path if out is None else pathlib.Path(out)
  target = above / "tensorboard"
  disk.check_literal(target)
  new = above / f".tensorboard.{os.getpid()}"
  old = above / f".tensorboard.{os.getpid()}.old"
  try:
    for part in parts_of(path):
      _write_part(open_writer, part, new / part.relative_to(path))
    if target.exists():
      target.rename(old)
    new.rename(target)
  finally:
    if old.exists() and not target.exists():
      old.rename(target)
    for leftover in (new, old):
      shutil.rmtree(leftover, ignore_errors=True)
  return target


def import_writer() -> Callable[[str], Any]:
  """Returns the class that opens an event file in a directory.

  Raises:
    RunError: tensorboardX is not installed.
  """
  try:
    import tensorboardX
  except ImportError as error:
    raise runs.RunError(
      "TensorBoard's files are written by tensorboardX, which is not installed;"
      " in the clone of geomem, pip install '.[tensorboard]' installs it, and"
      " TensorBoard itself."
    ) from error
  return tensorboardX.SummaryWriter


def _write_part(open_writer, part: pathlib.Path, target: pathlib.Path) -> None:
  config = _write_config(open_writer, part, target)
  by_run = curves(runs.read_rows(part), config.get("axes", []))
  for name, tags in by_run.items():
    # A single point is not a curve.
    tags = {tag: points for tag, points in tags.items() if len(points) > 1}
    with open_writer(str(target / name)) as writer:
      _add_scalars(writer, tags)


def _write_config(
  open_writer, part: pathlib.Path, target: pathlib.Path
) -> dict[str, Any]:
  """Writes the config of a run as text, and returns it."""
  config = runs.read_config(part)
  with open_writer(str(target)) as writer:
    text = json.dumps(config, indent=2).replace("\n", "\n    ")
    writer.add_text("config", f"    {text}", 0)
  return config


def _add_scalars(writer, tags: Curves) -> None:
  """Adds curves to an event file."""
  for tag, points in tags.items():
    for value, epoch in points:
      writer.add_scalar(tag, value, epoch)


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
