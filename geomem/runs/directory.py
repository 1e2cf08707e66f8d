"""The metadata of a run directory: config, origin and completeness.

The origin is the source of the numbers beyond the config: the fingerprint of
the data, or the run that they were derived from.
"""

import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from geomem import disk, environment
from geomem.runs import units
from geomem.runs.lines import parse, rows_file
from geomem.runs.rows import Rows

_LOG = logging.getLogger(__name__)

# Fields that say where files lie; they alone may change between starts.
PLACES = ("data_dir", "other")


# What a run directory may hold before there is any work in it.
_BEFORE_WORK = (
  "config.json",
  ".lock",
  "log*.txt",
  "duration.json",
  "labels_seed*.npz",
  ".*.partial",
  "tensorboard",
)


# What only a run writes.
_RESULTS = ("results.jsonl", "units.jsonl", "done", "checkpoints", "resume")


class RunError(ValueError):
  """A run directory cannot be used as asked."""


class BusyError(RunError):
  """Another process holds the run directory."""


class Parent(NamedTuple):
  """The run that another is derived from.

  Attributes:
    path: its absolute path at the time.
    id: its identifier, which moves with the directory.
  """

  path: str
  id: str

  def as_origin(self) -> dict[str, Any]:
    """Returns the origin of runs that are derived from it."""
    return {"run": self._asdict()}


def _config_file(path: pathlib.Path | str) -> pathlib.Path:
  """Returns the path of `config.json`, which every run directory holds."""
  file = pathlib.Path(path) / "config.json"
  if not file.exists():
    raise RunError(
      f"{path} is not a run directory: it holds no config.json. Give the"
      f" --out directory of an earlier run.{disk.hint(path)}"
    )
  return file


def read_content(path: pathlib.Path | str) -> dict[str, Any]:
  """Reads all of `config.json`: config, origin, environment, id."""
  file = _config_file(path)
  try:
    content = json.loads(file.read_text("utf-8"))
    reason = "no config"
    if isinstance(content["config"], dict):
      kind = content["config"].get("experiment", "memorization")
      if _is_origin(content.get("origin")) and isinstance(kind, str):
        return content
      reason = "no origin, or experiment"
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    reason = type(error).__name__
  raise RunError(
    f"{file} is damaged: it is not the JSON of a config ({reason}). Restore it"
    " from a copy, or choose another directory with --out."
  )


def _is_origin(origin: Any) -> bool:
  """Returns whether an origin is one; earlier versions did not record it."""
  run = (origin or {}).get("run") if isinstance(origin, dict | None) else ""
  return run is None or (isinstance(run, dict) and {"id", "path"} <= run.keys())


def is_of_this_revision(path: pathlib.Path | str) -> bool:
  """Returns whether this revision of geomem began the run, as far as known.

  Changes that are not committed are of no revision.
  """
  made_with = read_content(path).get("environment")
  if isinstance(made_with, dict) and made_with.get("geomem_changed"):
    return False
  names = ("geomem", "geomem_revision")
  return not (
    environment.is_changed() or environment.changes_since(made_with, names)
  )


def read_config(path: pathlib.Path | str) -> dict[str, Any]:
  """Reads the config of a run directory."""
  return read_content(path)["config"]


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
  """Flattens the groups of a config, whose fields all have different names."""
  flat = {}
  for name, value in config.items():
    flat |= value if isinstance(value, dict) else {name: value}
  return flat


def differing_field(old: dict[str, Any], new: dict[str, Any]) -> str | None:
  """Names the first field in which flat configs differ; places do not count."""
  for field in [*old, *new]:
    if field not in PLACES and old.get(field) != new.get(field):
      return field
  return None


def read_rows(path: pathlib.Path | str) -> Rows:
  """Reads the rows of a run directory.

  Lines that are not rows are logged and skipped. A null value becomes NaN.

  Raises:
    RunError: `path` is not a run directory.
  """
  _config_file(path)
  file, rows = rows_file(path), Rows()
  # If only the end of the last line was lost, it is whole; while it is being
  # written, it is not.
  *lines, last = units.content(file).split(b"\n")
  if parse(last) is not None:
    lines.append(last)
  for number, line in enumerate(lines, start=1):
    row = parse(line)
    if row is None:
      _LOG.warning("Line %d of %s is damaged; left out.", number, file)
    else:
      value = row["value"]
      rows.append(row | {"value": math.nan if value is None else value})
  return rows


def read_runs(*paths: pathlib.Path | str, fields: Sequence[str] = ()) -> Rows:
  """Reads the rows of several runs into one table.

  Args:
    *paths: the run directories.
    fields: fields of their configs, such as `width` or `permuted_fraction`;
      each becomes a column, too.

  Returns:
    The rows of each run in turn, with the column `run`: its path, as given.

  Raises:
    RunError: no path is given, a path is not a run directory, its config lacks
      a field, or the fields are one text.
  """
  if not paths:
    raise RunError("No run directory was given; at least one was expected.")
  if isinstance(fields, str):  # It would be taken letter by letter.
    raise RunError(
      f"fields is {fields!r}; a sequence of names was expected, such as"
      f" [{fields!r}]."
    )
  rows = Rows()
  for path in paths:
    config = flat_config(read_config(path))
    missing = [field for field in fields if field not in config]
    if missing:
      raise RunError(
        f"The config of {path} has no field {missing[0]!r}; it has"
        f" {', '.join(config)}."
      )
    columns = {"run": str(path)} | {field: config[field] for field in fields}
    rows += [columns | row for row in read_rows(path)]
  return rows


