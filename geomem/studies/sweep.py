"""Sweeps: one study at many field values, each in its own run directory."""

import functools
import itertools
import json
import logging
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from geomem import parallel, runs, training
from geomem.studies.config import ExperimentConfig
from geomem.studies.fields import sequence
from geomem.studies.memorization import Memorization
from geomem.studies.study import Watch, run, silent, unwatched

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0  # Seconds between retries of cells that others hold.
# Errors in the work that every host has alike; before it, ValueErrors are.
_OF_ALL_HOSTS = (runs.RunError, training.NonFiniteLossError)
# The fields that say which data a cell is trained on, beside their place.
_DATA = ("dataset", "image_size", "num_classes", "examples_per_class")


class Cell(NamedTuple):
  """One job of a sweep: all seeds at one value of each swept field.

  Attributes:
    path: its run directory, below the sweep's.
    config: its config.
  """

  path: pathlib.Path
  config: ExperimentConfig

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as stored in its run directory."""
    return {"experiment": Memorization.name} | self.config.as_dict()

  @property
  def is_done(self) -> bool:
    """Whether its run is complete."""
    return parallel.from_first(lambda: runs.is_complete(self.path))


def make_axes(axes: dict[str, Any]) -> dict[str, tuple]:
  """Returns the values of each swept field as a tuple.

  Raises:
    ValueError: there is no field, or a field has no sequence of values.
  """
  made = {field: sequence(field, values) for field, values in axes.items()}
  empty = [field for field, values in made.items() if not values]
  if empty or not made:
    raise ValueError(
      f"The axes are {axes}; at least one field with at least one value was"
      " expected."
    )
  return made


class Failure(NamedTuple):
  """A cell that failed, and why."""

  cell: Cell
  error: Exception


class Sweep(NamedTuple):
  """The definition of a sweep.

  Attributes:
    name: the `experiment` entry of its config, which selects its figures.
    config: the config that all cells share, but for the swept fields.
    axes: the values of each swept field.
    summarize: maps the rows of all cells to further rows and to sentences.
    share: this process's share of the cells: `i/n`, i from 0; all by default.
  """

  name: str
  config: ExperimentConfig
  axes: dict[str, Sequence[Any]]
  summarize: Callable[[runs.Rows], tuple[list[runs.Row], list[str]]]
  share: str | None = None

  def as_dict(self) -> dict[str, Any]:
    """Returns the sweep's own config: the shared fields and the axes' names.

    The values of the axes are left out, so that a sweep can be extended.
    """
    groups = {
      name: {k: v for k, v in fields.items() if k not in self.axes}
      for name, fields in self.config.as_dict().items()
    }
    return {"experiment": self.name, "axes": list(self.axes), **groups}

  def cells(self, path: pathlib.Path | str) -> list[Cell]:
    """Lists all cells; the last axis varies fastest.

    Raises:
      ValueError: a value is repeated or invalid, or cannot name a directory.
    """
    for axis, values in self.axes.items():
      for value in values:
        if value is None or "/" in str(value):
          raise ValueError(
            f"{axis}={value} cannot be swept: each value names a directory, and"
            " must be something without a slash."
          )
    cells = [
      self.cell(path, dict(zip(self.axes, values, strict=True)))
      for values in itertools.product(*self.axes.values())
    ]
    if len({cell.path for cell in cells}) < len(cells):
      named = " ".join(
        f"--{field}={','.join(map(str, values))}"
        for field, values in self.axes.items()
      )
      raise ValueError(
        f"{named} names a value twice; each is a cell of its own."
      )
    return cells

  def cell(self, path: pathlib.Path | str, values: dict[str, Any]) -> Cell:
    """Makes the cell of a value of each swept field."""
    config = self.config.replace(**values)
    fields = config.flat()
    name = ",".join(f"{axis}={fields[axis]}" for axis in self.axes)
    return Cell(pathlib.Path(path) / name, config)

  def own(self, cells: list[Cell]) -> list[Cell]:
    """Selects this process's share of the cells."""
    if self.share is None:
      return cells
    match = re.fullmatch(r"(\d+)/(\d+)", self.share)
    if not match or not int(match[1]) < int(match[2]):
      raise ValueError(
        f"--cell={self.share} is not a share; i/n gives the i-th of n processes"
        " its part of the cells, i from 0 to n - 1."
      )
    return cells[int(match[1]) :: int(match[2])]


def run_sweep(
  sweep: Sweep,
  path: pathlib.Path | str,
  *,
  progress: Callable[..., Any] = silent,
  report: Callable[[Any, list[str]], None] | None = None,
  watch: Watch = unwatched,
) -> list[Failure]:
  """Runs this process's incomplete cells, and gathers the rows of all cells.

  A failing cell does not stop the others, and a cell that another process holds
  is retried after them. The process that finishes the last cell reports.

  Args:
    sweep: the sweep.
    path: its directory; every cell has its own below it.
    progress: as for `run`.
    report: called with the sweep's run and its sentences before the run is
      marked as complete; not called if a complete run's rows are unchanged.
    watch: as for `run`; entered for the whole sweep and for every cell.

  Returns:
    The cells that failed.

  Raises:
    ValueError: a value or the share is invalid.
    RunError: the directory belongs to another sweep.
  """
  cells = sweep.cells(path)
  assigned = sweep.own(cells)
  # Raises if the directory belongs to another sweep.
  parallel.from_first(lambda: _open(path, sweep).close())
  failures = []
  waiting = [cell for cell in assigned if not cell.is_done]
  with (watch if waiting else unwatched)(pathlib.Path(path)):
    if waiting:
      for cell in assigned:  # All processes in the same order.
        if cell not in waiting:  # Checks its config.
          runs.open_run(cell.path, cell.as_dict()).close()
      with progress(total=len(assigned), desc="cells") as bar:
        bar.initial += len(assigned) - len(waiting)
        bar.update(len(assigned) - len(waiting))
        cell_progress = functools.partial(progress, leave=False)
        failures = _do_cells(waiting, bar, cell_progress, watch)
    parallel.from_first(lambda: _gather(sweep, path, cells, report))
  return failures


def _do_cells(waiting: list[Cell], bar, progress, watch) -> list[Failure]:
  failures = []
  while waiting:
    held = []
    for cell in waiting:
      # Before its data are loaded, perhaps in vain.
      if parallel.from_first(functools.partial(runs.is_held, cell.path)):
        held.append(cell)
        continue
      study = None
      try:
        study = Memorization(cell.config)
        run(study, cell.path, progress=progress, watch=watch)
      except runs.BusyError:
        held.append(cell)
        continue
      except Exception as error:  # One failing cell must not end the others.
        alike = _OF_ALL_HOSTS if study else ValueError
        if jax.process_count() > 1 and not isinstance(error, alike):
          raise  # Other hosts may be without it, and wait for this one.
        _LOG.info("%s failed: %s", cell.path, error)
        failures.append(Failure(cell, error))
      bar.update(1)
    if len(held) == len(waiting):  # Other processes hold all the rest.
      bar.set_postfix({"waiting for": held[0].path.name})
      time.sleep(_PATIENCE)
    waiting = held
  return failures


def _open(path: pathlib.Path | str, sweep: Sweep) -> runs.Run:
  """Opens the sweep's directory; retries for a minute while it is held."""
  for _ in range(600):
    try:
      return runs.Run(path, sweep.as_dict())
    except runs.BusyError:
      time.sleep(0.1)
  return runs.Run(path, sweep.as_dict())


def _gather(sweep, path, cells: list[Cell], report) -> None:
  """Gathers the rows of the complete cells; reports when all are complete."""
  complete = all(cell.is_done for cell in cells)
  with _open(path, sweep) as out:
    rows = _collect(path, sweep, cells)
    if not complete:
      out.replace(rows)
      return
    further, sentences = sweep.summarize(rows)
    if not out.replace(rows + further) and out.is_done:
      return
    if report is not None:
      report(out, sentences)
    out.finish()


def _collect(
  path: pathlib.Path | str, sweep: Sweep, wanted: list[Cell]
) -> runs.Rows:
  """Reads the rows of all complete cells, with the axes as columns.

  They are ordered by the axes, and may be more than those that are wanted now.
  Other training runs below the sweep are left out with a warning: those that
  differ in more than the axes, and copies.

  Raises:
    RunError: another run is in the place of a wanted cell, or cells were
      trained on different data though their configs name the same.
  """
  cells, others, first = [], [], {}
  for done in sorted(pathlib.Path(path).glob("*/done")):
    place = done.parent
    stored = runs.flat_config(runs.read_config(place))
    if stored.get("experiment") != Memorization.name or not set(
      sweep.axes
    ) <= set(stored):
      continue
    columns = {axis: stored[axis] for axis in sweep.axes}
    cell = sweep.cell(path, columns)
    expected = runs.flat_config(json.loads(json.dumps(cell.as_dict())))
    if field := runs.differing_field(stored, expected):
      if place in [cell.path for cell in wanted]:
        runs.Run(place, cell.as_dict())  # Raises.
      others.append(f"{place.name} ({field} differs)")
    elif place != cell.path:
      others.append(f"{place.name} (the cell is {cell.path.name})")
    elif runs.is_complete(place):  # It warns of rows that have changed.
      cells.append((columns, place))
      _check_data(place, first.setdefault(_named_data(stored), place))
  if others:
    _LOG.warning(
      "%s holds runs that are not its cells and are left out: %s. Rename a"
      " directory to that of its cell to keep it.",
      path,
      ", ".join(others),
    )
  cells.sort(key=lambda pair: list(pair[0].values()))
  return runs.Rows(
    columns | row for columns, cell in cells for row in runs.read_rows(cell)
  )


def _named_data(config: dict[str, Any]) -> tuple:
  """Returns what a flat config says of the images and their true labels."""
  return tuple(config.get(field) for field in _DATA)


def _check_data(place: pathlib.Path, other: pathlib.Path) -> None:
  """Raises RunError if two cells were trained on different data."""
  data, of_other = (
    (runs.read_content(path).get("origin") or {}).get("data")
    for path in (place, other)
  )
  if data and of_other and data != of_other:
    raise runs.RunError(
      f"{place} was trained on data with the fingerprint {data}, {other} on"
      f" data with {of_other}; cells of the same data were expected. Restore"
      " the data, remove the cells of others, and repeat the command."
    )


def of_cells(config: dict[str, Any], rows: runs.Rows) -> runs.Rows:
  """Selects the rows of a sweep's cells, without those about all of them."""
  return runs.Rows(
    row
    for row in rows
    if row["seed"] is not None
    and all(row.get(axis) is not None for axis in config["axes"])
  )
