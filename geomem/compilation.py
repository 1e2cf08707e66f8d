"""A cache of compiled programs on disk, shared by later processes.

Compilation often takes longer than the program itself: some seconds on a core
for the first call of the geometry, half a minute on an accelerator for a
network. This module tells JAX where to cache programs, unless the user has.
"""

import contextlib
import hashlib
import pathlib
import platform

import jax

from geomem import disk

NOWHERE = "none"
# Faster compilations are repeated: reading the cache would take as long.
_SHORTEST_SECONDS = 0.1
# A full disk or a kill cuts files off between pages.
_PAGE = 4096
# Names of JAX's entries: the directory may hold other files.
_ENTRY = f"jit_*-{64 * '[0-9a-f]'}-cache"


def default_directory() -> pathlib.Path:
  """Returns the directory for programs of this kind of machine, in our cache.

  Programs use all instructions of the CPU, and different kinds of machines may
  share a home directory, so each kind has its own.
  """
  kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
  name = f"{platform.machine()}-{kind}"
  return disk.cache_directory() / "programs" / name


def _processor() -> str:
  """Returns the CPU's feature flags, or its name where they are unknown."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith(("flags", "Features")):
        return line
  return platform.processor()


def _remove_torn(directory: pathlib.Path) -> None:
  """Removes entries that were cut off, which JAX would never replace.

  A whole entry of just this size, one in 4,096, is compiled again.
  """
  with contextlib.suppress(OSError):
    for entry in directory.glob(_ENTRY):
      if entry.stat().st_size % _PAGE == 0:
        entry.unlink()


def keep_programs(
  directory: pathlib.Path | str | None = None,
) -> pathlib.Path | None:
  """Caches what JAX compiles from now on, and uses the programs cached before.

  It applies to all programs of the process. Unreadable entries are compiled
  again, and those that a full disk cut off are removed.

  Args:
    directory: the cache directory; `none` disables the cache. The default is
      JAX's configured directory (`JAX_COMPILATION_CACHE_DIR`), or else
      `default_directory()`.

  Returns:
    The directory; None where nothing is cached, as when the directory cannot be
    made or JAX's cache is disabled (`JAX_ENABLE_COMPILATION_CACHE=false`).
  """
  preset = jax.config.jax_compilation_cache_dir
  path = pathlib.Path(directory or preset or default_directory()).expanduser()
  refused = str(directory) == NOWHERE
  if refused or not jax.config.jax_enable_compilation_cache:
    jax.config.update("jax_compilation_cache_dir", None)
    return None
  if preset is not None and directory is None:
    return path
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError:
    return None
  _remove_torn(path)
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS
  )
  return path
