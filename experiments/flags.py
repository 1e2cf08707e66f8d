"""The flags that the binaries share: one for each field of the config."""

import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from typing import Any

from absl import app, flags

from experiments import processes, terminal, values
from geomem.analysis import ExperimentConfig

_HELP_WIDTH = 80
_HELP_COLUMN = 28
_DEFINE = {
  str: flags.DEFINE_string,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
}

# Fields of configs that are paths.
_PATHS = ("data_dir",)

processes.define_flags()


def _help_texts(config_class: type) -> dict[str, str]:
  """The config's own words on each field, those it inherits included."""
  texts = {}
  for ancestor in reversed(config_class.__mro__):
    # From Python 3.13 on docstrings come without the indentation.
    text = inspect.cleandoc(ancestor.__doc__ or "")
    _, _, section = text.partition("Attributes:")
    found = re.findall(r"^  (\w+): (.*(?:\n {4}.*)*)", section, re.MULTILINE)
    texts |= {name: " ".join(text.split()) for name, text in found}
  return texts


def _kinds(config_class: type) -> dict[str, type]:
  """The type of each field's value, where it has one."""
  return {
    name: next((t for t in typing.get_args(kind) if t in _DEFINE), kind)
    for name, kind in typing.get_type_hints(config_class).items()
  }


def define_config_flags(
  config_class: type = ExperimentConfig, lists: tuple[str, ...] = ()
) -> None:
  """Defines a flag for every field of a config.

  Args:
    config_class: a dataclass with an `Attributes:` section.
    lists: fields of which several values can be given, with commas.
  """
  texts, kinds = _help_texts(config_class), _kinds(config_class)
  for field in dataclasses.fields(config_class):
    text = texts[field.name].rstrip(".")
    if field.default is None and "default" not in text:
      text += "; by default as fits the data set"
    if field.name in lists:
      text += "; several with commas make a sweep"
    if field.name in lists:
      default = None if field.default is None else [str(field.default)]
      flags.DEFINE_list(field.name, default, text)
    elif field.name in _PATHS:
      values.define_path(field.name, field.default, text)
    else:
      _DEFINE[kinds[field.name]](field.name, field.default, text)


def config_from_flags(
  config_class: type = ExperimentConfig, lists: tuple[str, ...] = ()
) -> Any:
  """The config that the command line gives.

  Of a field that was given several values it has the first; see
  `values_from_flags`.
  """
  names = [field.name for field in dataclasses.fields(config_class)]
  given = {name: flags.FLAGS[name].value for name in names}
  for field in lists:
    given[field] = next(iter(_values(config_class, field)), None)
  with values.command_line():
    return config_class(**given)


def values_from_flags(
  config_class: type, lists: tuple[str, ...]
) -> dict[str, list]:
  """All values of the fields of which several can be given."""
  return {field: _values(config_class, field) for field in lists}


def _values(config_class: type, field: str) -> list:
  return values.list_of(field, _kinds(config_class)[field])


def define_share_flag() -> None:
  """Defines `--cell`, by which several processes share a sweep."""
  flags.DEFINE_string(
    "cell", None, "i/n: the i-th of n processes' part of a sweep, i from 0"
  )


def define_data_dir_flag() -> flags.FlagHolder:
  """Defines `--data_dir` for what opens a run that is there already."""
  return values.define_path(
    "data_dir", None, "where TFDS looks, if the run's data moved"
  )


def _left(flag: flags.Flag) -> str:
  """A flag as one types it, with its default or a word for its value."""
  if isinstance(flag, flags.BooleanFlag):
    return f"--{'no' if flag.default else ''}{flag.name}"
  words = {"float": "X", "int": "N"}
  default = flag.default
  if isinstance(default, list):
    default = ",".join(default)
  if default is None or default == "":
    default = words.get(flag.flag_type(), "TEXT")
  return f"--{flag.name}={default}"


def help_text() -> str:
  """What the binary does, and its flags in the order of their definition."""
  known = flags.FLAGS.get_flags_for_module(sys.argv[0])
  for module in (__name__, processes.__name__):
    known += flags.FLAGS.get_flags_for_module(module)
  lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:", ""]
  for flag in known:
    left = f"  {_left(flag)}"
    if len(left) >= _HELP_COLUMN - 1:
      lines.append(left)
      left = ""
    lines.append(
      textwrap.fill(
        flag.help,
        _HELP_WIDTH,
        initial_indent=left.ljust(_HELP_COLUMN),
        subsequent_indent=" " * _HELP_COLUMN,
      )
    )
  return "\n".join(lines)


# What absl says of a wrong flag, and how we say it.
_IN_WORDS = (
  (r"flag --(\w+)=None: .*", r"--\1 must be given."),
  (r"flag (--\S+): .*int\(\).*", r"\1 is no whole number."),
  (r"flag (--\S+): .*float.*", r"\1 is no number."),
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


def _parse(argv: list[str]) -> list[str]:
  """Parses the command line; asked for help, or not understood, it ends."""
  if {"-h", "-help", "--help", "--helpshort"} & set(argv[1:]):
    print(help_text())
    sys.exit(0)
  try:
    rest = flags.FLAGS(argv)
    if rest[1:]:
      raise flags.Error(f"{rest[1]!r} is not a flag; flags start with --.")
  except flags.Error as error:
    print(f"Error: {_in_words(error)} See --help.", file=sys.stderr)
    sys.exit(2)
  return rest


def run(main) -> None:
  """Runs a binary, with what `terminal.guarded` makes of its errors."""
  app.run(terminal.guarded(processes.joined(main)), flags_parser=_parse)
