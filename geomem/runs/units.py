"""The journal of a run: which units of work are done, and their rows.

A unit of work writes a group of rows. The rows are appended to `results.jsonl`
first, then one line to `units.jsonl`: the unit's key, and a checksum of each of
its rows. A unit is done if its line and all of its rows are present. So a group
is whole or absent, whatever was killed, truncated or damaged, and no other test
of what is done is needed anywhere.
"""

import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

Key = dict[str, Any]


def units_file(path: pathlib.Path | str) -> pathlib.Path:
  """Returns the path of the file that lists a run's finished units."""
  return pathlib.Path(path) / "units.jsonl"


def content(file: pathlib.Path) -> bytes:
  """Returns what a file holds; nothing if it is missing."""
  return file.read_bytes() if file.exists() else b""


def name_of(key: Key) -> str:
  """Returns a key as text that is equal for equal keys."""
  return json.dumps(key, sort_keys=True)


def checksum(line: bytes) -> str:
  """Returns the checksum of a row's line."""
  return hashlib.blake2b(line, digest_size=6).hexdigest()


def journal(units: dict[str, tuple[str, ...]]) -> bytes:
  """Encodes units as lines of the journal, from the checksums by name."""
  return join(
    json.dumps({"unit": json.loads(name), "rows": [*sums]}).encode()
    for name, sums in units.items()
  )


def read_units(path: pathlib.Path | str) -> dict[str, tuple[str, ...]]:
  """Reads the journal: the checksums of each unit's rows, by its name.

  Damaged lines are skipped.
  """
  units = {}
  for line in content(units_file(path)).split(b"\n"):
    try:
      entry = json.loads(line)
      units[name_of(entry["unit"])] = tuple(map(str, entry["rows"]))
    except (ValueError, TypeError, KeyError, RecursionError):
      continue
  return units


def whole_units(
  units: dict[str, tuple[str, ...]], lines: Iterable[bytes]
) -> dict[str, tuple[str, ...]]:
  """Keeps the units whose rows are all among the lines, each counted once.

  The remaining rows of an incomplete unit also count as its own: a later unit
  with an equal row cannot claim them.
  """
  left = Counter(map(checksum, lines))
  complete = {}
  for name, sums in units.items():
    needed = Counter(sums)
    if needed <= left:
      complete[name] = sums
    left -= needed
  return complete


def join(lines: Iterable[bytes]) -> bytes:
  """Joins lines into the content of a file, each with a newline."""
  return b"".join(line + b"\n" for line in lines)
