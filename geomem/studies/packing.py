"""Small copies of run directories, from which studies continue elsewhere.

Networks make up most of a run's size. A copy holds everything else, and only
the requested networks: exactly, or rounded to bfloat16.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from geomem import disk, runs
from geomem.studies.measure_config import (
  SavedEpochs,
  check_saved,
  normalized,
  places_to_measure,
)
from geomem.studies.trained import checkpoints

DTYPES = ("float32", "bfloat16")
# These hold networks, or can be written again at any time.
_LEFT_OUT = ("checkpoints", "resume", "tensorboard")


class Packed(NamedTuple):
  """The contents of a copy for one training run.

  Attributes:
    path: path of the run, relative to the directory that was copied.
    epochs: epochs of the networks in the copy, by seed.
    is_trained: whether training has ended; if not, the copy has all it needs.
  """

  path: pathlib.Path
  epochs: dict[int, list[int]]
  is_trained: bool


def pack(
  path: pathlib.Path | str,
  out: pathlib.Path | str,
  *,
  networks: str = "best,last,first",
  dtype: str = "float32",
) -> list[Packed]:
  """Copies a run directory and all below it, with the chosen networks only.

  The copy is whole or absent, and the source is not modified. Networks of
  complete cells of a sweep are left out: only the rows of a sweep are used
  later. Training that has not ended keeps everything that it needs.

  Args:
    path: a run directory: of a training run, a sweep, or the whole paper.
    out: path of the copy; nothing may exist there.
    networks: epochs as `--measure_epochs` takes them, or `none`.
    dtype: `float32` keeps networks unchanged, `bfloat16` rounds them.

  Returns:
    The contents of the copy, one entry for each training run.

  Raises:
    ValueError: an epoch or a dtype is not known.
    RunError: `path` is not a run directory, `out` exists or is within it, or an
      incomplete run would continue from rounded networks.
    BusyError: another process works on the run, or on one below it.
    DiskError: the copy cannot be written.
  """
  path, out = pathlib.Path(path), pathlib.Path(out)
  runs.read_config(path)
  if dtype not in DTYPES:
    raise ValueError(
      f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}."
    )
  chosen = networks if networks == "none" else normalized(networks, "networks")
  if out.exists() or path.resolve() in out.resolve().parents:
    raise runs.RunError(
      f"{out} exists already, or is within {path}; choose another directory"
      " with --out."
    )
  trainings = sorted(
    d for d, names, _ in runs.walk(path) if "checkpoints" in names
  )
  _check(trainings, chosen, dtype)
  for left_behind in _left_behind(out):
    shutil.rmtree(left_behind, ignore_errors=True)
  new = out.with_name(f".{out.name}.{socket.gethostname()}.{os.getpid()}.copy")
  try:
    with _unchanged(path), disk.explained(out):
      _copy(path, new)
      packed = [
        _pack_training(run, new / run.relative_to(path), path, chosen, dtype)
        for run in trainings
      ]
      new.rename(out)
  finally:
    shutil.rmtree(new, ignore_errors=True)
  return packed


def _left_behind(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """Finds the temporary copies of this host's processes that were killed."""
  start = f".{out.name}.{socket.gethostname()}."
  for place in out.parent.glob(".*.copy"):
    pid = place.name.removeprefix(start).removesuffix(".copy")
    if not (pid.isdecimal() and place.name.startswith(start)):
      continue
    # In containers, a new process may have the number of a killed one.
    if int(pid) == os.getpid() or not disk.is_running(int(pid)):
      yield place


@contextlib.contextmanager
def _unchanged(path: pathlib.Path) -> Iterator[None]:
  """Keeps other processes from work on a run directory and all below it.

  A copy of rows and of later networks would go on without the losses between.
  """
  with contextlib.ExitStack() as held:
    for place, _, files in runs.walk(path):
      if ".lock" not in files:
        continue
      try:
        lock = held.enter_context(open(place / ".lock"))
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise runs.BusyError(
          f"Another process works on {place}; wait for it, or stop it before"
          " you copy."
        ) from error
      except OSError:  # Where no lock can be had, nothing works either.
        continue
    yield


