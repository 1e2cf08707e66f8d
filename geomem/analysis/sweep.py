"""Sweeps: one experiment at many values, each a run directory of its own."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from geomem import parallel, runs
from geomem.analysis import experiment as experiments
from geomem.analysis.config import ExperimentConfig, config_dict
from geomem.analysis.shared_run import open_run


class Cell(NamedTuple):
  """One job of a sweep: all seeds at one value of each swept field.

  Attributes:
    path: its run directory, below the sweep's.
    config: its config.
  """

  path: pathlib.Path
  config: ExperimentConfig


class Outcome(NamedTuple):
  """What became of a cell.

  Attributes:
    cell: the cell.
    state: `done` now or earlier, `failed`, or `busy`: another process has it.
    error: what a failed cell failed by.
  """

  cell: Cell
  state: str
  error: Exception | None = None


def make_cells(
  path: pathlib.Path | str,
  config: ExperimentConfig,
  axes: dict[str, Sequence[Any]],
) -> list[Cell]:
  """All cells of a sweep, the last axis fastest.

  Args:
    path: the sweep's directory.
    config: what the cells share.
    axes: the values of each swept field.

  Raises:
    ValueError: a value is given twice.
  """
  for field, values in axes.items():
    if len(set(values)) < len(values):
      raise ValueError(
        f"--{field} names a value twice in {', '.join(map(str, values))};"
        " each is a cell of its own."
      )
  cells = []
  for values in itertools.product(*axes.values()):
    chosen = dict(zip(axes, values, strict=True))
    name = ",".join(f"{field}={value}" for field, value in chosen.items())
    cells.append(
      Cell(pathlib.Path(path) / name, dataclasses.replace(config, **chosen))
    )
  return cells


def share_of(cells: list[Cell], share: str | None) -> list[Cell]:
  """The cells of one of n processes: `i/n`, i from 0; all without a share."""
  if share is None:
    return cells
  found = re.fullmatch(r"(\d+)/(\d+)", share)
  if not found or not int(found[1]) < int(found[2]):
    raise ValueError(
      f"--cell={share} is no share; i/n gives the i-th of n processes its part"
      " of the cells, i from 0 to n - 1."
    )
  return cells[int(found[1]) :: int(found[2])]


def sweep_config(
  kind: str, config: ExperimentConfig, axes: dict[str, Any]
) -> dict[str, Any]:
  """The sweep's own config: what its cells share, and the names of its axes.

  The values of the axes are not in it, so that a sweep can grow.
  """
  shared = {k: v for k, v in config_dict(config).items() if k not in axes}
  return {"experiment": kind, "axes": list(axes), **shared}


def run_cells(
  cells: Sequence[Cell], work: Callable[..., None]
) -> Iterator[Outcome]:
  """Does the cells that are not done yet, those that others hold last.

  A cell that fails does not keep the others from being done.

  Args:
    cells: the cells.
    work: `work(run, experiment, seeds)` does what a cell is there for, and can
      be cut off and done again.

  Yields:
    One outcome after each cell; `busy` each time that a cell is found held by
    another process, for the caller to wait before the next attempt.
  """
  waiting = list(cells)
  while waiting:
    held = []
    for cell in waiting:
      try:
        _run_cell(cell, work)
      except runs.BusyError as error:
        held.append(cell)
        if len(held) == len(waiting):  # Nothing else is left to do.
          yield Outcome(cell, "busy", error)
      except Exception as error:  # Whatever it is, it is this cell's own.
        yield Outcome(cell, "failed", error)
      else:
        yield Outcome(cell, "done")
    waiting = held


def _run_cell(cell: Cell, work: Callable[..., None]) -> None:
  config = config_dict(cell.config)
  if is_done(cell):
    with open_run(cell.path, config) as run:  # Refuses another config.
      if run.is_done:  # Still: its rows are whole.
        return
  # Bad input shows before anything is written.
  experiment = experiments.prepare(cell.config)
  seeds = experiments.prepare_seeds(experiment)
  with open_run(cell.path, config, experiment.origin) as run:
    if not run.is_done:  # By another process, meanwhile.
      work(run, experiment, seeds)
      run.mark_done()


def is_done(cell: Cell) -> bool:
  """Whether a cell is complete."""
  return parallel.from_first(lambda: runs.is_complete(cell.path))


def collect(path: pathlib.Path | str, axes: Sequence[str]) -> list[dict]:
  """The rows of all complete cells below a sweep, in the order of the axes.

  Args:
    path: the sweep's directory.
    axes: the swept fields; each becomes a column of the rows.
  """
  found = []
  for done in pathlib.Path(path).glob("*/done"):
    config = runs.read_config(done.parent)
    if set(axes) <= set(config):
      found.append(({axis: config[axis] for axis in axes}, done.parent))
  found.sort(key=lambda pair: list(pair[0].values()))
  return [
    columns | row for columns, cell in found for row in runs.read_rows(cell)
  ]
