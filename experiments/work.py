"""The work of the binaries: trained and measured seeds, one run or many."""

import functools
import math
import pathlib
import sys
import time
import traceback
from collections.abc import Callable

from tqdm import tqdm

from experiments import terminal, values
from geomem import analysis, parallel, plots, runs
from geomem.analysis import sweep

_PATIENCE = 5.0  # Seconds between looks at what another process holds.


def _watched(work, *, total: int, desc: str, leave: bool = True):
  """Hands on what training and measuring say of their advance, with a bar."""
  with terminal.bar(total, desc, leave=leave) as bar:
    for epoch, said in work:
      if isinstance(said, str):
        terminal.advance(bar, epoch=epoch, layer=said)
      elif math.isnan(said):  # Done in an earlier start, and not in this time.
        bar.initial = bar.n = bar.last_print_n = epoch
      else:
        terminal.advance(bar, epoch - bar.n, loss=f"{said:.3f}")
      yield epoch, said


def train_and_measure(
  run: runs.Run, experiment, seeds, *, leave: bool = True
) -> None:
  """Trains all seeds together, then measures them; `leave` keeps the bars."""
  watch = functools.partial(_watched, leave=leave)
  analysis.train_and_measure(run, experiment, seeds, watch)


def report(
  run, print_table: Callable[[list[dict]], None] | None = None
) -> None:
  """Draws a run that is whole, and prints what it found."""
  rows = run.rows()
  written = parallel.from_first(lambda: plots.draw_all(run.path))
  if print_table is not None:
    print_table(rows)
  for sentence in analysis.sentences_of(run.config, rows):
    print(sentence)
  print("Figures:", ", ".join(str(p) for p in written if p.suffix == ".png"))


def was_complete(run) -> bool:
  """Says so where a run is complete; figures that are missing are drawn."""
  if not run.is_done:
    return False
  drawn = any((run.path / "figures").glob("*.png"))
  if not drawn and parallel.from_first(lambda: plots.draw_all(run.path)):
    print(f"Drew the figures of {run.path}.")
  print(f"{run.path} is complete; nothing to do.")
  return True


def run_sweep(
  path: pathlib.Path,
  kind: str,
  config: analysis.ExperimentConfig,
  axes: dict[str, list],
  summarize: Callable[[list[dict]], tuple[list[dict], list[str]]],
  share: str | None = None,
) -> int:
  """Does a sweep, or this process's share of it.

  Args:
    path: the sweep's directory.
    kind: the `experiment` of its config, by which its figures are known.
    config: what all cells share.
    axes: the values of each swept field.
    summarize: from the rows of all cells to further rows and to sentences.
    share: this process's part of the cells, as `i/n`.

  Returns:
    The exit status: 1 where a cell failed.
  """
  with values.command_line():
    cells = sweep.make_cells(path, config, axes)
    mine = sweep.share_of(cells, share)
  shared = sweep.sweep_config(kind, config, axes)
  # Another sweep's directory is refused.
  parallel.from_first(lambda: _patiently(path, shared).close())
  failed = []
  if not all(map(sweep.is_done, mine)):
    with terminal.bar(len(mine), "cells") as bar:
      for outcome in sweep.run_cells(
        mine, functools.partial(train_and_measure, leave=False)
      ):
        _tell(bar, outcome)
        if outcome.state == "failed":
          failed.append(outcome)
  parallel.from_first(lambda: _finish(path, shared, cells, summarize))
  for cell, _, error in failed:
    print(f"Failed: {cell.path}: {error}", file=sys.stderr)
  return 1 if failed else 0


def _tell(bar: tqdm, outcome: sweep.Outcome) -> None:
  if outcome.state == "busy":
    bar.set_postfix_str(f"waiting for {outcome.cell.path.name}")
    time.sleep(_PATIENCE)
    return
  bar.update()
  if outcome.state == "failed" and not isinstance(
    outcome.error, (ValueError, FloatingPointError, OSError)
  ):
    # What is not one of our own sentences is worth a traceback.
    traceback.print_exception(outcome.error)


def _patiently(path: pathlib.Path, config: dict) -> runs.Run:
  """Opens a directory that others hold for a moment only."""
  for _ in range(600):
    try:
      return runs.Run(path, config)
    except runs.BusyError:
      time.sleep(0.1)
  return runs.Run(path, config)


def _finish(path, shared, cells, summarize) -> None:
  """Brings the rows of the cells together and draws them."""
  missing = [cell.path.name for cell in cells if not sweep.is_done(cell)]
  with _patiently(path, shared) as run:
    rows = sweep.collect(path, shared["axes"])
    if missing:
      run.replace(rows)
      print(
        f"{len(cells) - len(missing)} of {len(cells)} cells are complete;"
        f" there remain {', '.join(missing)}."
      )
      return
    further, sentences = summarize(rows)
    if not run.replace(rows + further) and run.is_done:
      print(f"{path} is complete; nothing to do.")
      return
    written = plots.draw_all(path)
    run.mark_done()
  for sentence in sentences:
    print(sentence)
  print("Figures:", ", ".join(str(p) for p in written if p.suffix == ".png"))
