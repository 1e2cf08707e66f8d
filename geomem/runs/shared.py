"""A run directory that several processes share, of which the first writes."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from geomem import environment, parallel
from geomem.runs import directory
from geomem.runs.rows import Rows
from geomem.runs.run import Run

_PATIENCE = 60.0  # Seconds until a file that one host wrote is seen by others.


def _in_first(method: Callable) -> Callable:
  """Makes a method of `SharedRun` of one of `Run`."""

  @functools.wraps(method)
  def call(self, *arguments):
    return parallel.from_first(lambda: method(self._run, *arguments))

  return call


class SharedRun(contextlib.AbstractContextManager):
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
    """Opens the directory in the first process; see `Run`.

    Raises:
      ValueError: the processes differ in their configs, data, versions or
        directories: what they compute together would be nonsense.
    """
    self.path = pathlib.Path(path)
    given = {
      f"value of {field}": value
      for field, value in directory.flat_config(config).items()
      if field not in directory.PLACES
    }
    source = dict(origin or {})
    if "run" in source:  # Its path may differ.
      source["run"] = source["run"]["id"]
    parallel.check_same(
      given
      | {
        "version of geomem or JAX": environment.versions(),
        "fingerprint of the data, or run,": source,
      }
    )
    self.config = parallel.from_first(lambda: self._open(config, origin))
    try:
      parallel.check_same({"run directory, --out,": self._identity()})
    except ValueError:
      self.close()
      raise

  def _open(self, config, origin) -> dict[str, Any]:
    self._run = Run(self.path, config, origin)
    return self._run.config

  def _identity(self) -> str | None:
    """Returns the identifier of the run in this process's directory."""
    first = parallel.from_first(lambda: directory.parent_of(self.path).id)
    found, end = None, time.monotonic() + _PATIENCE
    while True:
      with contextlib.suppress(directory.RunError):
        found = directory.parent_of(self.path).id
      if found == first or time.monotonic() > end:
        return found
      time.sleep(0.1)

  @property
  def rows(self) -> Rows:
    """As `Run.rows`."""
    return Rows(parallel.from_first(lambda: list(self._run.rows)))

  @property
  def is_done(self) -> bool:
    """As `Run.is_done`."""
    return parallel.from_first(lambda: self._run.is_done)

  has, commit, replace, finish, check_place = map(
    _in_first, (Run.has, Run.commit, Run.replace, Run.finish, Run.check_place)
  )

  def close(self) -> None:
    """Releases the directory for other jobs."""
    if parallel.is_first():
      self._run.close()

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
