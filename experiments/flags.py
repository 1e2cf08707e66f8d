"""Flags made from configs, one for each field, and how a command starts."""

import contextlib
import dataclasses
import functools
import inspect
import os
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from experiments import log, terminal, values
from geomem import compilation, parallel

_HELP_WIDTH = 80
_HELP_COLUMN = 28
_HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}
_DEFINE = {
  str: flags.DEFINE_string,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
}

# Fields of configs that are paths.
_PATHS = ("data_dir", "other")

# All processes get the same flags except for `--process_id`, and directories on
# a disk that all of them can access.
flags.DEFINE_bool(
  "distributed",
  False,
  "whether the cluster (Cloud TPU, Slurm, MPI) provides the hosts",
)
flags.DEFINE_string(
  "coordinator_address",
  None,
  "on several hosts, HOST:PORT of process 0, the same for all",
)
flags.DEFINE_integer(
  "num_processes", None, "on several hosts, the number of processes"
)
flags.DEFINE_integer(
  "process_id", None, "on several hosts, the index of this one, from 0"
)
values.define_path(
  "compilation_cache",
  None,
  "directory that caches compiled programs; `none` turns the cache off; by"
  " default in the user's cache",
)
_OF_DEVICES = tuple(flags.FLAGS.get_flags_for_module(__name__))


def _help_texts(config_class: type) -> dict[str, str]:
  """Returns the docstring's text on each field, inherited ones included."""
  texts = {}
  for ancestor in reversed(config_class.__mro__):
    # From Python 3.13 on docstrings come without the indentation.
    text = inspect.cleandoc(ancestor.__doc__ or "")
    _, _, section = text.partition("Attributes:")
    entries = re.findall(r"^  (\w+): (.*(?:\n {4}.*)*)", section, re.MULTILINE)
    texts |= {name: " ".join(text.split()) for name, text in entries}
  return texts


def _kind(annotation: Any) -> Any:
  """Returns a field's type; for a tuple, `(tuple, type of its items)`."""
  if typing.get_origin(annotation) is tuple:
    return (tuple, typing.get_args(annotation)[0])
  options = typing.get_args(annotation) or (annotation,)
  return next(kind for kind in options if kind in _DEFINE)


def _fields(groups: Sequence[type]) -> Iterator[tuple[dataclasses.Field, Any]]:
  """Yields the fields of dataclasses, each with its kind."""
  for group in groups:
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
      yield field, _kind(hints[field.name])


def define_flags(
  groups: Sequence[type],
  *,
  sweeps: Sequence[str] = (),
  filled: Sequence[str] = (),
) -> None:
  """Defines a flag for every field of the dataclasses.

  Args:
    groups: dataclasses with an `Attributes:` section.
    sweeps: fields that take several values, separated by commas.
    filled: fields whose defaults depend on the data set.
  """
  texts = {}
  for group in groups:
    texts |= _help_texts(group)
  for field, kind in _fields(groups):
    text = texts[field.name].rstrip(".")
    default = field.default
    if default is dataclasses.MISSING or field.name in filled:
      default = None
      # It takes the place of the field's own default.
      text = re.sub("[;,] ([^;,]+ )?by default.*", "", text)
      text += "; the default depends on the data set"
    if field.name in sweeps:
      text += "; several, comma-separated, make a sweep"
      default = None if default is None else [str(default)]
      flags.DEFINE_list(field.name, default, text)
    elif isinstance(kind, tuple):
      flags.DEFINE_list(field.name, [str(x) for x in default], text)
    elif field.name in _PATHS:
      values.define_path(field.name, default, text)
    else:
      _DEFINE[kind](field.name, default, text)


def given(
  groups: Sequence[type], *, sweeps: Sequence[str] = ()
) -> dict[str, Any]:
  """Returns the fields given on the command line; swept ones as lists."""
  fields = {}
  for field, kind in _fields(groups):
    if not flags.FLAGS[field.name].present:
      continue
    if field.name in sweeps:
      fields[field.name] = values.list_of(field.name, kind)
    elif isinstance(kind, tuple):
      fields[field.name] = tuple(values.list_of(field.name, kind[1]))
    else:
      fields[field.name] = flags.FLAGS[field.name].value
  return fields


def _left(flag: flags.Flag) -> str:
  """Returns a flag as typed, with its default or a placeholder."""
  if isinstance(flag, flags.BooleanFlag):
    return f"--[no]{flag.name}"
  default = flag.default
  if isinstance(default, list):
    default = ",".join(default)
  if default in (None, ""):
    default = {"float": "X", "int": "N"}.get(flag.flag_type(), "TEXT")
  return f"--{flag.name}={default}"


