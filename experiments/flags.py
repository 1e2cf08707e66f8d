"""The flags that the binaries share: one for each field of the config."""

import dataclasses
import re
import sys
import typing
from typing import Any

from absl import app, flags, logging

from experiments import processes
from geomem.analysis import ExperimentConfig

_DEFINE = {
  str: flags.DEFINE_string,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
}

processes.define_flags()


def _help_texts(config_class: type) -> dict[str, str]:
  """The config's own words on each field, those it inherits included."""
  texts = {}
  for ancestor in reversed(config_class.__mro__):
    _, _, section = (ancestor.__doc__ or "").partition("Attributes:")
    texts |= dict(re.findall(r"^    (\w+): (.*)$", section, re.MULTILINE))
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
    text = texts[field.name]
    if field.name in lists:
      text += " Several with commas make a sweep."
    if field.default is None:
      text += " (by default: as fits the data set)"
    if field.name in lists:
      default = None if field.default is None else [str(field.default)]
      flags.DEFINE_list(field.name, default, text)
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
  values = {name: flags.FLAGS[name].value for name in names}
  for field in lists:
    values[field] = next(iter(_values(config_class, field)), None)
  return config_class(**values)


def values_from_flags(
  config_class: type, lists: tuple[str, ...]
) -> dict[str, list]:
  """All values of the fields of which several can be given."""
  return {field: _values(config_class, field) for field in lists}


def _values(config_class: type, field: str) -> list:
  kind = _kinds(config_class)[field]
  texts = flags.FLAGS[field].value or []
  try:
    return [kind(text) for text in texts]
  except ValueError as error:
    raise ValueError(
      f"--{field}={','.join(texts)} is not one {kind.__name__} or several with"
      " commas."
    ) from error


def define_share_flag() -> None:
  """Defines `--cell`, by which several processes share a sweep."""
  flags.DEFINE_string(
    "cell", None, "i/n: the i-th of n processes' part of a sweep, i from 0"
  )


def run(main) -> None:
  """Runs a binary: bad input ends in a sentence, not in a traceback."""

  def guarded(argv):
    # What JAX and Orbax log of their own start-up is of no use here.
    logging.set_verbosity(logging.ERROR)
    try:
      return processes.joined(main)(argv)
    except KeyboardInterrupt:
      print("\nStopped; the same command goes on from here.", file=sys.stderr)
      return 130
    except (ValueError, FloatingPointError) as error:
      print(f"Error: {error}", file=sys.stderr)
      return 1

  app.run(guarded)
