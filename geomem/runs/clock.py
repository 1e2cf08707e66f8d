"""How long a run took: the seconds of all its starts, in `duration.json`."""

import contextlib
import json
import pathlib
import time

from geomem import disk, parallel

_SECONDS = 30.0  # Between savings: so much is lost where a process is killed.


def _file(path: pathlib.Path | str) -> pathlib.Path:
  return pathlib.Path(path) / "duration.json"


def _read(path: pathlib.Path | str) -> dict[str, float]:
  """Returns what was kept; nothing where the file is not there or damaged."""
  try:
    kept = json.loads(_file(path).read_bytes())
    return {name: kept[name] + 0 for name in ("seconds", "starts")}
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    return {}


def read_duration(path: pathlib.Path | str) -> float | None:
  """Returns the seconds that all starts of a run took together.

  Of a sweep, those of its cells. None where nothing is known, as of runs of
  old.
  """
  path = pathlib.Path(path)
  places = [path, *(file.parent for file in path.glob("*=*/config.json"))]
  known = [kept["seconds"] for kept in map(_read, places) if kept]
  return sum(known) if known else None


class Clock:
  """Adds the seconds of a start of a run to those of earlier ones.

  A context: it counts from its beginning, and saves at its end and now and
  then. A disk that is full does not end the work.
  """

  def __init__(self, path: pathlib.Path | str):
    """Begins to count.

    Args:
      path: the run directory; the first process writes.
    """
    self._path = path
    self._before = _read(path)
    self._start = self._saved = time.monotonic()

  def tick(self) -> None:
    """Saves, where that was some time ago."""
    if time.monotonic() - self._saved > _SECONDS:
      self.save()

  def save(self) -> None:
    """Saves what there is so far."""
    self._saved = time.monotonic()
    before = self._before
    content = {
      "seconds": round(before.get("seconds", 0) + self._saved - self._start, 1),
      "starts": before.get("starts", 0) + 1,
    }
    if parallel.is_first():
      with contextlib.suppress(disk.DiskError):
        disk.write_whole(
          _file(self._path), (json.dumps(content) + "\n").encode()
        )

  def __enter__(self) -> "Clock":
    self.save()  # A start counts, however it ends.
    return self

  def __exit__(self, *_) -> None:
    self.save()