def help_text(text: str, computes: bool = True) -> str:
  """Returns what a binary does, and its flags: first its own, then common ones.

  What does not compute with JAX has no flags of hosts and of the cache.
  """
  listed = flags.FLAGS.get_flags_for_module(sys.argv[0])
  listed += flags.FLAGS.get_flags_for_module(__name__)
  listed = [flag for flag in listed if flag not in _OF_DEVICES]
  listed += _OF_DEVICES if computes else ()
  listed += [flags.FLAGS[name] for name in log.FLAGS]
  lines = [text.strip(), "", "Flags:", ""]
  for flag in listed:
    left = f"  {_left(flag)}"
    if len(left) >= _HELP_COLUMN - 1:
      lines.append(left)
      left = ""
    indents = left.ljust(_HELP_COLUMN), " " * _HELP_COLUMN
    what = flag.help
    if isinstance(flag, flags.BooleanFlag):
      what += f" (default: {'yes' if flag.default else 'no'})"
    lines.append(textwrap.TextWrapper(_HELP_WIDTH, *indents).fill(what))
  return "\n".join(lines)


def _shared_values() -> dict[str, str]:
  """Returns the flags that all processes must share.

  Paths may differ: opening a run directory checks that all see the same one.
  """
  own = ("process_id", *log.FLAGS)
  return {
    f"value of --{name}": str(flags.FLAGS[name].value)
    for name in flags.FLAGS
    if name not in own and not values.is_path(name)
  }


# Patterns of absl's messages about wrong flags, and our wording.
_IN_WORDS = (
  (r"flag --(\w+)=None: .*", r"--\1 must be given."),
  (r"flag (--\S+): .*int\(\).*", r"\1 is not a whole number."),
  (r"flag (--\S+): .*float.*", r"\1 is not a number."),
  (r"flag (--\S+): .*[Bb]oolean.*", r"\1 is neither true nor false."),
  (r"flag (--\S*): (a path .*)", r"\1: \2"),
  (r"Unknown command line flag '(\S+)'", r"There is no flag --\1"),
  (r"Did you mean: (.*) \?", r"Did you mean --\1?"),
)


def _in_words(error: flags.Error) -> str:
  sentence = " ".join(str(error).split())
  for pattern, words in _IN_WORDS:
    sentence = re.sub(pattern, words, sentence)
  return sentence if sentence[-1] in ".?" else f"{sentence}."


def wants_help(arguments: Sequence[str]) -> bool:
  """Returns whether arguments of a command ask for its help."""
  return bool(_HELP & set(arguments))


def show_help(text: str) -> None:
  """Prints a text, and exits."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    sys.exit(terminal.abandoned())
  sys.exit(0)


def _parse(text: str, computes: bool, argv: list[str]) -> list[str]:
  """Parses the command line; exits after printing help or an error."""
  if wants_help(argv[1:]):
    show_help(help_text(text, computes))
  try:
    rest = flags.FLAGS(argv)
    if rest[1:]:
      raise flags.Error(f"{rest[1]!r} is not a flag; flags start with --.")
    for name in flags.FLAGS:
      flag = flags.FLAGS[name]
      # The last one would count alone.
      if isinstance(flag.parser, flags.ListParser) and flag.present > 1:
        raise flags.Error(
          f"--{name} is given {flag.present} times; give it once, with its"
          " values separated by commas."
        )
  except flags.Error as error:
    print(f"Error: {_in_words(error)} See --help.", file=sys.stderr)
    sys.exit(2)
  return rest


def run(main: Callable, *, text: str = "", computes: bool = True) -> None:
  """Runs a binary, with its errors reported by `terminal.guarded`.

  Without a `text`, `--help` shows the docstring of its module; see `help_text`.
  """
  text = text or sys.modules["__main__"].__doc__ or ""

  def start(_):
    with values.command_line():
      parallel.start(
        flags.FLAGS.coordinator_address,
        flags.FLAGS.num_processes,
        flags.FLAGS.process_id,
        automatic=flags.FLAGS.distributed,
      )
      parallel.check_same(_shared_values())
    with contextlib.ExitStack() as silenced:
      if not parallel.is_first():
        nowhere = silenced.enter_context(open(os.devnull, "w"))
        silenced.enter_context(contextlib.redirect_stdout(nowhere))
        silenced.enter_context(contextlib.redirect_stderr(nowhere))
      log.open_elsewhere()
      compilation.keep_programs(flags.FLAGS.compilation_cache)
      return main()

  parse = functools.partial(_parse, text, computes)
  app.run(terminal.guarded(start), flags_parser=parse)