def walk(
  path: pathlib.Path | str,
) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
  """Walks a directory as `os.walk` does, and follows links to directories."""
  for name, names, files in os.walk(path, followlinks=True):
    directory = pathlib.Path(name)
    above = {x.resolve() for x in (directory, *directory.parents)}
    # A link to a directory that it lies in has no end.
    names[:] = [x for x in names if (directory / x).resolve() not in above]
    yield directory, names, files


def parent_of(path: pathlib.Path | str) -> Parent:
  """Returns a run as the parent of runs that are derived from it."""
  content = read_content(path)
  # Older runs have no id; a digest of their content replaces it.
  digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  name = content.get("id") or digest.hexdigest()[:32]
  return Parent(os.path.abspath(path), str(name))


def check_config(
  path: pathlib.Path | str, config: dict[str, Any], origin: dict[str, Any]
) -> None:
  """Checks that a directory has the given config, data and parent.

  Raises:
    RunError: one of them differs; the message names it.
  """
  content = read_content(path)
  old, config = flat_config(content["config"]), flat_config(config)
  advice = "Choose another directory with --out"
  if field := differing_field(old, config):
    there, asked = (
      "the default" if fields.get(field) is None else repr(fields[field])
      for fields in (old, config)
    )
    raise RunError(
      f"{path} holds a run whose {field} differs: {there} there, {asked} asked"
      f" for. {advice}, or give the same flags."
    )
  recorded = content.get("origin")
  if recorded is None:
    return  # Earlier versions did not record the origin.
  pair = [x.get("data") for x in (recorded, origin)]
  if all(pair) and pair[0] != pair[1]:
    raise RunError(
      f"{path} holds a run on data with the fingerprint {pair[0]}; the present"
      f" data have {pair[1]}. {advice}, or restore the data."
    )
  pair = [x.get("networks", "float32") for x in (recorded, origin)]
  if pair[0] != pair[1] and not is_marked(path):
    raise RunError(
      f"{path} was begun with networks in {pair[0]}, and they are now in"
      f" {pair[1]}. {advice}, or continue with the original networks."
    )
  old_parent, new_parent = (x.get("run") for x in (recorded, origin))
  if old_parent and new_parent and old_parent["id"] != new_parent["id"]:
    raise RunError(
      f"{path} holds results derived from the run {old_parent['path']}, not"
      f" from {new_parent['path']} as it is now. {advice}."
    )


def check_no_results(path: pathlib.Path) -> None:
  """Checks that a directory without a config holds no results of a run.

  Raises:
    RunError: it holds some, and nothing tells what they are of.
  """
  names = [name for name in _RESULTS if (path / name).exists()]
  if names:
    raise RunError(
      f"{path} holds {', '.join(names)}, but no config.json that says what they"
      " are results of. Restore it from a copy, or choose another directory"
      " with --out."
    )


def check_unrounded(path: pathlib.Path) -> None:
  """Checks that nothing is missing in a copy with rounded networks.

  Raises:
    RunError: its missing numbers would be those of rounded networks.
  """
  networks = read_content(path).get("networks")
  if networks and not is_complete(path):
    raise RunError(
      f"{path} is a copy whose networks were rounded to {networks}, and some of"
      " its rows are missing. Computed from these networks, they would differ"
      " from those of the original run: copy the rows from there again."
    )


def has_work(path: pathlib.Path | str) -> bool:
  """Returns whether a run directory holds more than what a start makes."""
  return any(
    not any(map(file.match, _BEFORE_WORK))
    for file in pathlib.Path(path).iterdir()
  )


def _marker(path: pathlib.Path | str) -> pathlib.Path:
  return pathlib.Path(path) / "done"


def _digest(path: pathlib.Path | str) -> dict[str, Any]:
  # Whatever the ends of lines have become.
  lines = units.content(rows_file(path)).splitlines()
  digest = hashlib.sha256(units.join(lines)).hexdigest()
  return {"rows": len(lines), "sha256": digest}


def mark_complete(path: pathlib.Path | str) -> None:
  """Marks a run as complete, with a digest of its rows."""
  content = json.dumps(_digest(path)) + "\n"
  disk.write_whole(_marker(path), content.encode())


def unmark(path: pathlib.Path | str) -> None:
  """Removes the mark of completeness."""
  _marker(path).unlink(missing_ok=True)


def is_marked(path: pathlib.Path | str) -> bool:
  """Returns whether the run was marked as complete, whatever its rows now."""
  return _marker(path).exists()


def is_complete(path: pathlib.Path | str) -> bool:
  """Returns whether a run is complete and its rows have not changed since.

  If they have changed, it logs a warning.
  """
  if not is_marked(path):
    return False
  try:
    stated = json.loads(_marker(path).read_bytes() or b"null")
  except (OSError, ValueError):
    stated = {}
  digest = _digest(path)
  if stated == digest or (stated is None and digest["rows"]):
    return True  # Earlier versions left the marker empty.
  _LOG.warning(
    "%s was complete, but its rows have changed since (there are %d now); the"
    " same command computes what is missing.",
    path,
    digest["rows"],
  )
  return False
