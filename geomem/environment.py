"""The environment of results: versions, devices and the code's revision."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jaxopt", "orbax-checkpoint")
# What results may depend on.
_OF_NUMBERS = (
  *("geomem", "geomem_revision", "jax", "jaxlib", "flax", "optax"),
  "devices",
)


def _git(*arguments: str) -> str | None:
  try:
    result = subprocess.run(
      # Without the lock that the user's own commands would wait for.
      ["git", "--no-optional-locks", *arguments],
      capture_output=True,
      text=True,
      check=True,
      cwd=pathlib.Path(__file__).parent,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return result.stdout.strip()


def describe() -> dict[str, Any]:
  """Returns the date, command, devices, revision of geomem and versions.

  `geomem_changed` says whether geomem's files differ from `geomem_revision`;
  both are None where geomem is not in a clone.
  """
  now = datetime.datetime.now(datetime.UTC)
  return {
    "started": now.isoformat(timespec="seconds"),
    "command": shlex.join(sys.orig_argv),
    "devices": _devices(),
    # None is the device's own: less than float32 on most accelerators.
    "matmul_precision": jax.config.jax_default_matmul_precision,
    "python": platform.python_version(),
    "geomem_changed": is_changed(),
    **versions(),
  }


def _devices() -> str:
  devices = jax.devices()
  return f"{len(devices)} {devices[0].device_kind}"


def is_changed() -> bool | None:
  """Returns whether geomem's files differ from its commit; None if unknown."""
  if _revision() is None:
    return None
  changes = _git("status", "--porcelain", "--untracked-files=no", ".")
  return None if changes is None else bool(changes)


def versions() -> dict[str, str | None]:
  """Returns the versions of geomem and of the packages that it computes with.

  Those of geomem and its revision are None where they are unknown.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  try:
    version = importlib.metadata.version("geomem")
  except importlib.metadata.PackageNotFoundError:  # A clone, not installed.
    version = None
  return {"geomem": version, "geomem_revision": _revision(), **versions}


def _revision() -> str | None:
  """Returns the commit of geomem's clone, or None outside one.

  An installed geomem may lie in another repository, which doesn't track it.
  """
  if _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name) is None:
    return None
  return _git("rev-parse", "HEAD")


def changes_since(
  recorded: Any, names: Sequence[str] = _OF_NUMBERS
) -> list[str]:
  """Lists the versions and devices that differ from an earlier `describe()`.

  Args:
    recorded: its result, read back from a file; what it does not know counts as
      unchanged.
    names: names of what to compare.
  """
  if not isinstance(recorded, dict):
    return []
  current = versions() | {"devices": _devices()}
  return [
    f"{name} {recorded[name]} (now {current[name]})"
    for name in names
    if recorded.get(name) is not None and recorded[name] != current[name]
  ]
