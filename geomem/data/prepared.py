"""Prepared TFDS sets: finding them, and checks before TFDS opens them.

TFDS imports any module that the files of a set name, and trusts what they state
about themselves. These checks admit only TFDS's own feature classes, and files
that hold the stated number of examples.
"""

import inspect
import json
import os
import pathlib
import re
from typing import Any

import tensorflow_datasets as tfds

from geomem.data.dataset import DamagedError, DatasetError

_FORMAT = "array_record"
_NAME = re.compile(r"(\w+)(?:/([\w.+-]+))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
# Keys of a feature's class in the files: the current one, protobuf's other
# spelling of it, and that of old versions of TFDS.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
# A lower bound on the bytes of a record.
_LEAST_BYTES = 8


def standard_directory() -> pathlib.Path:
  """Returns the directory where TFDS keeps its sets by default."""
  return pathlib.Path(tfds.core.constants.DATA_DIR).expanduser()


def find(name: str, data_dir: str | os.PathLike | None) -> pathlib.Path | None:
  """Finds the directory of a prepared set, of its newest version by default.

  Args:
    name: `name` or `name/config`, optionally followed by `:1.2.3`.
    data_dir: directory of the sets; TFDS's own by default.

  Returns:
    The directory, or None if there is no set of that name.

  Raises:
    DatasetError: the name is invalid; there are only other versions, or several
      configs to choose from; or `data_dir` is the directory of a set itself.
  """
  match = _NAME.fullmatch(name)
  if not match:
    raise DatasetError(
      f"{name!r} is not the name of a data set; digits, npz:PATH or a TFDS name"
      " was expected, such as cifar100, name/config or name:1.0.0. Names with a"
      " namespace or a path are not taken."
    )
  set_name, config, version = match.groups()
  above = pathlib.Path(data_dir) if data_dir else standard_directory()
  above = above.expanduser()
  _expect_above(above, set_name)
  root = above / set_name
  if config:
    root /= config
  elif not _versions(root):
    configs = _configs(root)
    if len(configs) > 1:
      raise DatasetError(
        f"{set_name} is prepared in {above} in several configs; choose from"
        f" {', '.join(f'{set_name}/{c}' for c in configs)}."
      )
    root = root / configs[0] if configs else root
  versions = _versions(root)
  if not versions:
    return None
  if version and version not in versions:
    raise DatasetError(
      f"{name} is not in {root}: there is version {', '.join(versions)}."
    )
  return root / (version or versions[-1])


def _expect_above(directory: pathlib.Path, name: str) -> None:
  """Raises if the directory is that of the set or of one of its versions."""
  if (directory / "dataset_info.json").exists():
    above = directory.resolve().parent.parent
  elif directory.name == name and _versions(directory):
    above = directory.resolve().parent
  else:
    return
  raise DatasetError(
    f"{directory} is itself a data set; its parent directory was expected:"
    f" --data_dir={above}."
  )


def _directories(path: pathlib.Path) -> list[str]:
  try:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
  except OSError:
    return []


def _versions(path: pathlib.Path) -> list[str]:
  """Lists the versions in a directory, the oldest first."""
  names = [name for name in _directories(path) if _VERSION.fullmatch(name)]
  return sorted(names, key=lambda name: [int(x) for x in name.split(".")])


def _configs(path: pathlib.Path) -> list[str]:
  return [name for name in _directories(path) if _versions(path / name)]


def open_directory(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Opens a prepared set, whose features must all be TFDS's own.

  Raises:
    DatasetError: its files are damaged, have another format or name other code.
  """
  info = _read_json(directory / "dataset_info.json")
  formats = [info.get("fileFormat", "tfrecord")]
  alternatives = info.get("alternativeFileFormats", [])
  formats += alternatives if isinstance(alternatives, list) else []
  if _FORMAT not in formats:
    raise DatasetError(
      f"{directory} is prepared as {formats[0]}, which only TensorFlow reads;"
      f" {_FORMAT} was expected. Prepare it again where TensorFlow is"
      f" installed: tfds build NAME --file_format={_FORMAT}."
    )
  features = _read_json(directory / "features.json")
  _refuse_foreign_code(features, directory)
  try:
    builder = tfds.builder_from_directory(directory, file_format=_FORMAT)
    splits = dict(builder.info.splits)
  except Exception as error:  # Damaged files fail in many ways.
    raise _damaged(directory, error) from error
  if not splits:
    raise DatasetError(f"{directory} has no splits; prepare the set again.")
  return builder


def _read_json(file: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(file.read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(file, error) from error
  if not isinstance(content, dict):
    raise _damaged(file, TypeError("no JSON object"))
  return content


def _damaged(what: pathlib.Path | str, why: Exception | str) -> DamagedError:
  if isinstance(why, Exception):
    why = f"{type(why).__name__}: {why}"
  return DamagedError(
    f"{what} is damaged: {why}. Prepare the set again, or put it back from a"
    " copy."
  )


def _known_features() -> set[str]:
  """Returns the names of TFDS's own feature classes, as in its files."""
  kinds = vars(tfds.features).values()
  return {
    f"{kind.__module__}.{kind.__name__}"
    for kind in kinds
    if inspect.isclass(kind)
    and issubclass(kind, tfds.features.FeatureConnector)
  }


def _refuse_foreign_code(features: Any, directory: pathlib.Path) -> None:
  """Raises unless every class that the features name is TFDS's own."""
  own_classes, waiting = _known_features(), [features]
  while waiting:
    node = waiting.pop()
    if isinstance(node, list):
      waiting += node
    if not isinstance(node, dict):
      continue
    waiting += node.values()
    for key in _CLASS_KEYS:
      name = node.get(key)
      if isinstance(name, str) and name not in own_classes:
        raise DatasetError(
          f"{directory / 'features.json'} names the class {name}, which is not"
          " one of TFDS's own features; code that comes with data is never run."
          " Prepare the set with classes of tfds.features only."
        )


def check_files(builder: tfds.core.DatasetBuilder, split: str) -> None:
  """Raises DatasetError unless a split's files hold the stated examples."""
  # The reader's module counts records without TensorFlow.
  from array_record.python import array_record_module

  info = builder.info.splits[split]
  what = f"The {split} split in {builder.data_path}"
  stated = [int(count) for count in info.shard_lengths]
  if not stated:
    raise _damaged(what, "none of its files is named")
  for path, count in zip(info.filepaths, stated, strict=True):
    file = pathlib.Path(path)
    if not file.is_file():
      raise _damaged(what, f"{file.name} is missing")
    size = file.stat().st_size
    if not 0 <= count * _LEAST_BYTES <= size:
      why = f"{file.name} of {size} bytes cannot hold {count} examples"
      raise _damaged(what, why)
    # The reader counts no records in a damaged file.
    total = array_record_module.ArrayRecordReader(os.fspath(file)).num_records()
    if total != count:
      raise _damaged(what, f"{file.name} holds {total} examples, not {count}")
