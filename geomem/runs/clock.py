"""The duration of a run: the seconds of all its starts, in `duration.json`."""

import contextlib
import json
import os
import pathlib
import re
import time

from geomem import disk, parallel

# What reading a damaged file may raise.
_DAMAGE = (
  *(OSError, ValueError, TypeError, KeyError),
  *(OverflowError, RecursionError),
)
_SECONDS = 30.0  # Between saves: at most this is lost if a process is killed.


def _read(path: pathlib.Path | str) -> dict[str, float]:
  """Returns the saved numbers; empty if the file is missing or damaged."""
  try:
    kept = json.loads((pathlib.Path(path) / "duration.json").read_bytes())
    return {"seconds": float(kept["seconds"]), "starts": int(kept["starts"])}
  except _DAMAGE:
    return {}


def read_duration(path: pathlib.Path | str) -> float | None:
  """Returns the seconds that all starts of a run took together.

  For a sweep, which has no clock of its own, it adds those of the cells. None
  if nothing is recorded, as for older runs.
  """
  if own := _read(path):
    return own["seconds"]
  cells = [
    file.parent
    for file in pathlib.Path(path).glob("*=*/config.json")
    if re.match(r"\w+=", file.parent.name)  # Others are studies of a run.
  ]
  seconds = [kept["seconds"] for kept in map(_read, cells) if kept]
  return sum(seconds) if seconds else None


class Clock:
  """A context that adds the seconds of one start of a run to earlier ones.

  It counts from its construction, and saves on entry, on exit and on `tick`. A
  full disk does not stop the run.
  """

  def __init__(self, path: pathlib.Path | str):
    """Starts counting.

    Args:
      path: the run directory; the first process writes.
    """
    self._path = path
    self._before = _read(path)
    self._place = os.stat(path) if parallel.is_first() else None
    self._start = self._saved = time.monotonic()

  def tick(self) -> None:
    """Saves if the last save was some time ago."""
    if time.monotonic() - self._saved > _SECONDS:
      self.save()

  def save(self) -> None:
    """Saves the seconds so far."""
    self._saved = time.monotonic()
    before = self._before
    content = {
      "seconds": round(before.get("seconds", 0) + self._saved - self._start, 1),
      "starts": before.get("starts", 0) + 1,
    }
    if parallel.is_first():
      with contextlib.suppress(disk.DiskError, OSError):
        # Another run may be in its place.
        if not os.path.samestat(os.stat(self._path), self._place):
          return
        file = pathlib.Path(self._path) / "duration.json"
        disk.write_whole(file, (json.dumps(content) + "\n").encode())

  def __enter__(self) -> "Clock":
    self.save()  # A start counts, however it ends.
    return self

  def __exit__(self, *_) -> None:
    self.save()
