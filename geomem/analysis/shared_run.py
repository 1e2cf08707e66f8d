"""A run directory that several processes work on: the first one writes."""

import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from geomem import parallel, runs


class SharedRun:
  """A `runs.Run` of the first process, as every process sees it.

  All of them ask the same at the same time, and get the first one's answer, or
  fail by its error.
  """

  def __init__(
    self,
    path: pathlib.Path | str,
    config: dict[str, Any],
    origin: dict[str, Any] | None = None,
  ):
    """Opens the directory in the first process; see `runs.Run`."""
    self.path = pathlib.Path(path)
    self.config = parallel.from_first(lambda: self._open(config, origin))

  def _open(self, config, origin) -> dict[str, Any]:
    self._run = runs.Run(self.path, config, origin)
    return self._run.config

  def __getattr__(self, name: str) -> Any:
    """Anything else that a run knows of itself."""
    if name.startswith("_"):
      raise AttributeError(name)
    return parallel.from_first(lambda: getattr(self._run, name))

  def rows(self) -> list[dict[str, Any]]:
    """As `runs.Run.rows`."""
    return parallel.from_first(lambda: self._run.rows())

  def append(self, rows: Iterable[dict[str, Any]]) -> None:
    """As `runs.Run.append`."""
    parallel.from_first(lambda: self._run.append(rows))

  def replace(self, rows: Iterable[dict[str, Any]]) -> bool:
    """As `runs.Run.replace`."""
    return parallel.from_first(lambda: self._run.replace(rows))

  def mark_done(self) -> None:
    """As `runs.Run.mark_done`."""
    parallel.from_first(lambda: self._run.mark_done())

  def close(self) -> None:
    """Lets other jobs have the directory."""
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
) -> runs.Run | SharedRun:
  """The run directory, held by this process, or by the first of several.

  Args:
    path: the directory.
    config: what the run is made of.
    origin: what it comes from; see `runs.Run`.
  """
  kind = runs.Run if jax.process_count() == 1 else SharedRun
  return kind(path, config, origin)
