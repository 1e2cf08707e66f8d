"""A run directory that several processes share, of which the first writes."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from geomem import parallel
from geomem.runs.rows import Rows
from geomem.runs.run import Run


def _in_first(method: Callable) -> Callable:
  """Makes a method of `SharedRun` of one of `Run`."""

  @functools.wraps(method)
  def call(self, *arguments):
    return parallel.from_first(lambda: method(self._run, *arguments))

  return call


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

  has, commit, replace, finish, check_place = map(
    _in_first,
    (Run.has, Run.commit, Run.replace, Run.finish, Run.check_place),
  )

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
