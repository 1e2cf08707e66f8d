"""The flags that the binaries share: one for each field of the config."""

import dataclasses
import re
import sys
import typing

from absl import app, flags, logging

from geomem.analysis import ExperimentConfig

_DEFINE = {
  str: flags.DEFINE_string,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
}


def _help_texts(config_class: type) -> dict[str, str]:
  """The config's own words on each field."""
  section = config_class.__doc__.split("Attributes:")[1]
  return dict(re.findall(r"^    (\w+): (.*)$", section, re.MULTILINE))


def define_config_flags(config_class: type = ExperimentConfig) -> None:
  """Defines a flag for every field of a config."""
  texts = _help_texts(config_class)
  kinds = typing.get_type_hints(config_class)
  for field in dataclasses.fields(config_class):
    kind = kinds[field.name]
    kind = next((t for t in typing.get_args(kind) if t in _DEFINE), kind)
    text = texts[field.name]
    if field.default is None:
      text += " (by default: as fits the data set)"
    _DEFINE[kind](field.name, field.default, text)


def config_from_flags(config_class: type = ExperimentConfig):
  """The config that the command line gives."""
  names = [field.name for field in dataclasses.fields(config_class)]
  return config_class(**{name: flags.FLAGS[name].value for name in names})


def run(main) -> None:
  """Runs a binary: bad input ends in a sentence, not in a traceback."""

  def guarded(argv):
    # What JAX and Orbax log of their own start-up is of no use here.
    logging.set_verbosity(logging.ERROR)
    try:
      return main(argv)
    except KeyboardInterrupt:
      print("\nStopped; the same command goes on from here.", file=sys.stderr)
      return 130
    except (ValueError, FloatingPointError) as error:
      print(f"Error: {error}", file=sys.stderr)
      return 1

  app.run(guarded)
