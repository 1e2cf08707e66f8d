"""Rows as TensorBoard event files while a run is in progress."""

import contextlib
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

from geomem import runs
from geomem.report import events

_LOG = logging.getLogger(__name__)
_SECONDS = 5.0  # Between updates.
# The delay until added points are on disk; the writer's own `flush` may run
# before the thread that writes.
_FLUSH_SECONDS = 2.0


class _Live:
  """The event files of a run, by seed and subset, and their number of rows."""

  def __init__(self, path: pathlib.Path, target: pathlib.Path):
    self._path, self._target = path, target
    self._open = events.import_writer()
    self._writers, self._count, self._looked = {}, 0, 0.0
    self._is_ended = False

  def begin(self) -> None:
    """Recreates the directory, so that TensorBoard sees no row twice."""
    with self._guarded():
      shutil.rmtree(self._target, ignore_errors=True)
      events.write_config(self._open, self._path, self._target)
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
      by_run = events.curves(rows[self._count :], [])
      self._count, self._looked = len(rows), time.monotonic()
      for name, tags in by_run.items():
        if name not in self._writers:
          self._writers[name] = self._open(
            str(self._target / name), flush_secs=_FLUSH_SECONDS
          )
        events.add_scalars(self._writers[name], tags)

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
