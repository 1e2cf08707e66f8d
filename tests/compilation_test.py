"""Compiled programs are kept for the next process, where one wants them."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from geomem import compilation

_PROGRAM = """
import sys
import jax
from geomem import compilation
print(compilation.keep_programs(*sys.argv[1:]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x @ x.T + 3)(jax.numpy.ones((7, 5)))
"""


def said_by_process(tmp_path: pathlib.Path, *arguments, **variables) -> str:
  """Runs the program with a home of its own; returns what it says."""
  hidden = {"JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "GEOMEM_CACHE"}
  inherited = {k: v for k, v in os.environ.items() if k not in hidden}
  result = subprocess.run(
    [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
    env=inherited | {"HOME": str(tmp_path)} | variables,
    capture_output=True,
    text=True,
    check=True,
  )
  assert not result.stderr
  return result.stdout.strip()


def test_programs_are_kept_in_the_cache_by_default(tmp_path):
  said = pathlib.Path(said_by_process(tmp_path))
  assert said.is_relative_to(tmp_path / ".cache" / "geomem" / "programs")
  assert list(said.iterdir())


@pytest.mark.parametrize(
  "arguments, variables, place",
  [
    (("{}/mine",), {}, "mine"),
    ((), {"JAX_COMPILATION_CACHE_DIR": "{}/jax"}, "jax"),
    ((), {"GEOMEM_CACHE": "{}/big"}, "big"),
  ],
)
def test_they_may_be_moved(tmp_path, arguments, variables, place):
  said = said_by_process(
    tmp_path,
    *(text.format(tmp_path) for text in arguments),
    **{name: text.format(tmp_path) for name, text in variables.items()},
  )
  assert pathlib.Path(said).is_relative_to(tmp_path / place)
  assert list(pathlib.Path(said).iterdir())
  assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize(
  "arguments, variables",
  [(("none",), {}), ((), {"JAX_ENABLE_COMPILATION_CACHE": "false"})],
)
def test_they_may_be_refused(tmp_path, arguments, variables):
  assert said_by_process(tmp_path, *arguments, **variables) == "None"
  assert not (tmp_path / ".cache").exists()


def test_a_place_that_cannot_be_made_keeps_none(tmp_path):
  (tmp_path / "file").touch()
  assert said_by_process(tmp_path, tmp_path / "file" / "below") == "None"


def test_an_entry_that_was_cut_off_is_written_again(tmp_path):
  """JAX warned of it at each start and never replaced it."""
  said_by_process(tmp_path, tmp_path)
  entries = list(tmp_path.glob("*-cache"))
  assert entries
  for entry in entries:  # As on a full disk.
    entry.write_bytes(b"")
  (tmp_path / "of-the-user-cache").touch()
  said_by_process(tmp_path, tmp_path)  # Without a warning.
  assert (tmp_path / "of-the-user-cache").exists()
  assert all(entry.stat().st_size for entry in entries)


def test_kinds_of_machines_do_not_share_programs(monkeypatch):
  here = compilation.default_directory()
  monkeypatch.setattr(compilation, "_processor", lambda: "flags: another")
  assert compilation.default_directory() != here
  assert jax.config.jax_compilation_cache_dir  # That of the tests.
