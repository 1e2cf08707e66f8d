"""One HTML page of a run directory, that needs nothing else.

The rows are in it as JSON and are drawn by the page's own script; figures are
inlined as they lie in the directory.
"""

import base64
import datetime
import html
import importlib.resources
import json
import pathlib
import string
from collections.abc import Callable, Iterable
from typing import Any

import geomem
from geomem import disk, runs
from geomem.plots import gallery, style

_SCRIPTS = ("rows", "charts", "tables", "page")
# Digits of what is drawn; `results.jsonl` has all.
_DIGITS = 7

Sentences = Callable[[dict[str, Any], list[dict]], Iterable[str]]


def parts_of(path: pathlib.Path | str) -> list[pathlib.Path]:
  """The run directory, and those right below it but the cells of a sweep."""
  path = pathlib.Path(path)
  below = [file.parent for file in sorted(path.glob("*/config.json"))]
  return [path, *(part for part in below if "=" not in part.name)]


def write_report(
  path: pathlib.Path | str, sentences: Sentences = lambda config, rows: []
) -> pathlib.Path:
  """Writes `report.html` into a run directory, whole or not at all.

  Args:
    path: the run directory, of any experiment, complete or not.
    sentences: from the config and the rows of a part that is complete, what
      they say in words.

  Returns:
    The file.

  Raises:
    RunError: it is no run directory.
  """
  path = pathlib.Path(path)
  runs.read_config(path)
  content = {
    "title": path.resolve().name,
    "version": geomem.__version__,
    "written": datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes"),
    "looks": {subset: style.look_of(subset) for subset in style.COLORS},
    "parts": [_part(path, part, sentences) for part in parts_of(path)],
  }
  target = path / "report.html"
  disk.write_whole(target, _page(content).encode())
  return target


def _part(root: pathlib.Path, path: pathlib.Path, sentences) -> dict[str, Any]:
  """What the page says of one directory."""
  content = json.loads((path / "config.json").read_text())
  rows = runs.read_rows(path)
  done = (path / "done").exists()
  if done and not any((path / "figures").glob("*.png")):
    gallery.draw_all(path)
  return {
    "name": path.resolve().relative_to(root.resolve().parent).as_posix(),
    "kind": content["config"].get("experiment", "memorization"),
    "done": done,
    "config": content["config"],
    "environment": content.get("environment", {}),
    "sentences": list(sentences(content["config"], rows)) if done else [],
    "figures": [
      {"name": file.stem, "source": _inline(file)}
      for file in sorted((path / "figures").glob("[!.]*.png"))
    ],
    "rows": pack_rows(rows),
  }


def _inline(file: pathlib.Path) -> str:
  encoded = base64.b64encode(file.read_bytes()).decode()
  return f"data:image/png;base64,{encoded}"


def pack_rows(rows: list[dict]) -> dict[str, Any]:
  """Rows by columns; of those that repeat themselves each value once."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  columns = {}
  for name in names:
    values = [_short(row.get(name)) for row in rows]
    if name in ("value", "stderr"):
      columns[name] = {"codes": values}
      continue
    # By type, too: 1 and 1.0 and true are equal, and not the same.
    keys = [json.dumps(value) for value in values]
    codes = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    columns[name] = {
      "levels": [json.loads(key) for key in codes],
      "codes": [codes[key] for key in keys],
    }
  return {"count": len(rows), "columns": columns}


def _short(value: Any) -> Any:
  return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _page(content: dict[str, Any]) -> str:
  """The template, filled; nothing of the content can end its own element."""
  read = importlib.resources.files("geomem.plots").joinpath
  template = string.Template(read("report.html").read_text("utf-8"))
  scripts = [read(f"report_{n}.js").read_text("utf-8") for n in _SCRIPTS]
  data = json.dumps(content, separators=(",", ":"))
  return template.substitute(
    title=html.escape(content["title"]),
    style=read("report.css").read_text("utf-8"),
    data=data.replace("<", "\\u003c"),
    script="\n".join(scripts),
  )
