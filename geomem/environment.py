"""What numbers were made with: versions, and the revision of the code."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "jaxopt", "orbax-checkpoint")


def _git_revision() -> str | None:
  try:
    result = subprocess.run(
      ["git", "rev-parse", "HEAD"],
      capture_output=True,
      text=True,
      check=True,
      cwd=pathlib.Path(__file__).parent,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return result.stdout.strip()


def describe() -> dict[str, Any]:
  """Returns the date, the revision of geomem and versions of packages."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    "started": now.isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "geomem_revision": _git_revision(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }
