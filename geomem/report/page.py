"""A self-contained HTML page of run directories.

Rows are embedded as JSON and drawn by the page's own script; figures are
inlined as they are in the directory.
"""

import base64
import datetime
import html
import importlib.resources
import inspect
import json
import logging
import math
import os
import pathlib
import string
import tempfile
from collections.abc import Iterable
from typing import Any

import geomem
from geomem import disk, measures, runs, studies
from geomem.plots import style

_LOG = logging.getLogger(__name__)
_SCRIPTS = ("rows", "charts", "maps", "tables", "runs", "page")
# Figures that the page draws itself, by study; they are not inlined again.
_PAGES_OWN = {
  "memorization": {
    "accuracy",
    "loss",
    "geometry_by_layer",
    "capacity_by_epoch",
  },
  "measure": {"by_layer", "capacity_by_epoch"},
  "rewind": {"heatmaps"},
}
# Significant digits in the page; `results.jsonl` has all digits.
_DIGITS = 7


def parts_of(path: pathlib.Path | str) -> list[pathlib.Path]:
  """Lists a run directory and the runs directly below, without sweep cells."""
  path = pathlib.Path(path)
  below = [file.parent for file in sorted(path.glob("*/config.json"))]
  axes = runs.read_config(path).get("axes")
  if axes:  # Cells are named by the axes, in their order.
    below = [p for p in below if not p.name.startswith(f"{axes[0]}=")]
  return [path, *below]


def by_name(paths: Iterable[pathlib.Path | str]) -> dict[str, pathlib.Path]:
  """Names run directories by the shortest ends of their paths that differ.

  Args:
    paths: the run directories; one that is given twice counts once.

  Raises:
    RunError: no path is given, or one is not a run directory.
  """
  if not (distinct := {pathlib.Path(path).resolve(): path for path in paths}):
    raise runs.RunError(
      "No run directory was given; at least one was expected."
    )
  for path in distinct.values():
    runs.read_config(path)
  ends = [pathlib.Path(os.path.abspath(p)).parts for p in distinct.values()]
  named = {}
  for parts, path in zip(ends, distinct.values(), strict=True):
    size = 1
    while sum(end[-size:] == parts[-size:] for end in ends) > 1:
      size += 1
    named[pathlib.PurePath(*parts[-size:]).as_posix()] = pathlib.Path(path)
  return named


def write_report(
  *paths: pathlib.Path | str, out: pathlib.Path | str | None = None
) -> pathlib.Path:
  """Writes `report.html` of run directories, atomically.

  Args:
    *paths: the run directories, of any study, complete or not; several are
      shown on one page, side by side, by names as `by_name` gives them.
    out: the directory to write to; the first run's directory by default.

  Returns:
    The path of the page.

  Raises:
    RunError: no path is given, or one is not a run directory.
    DiskError: the page cannot be written.
  """
  named = by_name(paths)
  content = {
    "title": ", ".join(named),
    "version": geomem.__version__,
    "written": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    # Colours of several runs; ink is invisible on a dark page.
    "colors": [color for color in style.CYCLE if color != style.INK],
    "looks": {subset: style.look_of(subset) for subset in style.COLORS},
    "metrics": [
      {
        "name": metric.name,
        "label": metric.plain_label,
        "log": metric.scale == "log",
        "chance": metric.chance,
      }
      for metric in measures.METRICS.values()
    ],
    "runs": [
      [_part(name, root, part) for part in parts_of(root)]
      for name, root in named.items()
    ],
  }
  for part, *_ in content["runs"]:
    if not part["rows"]["count"]:
      _LOG.warning(
        "%s has no rows yet: the page shows its config alone. Start its"
        " command again to continue it.",
        part["name"],
      )
  target = pathlib.Path(next(iter(named.values())) if out is None else out)
  target /= "report.html"
  with disk.explained(target.parent):
    target.parent.mkdir(parents=True, exist_ok=True)
  disk.write_whole(target, _page(content).encode())
  return target


def _part(name: str, root: pathlib.Path, path: pathlib.Path) -> dict[str, Any]:
  """Collects the page's content for one directory of a run."""
  content = runs.read_content(path)
  done = runs.is_complete(path)
  environment = dict(content.get("environment") or {})
  seconds = runs.read_duration(path)
  if seconds is not None:
    environment["duration"] = f"{seconds:.0f} s"
  kind = content["config"].get("experiment", "memorization")
  is_known = kind in studies.STUDIES
  return {
    "name": pathlib.PurePath(name, path.relative_to(root)).as_posix(),
    "kind": kind,
    "done": done,
    "config": runs.flat_config(content["config"]),
    "environment": environment,
    "sentences": studies.findings(path) if done and is_known else [],
    "figures": _figures(path, kind, done and is_known),
    "rows": pack_rows(runs.read_rows(path)),
  }


def _figures(path: pathlib.Path, kind: str, done: bool) -> list[dict[str, str]]:
  """Inlines a directory's figures; draws them first if it has none."""
  left_out = _PAGES_OWN.get(kind, set())
  files = sorted((path / "figures").glob("[!.]*.png"))
  with tempfile.TemporaryDirectory() as scratch:
    if done and not files and set(studies.STUDIES[kind].figures) - left_out:
      drawn = studies.draw(path, scratch)
      files = [file for file in drawn if file.suffix == ".png"]
    return [
      {
        "name": file.stem,
        "caption": _caption(kind, file.stem),
        "source": "data:image/png;base64,"
        + base64.b64encode(file.read_bytes()).decode(),
      }
      for file in files
      if file.stem not in left_out
    ]


def _caption(kind: str, name: str) -> str:
  """Returns what a figure shows: the docstring's first line, without a verb."""
  figures = studies.STUDIES[kind].figures if kind in studies.STUDIES else {}
  doc = inspect.getdoc(figures[name]) if name in figures else None
  text = (doc or f" {name.replace('_', ' ')}").splitlines()[0]
  text = text.partition(" ")[2]
  return text[0].upper() + text[1:]


def pack_rows(rows: list[dict]) -> dict[str, Any]:
  """Packs rows by column; repeated values are written once."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  columns = {}
  for name in names:
    values = [_short(row.get(name)) for row in rows]
    if name in ("value", "stderr"):
      columns[name] = {"codes": values}
      continue
    # JSON distinguishes 1, 1.0 and true, which are equal as dict keys.
    keys = [json.dumps(value) for value in values]
    codes = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    columns[name] = {
      "levels": [json.loads(key) for key in codes],
      "codes": [codes[key] for key in keys],
    }
  return {"count": len(rows), "columns": columns}


def _short(value: Any) -> Any:
  if not isinstance(value, float):
    return value
  return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _page(content: dict[str, Any]) -> str:
  """Fills the template; escaping keeps content from ending its element."""
  read = importlib.resources.files("geomem.report").joinpath
  template = string.Template(read("report.html").read_text("utf-8"))
  scripts = [read(f"report_{n}.js").read_text("utf-8") for n in _SCRIPTS]
  data = json.dumps(content, separators=(",", ":"))
  return template.substitute(
    title=html.escape(content["title"]),
    style=read("report.css").read_text("utf-8"),
    data=data.replace("<", "\\u003c"),
    script="\n".join(scripts),
  )
