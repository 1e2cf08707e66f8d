"""Rows as TensorBoard's event files while a run is worked on."""

import contextlib
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

from geomem import runs
from geomem.report import events

_LOG = logging.getLogger(__name__)
_SECONDS = 5.0  # Between looks at the rows.
# Until what was added is on the disk: the writer's own `flush` may come before
# the thread that writes.
_FLUSH_SECONDS = 2.0


class _Live:
  """The event files of a run, by seed and subset, and the rows in them."""

  def __init__(self, path: pathlib.Path, target: pathlib.Path):
    self._path, self._target = path, target
    self._open = events.import_writer()
    self._writers, self._count, self._looked = {}, 0, 0.0
    self._is_ended = False

  def begin(self) -> None:
    """Makes the directory anew: TensorBoard sees no row twice."""
    with self._guarded():
      shutil.rmtree(self._target, ignore_errors=True)
      events.write_config(self._open, self._path, self._target)
      self.update()

  def look(self) -> None:
    """Adds what is new, where the last look was some time ago."""
    if time.monotonic() - self._looked > _SECONDS:
      self.update()

  def update(self) -> None:
    """Adds the rows that were committed since."""
    if self._is_ended:
      return
    with self._guarded():
      rows = runs.read_rows(self._path)
      found = events.curves(rows[self._count :], [])
      self._count, self._looked = len(rows), time.monotonic()
      for name, tags in found.items():
        if name not in self._writers:
          self._writers[name] = self._open(
            str(self._target / name), flush_secs=_FLUSH_SECONDS
          )
        events.add_scalars(self._writers[name], tags)

  def end(self) -> None:
    """Writes all once more, by epoch: rows came in the order of measuring."""
    self._close()
    if self._is_ended:  # What could be written is left as it is.
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
    """Lets the work go on where the files cannot be written."""
    try:
      yield
    except OSError as error:
      if not self._is_ended:
        _LOG.warning(
          "%s cannot be written: %s. The work goes on without it.",
          self._target,
          error.strerror or error,
        )
      self._is_ended = True


@contextlib.contextmanager
def live_events(path: pathlib.Path | str) -> Iterator[Callable[[], None]]:
  """Writes the rows of a run into `tensorboard` below it while they come.

  What is there is made anew: rows of earlier starts come first, so that each is
  there once. The cells of a sweep have event files, and the sweep has none.

  Args:
    path: the run directory, of a run that is open in this process.

  Yields:
    What is called after every step, and looks for new rows now and then.

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
