"""Strict mode for every test: no silent broadcasting, shapes checked."""

import atexit
import gc
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

# Before jax is imported: tests never need an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Binaries and tests have one device each, so that rows are equal bit for bit;
# shares_test gives manifold sets to several cores.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
# What one process compiled, its workers and the binaries that tests start need
# not: they inherit the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import pytest

# Public borders state their shapes; the tests hold the code to them. In rows,
# figures and reports there are hardly any, and checking takes longer than work.
ROOMS = ("data", "geometry", "measures", "models", "studies", "training")
if hasattr(jax, "enable_x64"):
  jaxtyping.install_import_hook(
    [f"geomem.{room}" for room in ROOMS], "beartype.beartype"
  )
else:  # The oldest versions, see tests/oldest.txt.
  import jax.experimental

  jax.enable_x64 = jax.experimental.enable_x64
  # There JAX fills records with placeholders, which checks of their shapes
  # would refuse. Users have no such checks.

jax.config.update("jax_numpy_rank_promotion", "raise")
if "PYTEST_XDIST_WORKER" not in os.environ:
  atexit.register(
    shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
  )

# Most of the suite's time is compilation. Without costly optimizations it takes
# less than half of it, and with XLA's older emitters, which JAX lost in 0.11.2,
# still less; the last digits alone change. The oldest versions keep their own.
QUICK = (
  "--xla_backend_optimization_level=0"
  " --xla_llvm_disable_expensive_passes=true"
  " --xla_cpu_parallel_codegen_split_count=1"
)
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def _is_known(flags: str) -> bool:
  """Tells whether XLA knows flags; one that it does not ends the process."""
  start = [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"]
  env = os.environ | {"XLA_FLAGS": flags}
  return not subprocess.run(start, env=env, capture_output=True).returncode


def pytest_configure():
  """Sets XLA's flags, which are read when the first array is made."""
  if jax.__version_info__ >= (0, 10) and "XLA_FLAGS" not in os.environ:
    choices = f"{QUICK} {OLDER_EMITTERS}", QUICK
    os.environ["XLA_FLAGS"] = next(filter(_is_known, choices), "")


def pytest_collection_finish():
  """Lets the collector look at young objects, of which tracing makes many."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def of_a_revision():
  """Takes geomem's files for those of their commit, also while they change."""
  from geomem import environment

  def is_changed():
    return None if environment._revision() is None else False

  with mock.patch.object(environment, "is_changed", is_changed):
    yield


@pytest.fixture(autouse=True, scope="module")
def few_programs():
  """Drops what was compiled before there is too much of it.

  Each program takes memory maps. Linux gives a process 65,530, and XLA crashes
  where there are no more.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
    jax.clear_caches()
