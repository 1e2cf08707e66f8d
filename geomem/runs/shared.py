"""A run directory that several processes share, of which the first writes."""

import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from geomem import parallel
from geomem.runs import units
from geomem.runs.rows import Row, Rows
from geomem.runs.run import Run


class SharedRun:
  """The first process's `Run`, as every process sees it.

  All processes make the same calls together. Each call returns the first
  process's result, or raises its error, in all of them.
  """

  def __init__(
    self,
    path: pathlib.Path | str,
    config: dict[str, Any],
    origin: dict[str, Any] | None = None,
  ):
    """Opens the directory in the first process; see `Run`."""
    self.path = pathlib.Path(path)
    self.config = parallel.from_first(lambda: self._open(config, origin))

  def _open(self, config, origin) -> dict[str, Any]:
    self._run = Run(self.path, config, origin)
    return self._run.config

  @property
  def rows(self) -> Rows:
    """As `Run.rows`."""
    return Rows(parallel.from_first(lambda: list(self._run.rows)))

  @property
  def is_done(self) -> bool:
    """As `Run.is_done`."""
    return parallel.from_first(lambda: self._run.is_done)

  def has(self, key: units.Key) -> bool:
    """Calls `Run.has` in the first process."""
    return parallel.from_first(lambda: self._run.has(key))

  def commit(self, key: units.Key, rows: Iterable[Row] = ()) -> None:
    """Calls `Run.commit` in the first process."""
    parallel.from_first(lambda: self._run.commit(key, rows))

  def replace(self, rows: Iterable[Row]) -> bool:
    """Calls `Run.replace` in the first process."""
    return parallel.from_first(lambda: self._run.replace(rows))

  def finish(self) -> None:
    """Calls `Run.finish` in the first process."""
    parallel.from_first(lambda: self._run.finish())

  def close(self) -> None:
    """Releases the directory for other jobs."""
    if parallel.is_first():
      self._run.close()

  def __enter__(self) -> "SharedRun":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def open_run(
  path: pathlib.Path | str,
  config: dict[str, Any],
  origin: dict[str, Any] | None = None,
) -> Run | SharedRun:
  """Opens a run directory, held by this process or by the first of several.

  Args:
    path: the directory.
    config: the run's config.
    origin: the source of its numbers; see `Run`.
  """
  kind = Run if jax.process_count() == 1 else SharedRun
  return kind(path, config, origin)
