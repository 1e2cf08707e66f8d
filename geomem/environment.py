"""What numbers were made with: versions, devices and the code's revision."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jaxopt", "orbax-checkpoint")


def _git(*arguments: str) -> str | None:
  try:
    result = subprocess.run(
      ["git", *arguments],
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

  `geomem_changed` says whether its files differ from the revision; both are
  None where geomem is not in a clone.
  """
  now = datetime.datetime.now(datetime.UTC)
  changes = _git("status", "--porcelain", "--untracked-files=no", ".")
  devices = jax.devices()
  return {
    "started": now.isoformat(timespec="seconds"),
    "command": shlex.join(sys.orig_argv),
    "devices": f"{len(devices)} {devices[0].device_kind}",
    "python": platform.python_version(),
    "geomem_revision": _git("rev-parse", "HEAD"),
    "geomem_changed": None if changes is None else bool(changes),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }
