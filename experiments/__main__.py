"""Measures where and when a network memorizes: all commands by name.

  python -m experiments NAME --help

explains a command and lists its flags. `geomem NAME`, which the installation
provides, is the same as `python -m experiments NAME`.
"""

import ast
import difflib
import inspect
import pathlib
import runpy
import sys
import textwrap

from experiments import cli, flags
from geomem.studies import STUDIES, takes_a_run

# Studies of a run that have no binary of their own come between the two groups.
_FIRST = (
  *("memorization", "rewind", "gradients", "capacity", "model_size"),
  *("paper", "measure"),
)
_LAST = ("report", "figures", "pack", "benchmark")


def main() -> None:
  """Takes the name off the command line, and runs the command."""
  # Studies of a run need no binary of their own.
  others = [n for n, study in STUDIES.items() if takes_a_run(study)]
  others = [name for name in others if name not in _FIRST]
  names = [*_FIRST, *others, *_LAST]
  if not sys.argv[1:] or flags.wants_help(sys.argv[1:2]):
    listed = "\n".join(map(_line, names))
    flags.show_help(f"{__doc__}\nCommands:\n\n{listed}")
  name = sys.argv.pop(1)
  if name in others:
    cli.study_of_run(STUDIES[name], text=_description(name))
  elif name in names:
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
  else:
    near = difflib.get_close_matches(name, names, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    print(
      f"Error: there is no command {name!r}.{hint} Choose one of"
      f" {', '.join(names)}. See --help.",
      file=sys.stderr,
    )
    sys.exit(2)


def _description(name: str) -> str:
  """Returns the docstring of a command's binary, or of its study."""
  file = pathlib.Path(__file__).with_name(f"{name}.py")
  if name in (*_FIRST, *_LAST):
    # Not imported, as binaries define flags of the same names.
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
  study = STUDIES[name]
  text = inspect.getdoc(inspect.getmodule(study)) or inspect.getdoc(study)
  return (
    f"{text}\n\n  python -m experiments {name} --run=runs/demo\n\n"
    f"writes to runs/demo/{name}.\n"
    "Repeat the command to resume what was interrupted."
  )


def _line(name: str) -> str:
  text = _description(name).partition("\n")[0]
  return textwrap.fill(
    f"  {name:15}{text}", width=80, subsequent_indent=" " * 17
  )


if __name__ == "__main__":
  main()