def _check(trainings: list[pathlib.Path], chosen: str | None, dtype: str):
  """Raises if runs to round are not complete, or an epoch is not saved."""
  places = (place for run in trainings for place in runs.walk(run))
  for directory, _, files in places if dtype != "float32" else ():
    if "config.json" in files and not runs.is_complete(directory):
      raise runs.RunError(
        f"{directory} is not complete, and the rest of its numbers would be"
        " those of rounded networks. Finish it first, or give --dtype=float32."
      )
  if chosen == "none":
    return
  saved = {
    epoch
    for run in trainings
    for seed in _seeds(run)
    for epoch in _saved(run, seed)
  }
  if saved:
    check_saved(chosen, saved, "networks")


def _copy(path: pathlib.Path, new: pathlib.Path) -> None:
  """Copies all files but networks and hidden files, such as locks."""
  for source, names, files in runs.walk(path):
    names[:] = [n for n in names if n not in _LEFT_OUT and n[0] != "."]
    target = new / source.relative_to(path)
    target.mkdir(parents=True)
    for file in files:
      if file[0] != ".":
        shutil.copy2(source / file, target / file)


def _pack_training(
  run: pathlib.Path,
  target: pathlib.Path,
  root: pathlib.Path,
  chosen: str | None,
  dtype: str,
) -> Packed:
  """Copies the chosen networks of a training run."""
  name, rows, seeds = run.relative_to(root), runs.read_rows(run), _seeds(run)
  best, last = rows.fact("best_epoch"), rows.fact("last_epoch")
  if not set(seeds) <= set(last):
    for part in ("checkpoints", "resume"):
      if (run / part).exists():
        shutil.copytree(run / part, target / part)
    return Packed(name, {seed: _saved(run, seed) for seed in seeds}, False)
  is_whole = runs.is_complete(run)
  is_cell = run != root and "=" in run.name and is_whole
  if chosen != "none" and not is_whole:
    chosen = None  # What is left to measure needs all of them.
  places = []
  if chosen != "none" and not is_cell:
    saved = {s: SavedEpochs(_saved(run, s), best[s], last[s]) for s in seeds}
    places = sorted(places_to_measure(chosen, saved))
  for seed, epoch in places:
    _copy_network(run, target, seed, epoch, dtype)
  if dtype != "float32":  # Known to the runs that are derived from it.
    content = runs.read_content(target) | {"networks": dtype}
    text = json.dumps(content, indent=2) + "\n"
    disk.write_whole(target / "config.json", text.encode())
  epochs = {seed: [e for s, e in places if s == seed] for seed in seeds}
  return Packed(name, epochs, True)


def _seeds(run: pathlib.Path) -> range:
  config = runs.flat_config(runs.read_config(run))
  first = config.get("seed", 0)
  return range(first, first + config["num_seeds"])


def _saved(run: pathlib.Path, seed: int) -> list[int]:
  """Lists the epochs whose networks are saved; none if training just began."""
  place = run / "checkpoints" / f"seed{seed}"
  if not any(path.name.isdigit() for path in place.glob("*")):
    return []
  with checkpoints(run, seed, must_exist=True) as saved:
    return saved.epochs


def _copy_network(run, target, seed: int, epoch: int, dtype: str) -> None:
  def rounded(x: jax.Array) -> jax.Array:
    return x.astype(dtype) if x.dtype == "float32" else x

  with checkpoints(run, seed, must_exist=True) as saved:
    network: Any = saved.load(epoch, saved.shapes(epoch))
  with checkpoints(target, seed) as copied:
    copied.save(epoch, jax.tree.map(rounded, network))


def size_of(path: pathlib.Path | str) -> int:
  """Returns the total size in bytes of all files below a directory."""
  paths = (
    place / file for place, _, files in runs.walk(path) for file in files
  )
  return sum(file.stat().st_size for file in paths if file.is_file())
