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

# What trains, and the fields that can be swept.
_TRAINING = {
  "memorization": ("permuted_fraction", "model", "width"),
  "model_size": ("width",),
}
# Studies of a run that are not named here come between the two groups.
_FIRST = (
  *("memorization", "rewind", "gradients", "capacity", "model_size"),
  *("paper", "measure"),
)
_LAST = ("report", "figures", "pack", "benchmark")
# These have modules of their own in this package.
_OTHERS = ("paper", *_LAST)


def main() -> None:
  """Takes the name off the command line, and runs the command."""
  of_runs = [n for n, study in STUDIES.items() if takes_a_run(study)]
  names = list(dict.fromkeys([*_FIRST, *of_runs, *_LAST]))
  if not sys.argv[1:] or flags.wants_help(sys.argv[1:2]):
    listed = "\n".join(map(_line, names))
    flags.show_help(f"{__doc__}\nCommands:\n\n{listed}")
  name = sys.argv.pop(1)
  if name in _TRAINING:
    cli.training(name, _TRAINING[name], _description(name))
  elif name in of_runs:
    cli.study_of_run(STUDIES[name], text=_description(name))
  elif name in _OTHERS:
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
  """Returns the docstring of the module of a command or study."""
  if name in _OTHERS:
    # Not imported, as these define flags of the same names.
    file = pathlib.Path(__file__).with_name(f"{name}.py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
  text = inspect.getdoc(inspect.getmodule(STUDIES[name]))
  if "python -m" in text:
    return text
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
