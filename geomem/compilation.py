"""Compiled programs, kept on disk for the processes that come after.

Compilation takes longer than much of what is compiled: the first call of the
geometry some seconds on a core, a network's programs half a minute on an
accelerator. JAX can keep the results; this says where, unless JAX was told.
"""

import contextlib
import hashlib
import pathlib
import platform

import jax

from geomem import disk

NOWHERE = "none"
# Programs that take less are compiled again: to read them takes as long.
_SHORTEST_SECONDS = 0.1


def default_directory() -> pathlib.Path:
  """Returns the directory for the programs of this machine, in our cache.

  Programs use all instructions of the processor, and machines of several kinds
  may share a home: each kind has a directory.
  """
  kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
  name = f"{platform.machine()}-{kind}"
  return disk.cache_directory() / "programs" / name


def _processor() -> str:
  """Says what the processor can do, as far as the system tells."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith(("flags", "Features")):
        return line
  return platform.processor()


def keep_programs(
  directory: pathlib.Path | str | None = None,
) -> pathlib.Path | None:
  """Keeps what JAX compiles from here on, and takes what was kept before.

  It applies to all programs of the process. What cannot be read is compiled
  again.

  Args:
    directory: where to; `none` keeps nothing. By default where JAX is
      configured to (`JAX_COMPILATION_CACHE_DIR`), or else
      `default_directory()`.

  Returns:
    The directory; None where nothing is kept, as where the directory cannot be
    made or JAX is told not to (`JAX_ENABLE_COMPILATION_CACHE=false`).
  """
  known = jax.config.jax_compilation_cache_dir
  path = pathlib.Path(directory or known or default_directory()).expanduser()
  refused = str(directory) == NOWHERE
  if refused or not jax.config.jax_enable_compilation_cache:
    jax.config.update("jax_compilation_cache_dir", None)
    return None
  if known is not None and directory is None:
    return path
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError:
    return None
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS
  )
  return path
