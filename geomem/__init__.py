"""Where and when a deep network memorizes, by the geometry of its layers."""

import importlib

__version__ = "0.1.0"
_LAZY = {
  *("compilation", "data", "disk", "environment", "geometry", "measures"),
  *("models", "parallel", "plots", "report", "runs", "shares", "studies"),
  "training",
}


def __getattr__(name: str):
  """Imports a package of geomem when it is first used."""
  if name in _LAZY:
    return importlib.import_module(f"geomem.{name}")
  raise AttributeError(f"module 'geomem' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *_LAZY})
