"""Rows as TensorBoard event files, without TensorFlow."""

import json
import os
import pathlib
import shutil
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from geomem import runs
from geomem.report.page import parts_of

# The points of each tag's curve: (value, epoch).
Curves = dict[str, list[tuple[float, int]]]


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
  """
  path = pathlib.Path(path)
  runs.read_config(path)
  open_writer = import_writer()
  above = path if out is None else pathlib.Path(out)
  target = above / "tensorboard"
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
      " install it with pip install tensorboardX."
    ) from error
  return tensorboardX.SummaryWriter


def _write_part(open_writer, part: pathlib.Path, target: pathlib.Path) -> None:
  config = write_config(open_writer, part, target)
  by_run = curves(runs.read_rows(part), config.get("axes", []))
  for name, tags in by_run.items():
    # A single point is no curve.
    tags = {tag: points for tag, points in tags.items() if len(points) > 1}
    with open_writer(str(target / name)) as writer:
      add_scalars(writer, tags)


def write_config(
  open_writer, part: pathlib.Path, target: pathlib.Path
) -> dict[str, Any]:
  """Writes the config of a run as text, and returns it."""
  config = runs.read_config(part)
  with open_writer(str(target)) as writer:
    text = json.dumps(config, indent=2).replace("\n", "\n    ")
    writer.add_text("config", f"    {text}", 0)
  return config


def add_scalars(writer, tags: Curves) -> None:
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
