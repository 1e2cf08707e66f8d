"""How programs that run a network are compiled, and where all are cached.

From jaxlib 0.10 on, XLA gives convolutions on CPU to YNNPACK, which is slower
than XLA itself, above all at a kernel's gradient. For a batch of 64 images of
32 x 32 x 64, on two cores: 75 ms forward and 1,000 ms for the gradient, but 35
and 55 ms without (jaxlib 0.10.2); 32 and 270, but 30 and 55 ms (0.12.0).

Compilation often takes longer than the program itself: some seconds on a core
for the first call of the geometry, half a minute on an accelerator for a
network. A cache on disk is shared by later processes. This module tells JAX
where it is, unless the user has.
"""

import contextlib
import functools
import hashlib
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from geomem import disk

# What XLA may give to YNNPACK: matrix products, but no convolutions.
_FAST_CONVOLUTIONS = {
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"
}
NOWHERE = "none"
# Faster compilations are repeated: reading the cache would take as long.
_SHORTEST_SECONDS = 0.1
# A full disk or a kill cuts files off between pages.
_PAGE = 4096
# Names of JAX's entries: the directory may hold other files.
_ENTRY = f"jit_*-{64 * '[0-9a-f]'}-cache"


def jit(function: Callable, **options: Any) -> Callable:
  """Compiles a function in which there may be convolutions.

  It is `jax.jit` with the options under which the compiler of the default
  backend makes them fast. JAX takes these for whole programs only: within
  another transformation, the result is that of `jax.jit` alone.

  Args:
    function: the function.
    **options: of `jax.jit`.
  """
  part = jax.jit(function, **options)
  if _compiler_options() is None:
    return part
  program = jax.jit(function, compiler_options=_compiler_options(), **options)

  @functools.wraps(function)
  def call(*arguments):
    # Within jit, even what depends on no argument is traced.
    leaves = jax.tree.leaves((arguments, jnp.zeros(())))
    is_part = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    return (part if is_part else program)(*arguments)

  call.lower = program.lower
  return call


@functools.cache
def _compiler_options() -> dict[str, str] | None:
  """Returns the options on CPU, if the installed jaxlib knows them."""
  if jax.default_backend() != "cpu":
    return None
  nothing = jax.jit(lambda: 0, compiler_options=_FAST_CONVOLUTIONS)
  try:
    nothing.lower().compile()
  except jax.errors.JaxRuntimeError:
    return None
  return _FAST_CONVOLUTIONS


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
    _remove_torn(path)
    return path
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError:
    jax.config.update("jax_compilation_cache_dir", None)
    return None
  _remove_torn(path)
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS
  )
  return path
