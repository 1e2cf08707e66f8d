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


def test_where_there_is_no_cache_none_is_used(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setattr(jax.config, "update", lambda *pair: updates.append(pair))
  updates = []
  assert compilation.keep_programs(tmp_path / "file" / "below") is None
  assert updates == [("jax_compilation_cache_dir", None)]


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


def test_convolutions_are_compiled_without_ynnpack():
  """YNNPACK takes 17 times as long for this gradient; see the module."""

  def total(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).sum()

  arguments = jax.numpy.ones((64, 32, 32, 16)), jax.numpy.ones((3, 3, 16, 16))
  gradient = jax.grad(total, argnums=1)
  compiled = compilation.jit(gradient).lower(*arguments).compile()
  assert "ynn_fusion" not in compiled.as_text()
  products = compilation.jit(lambda a: a @ a).lower(jax.numpy.ones((99, 99)))
  plain = jax.jit(lambda a: a @ a).lower(jax.numpy.ones((99, 99)))
  texts = [each.compile().as_text() for each in (products, plain)]
  assert ("ynn_fusion" in texts[0]) == ("ynn_fusion" in texts[1])


def test_compiled_functions_may_be_part_of_others(monkeypatch):
  called, compiler = [], jax.jit

  def recorded(function, compiler_options=None, **options):
    compiled = compiler(function, compiler_options=compiler_options, **options)

    def call(*arguments):
      called.append(compiler_options is not None)
      return compiled(*arguments)

    call.lower = compiled.lower
    return call

  known = compilation._compiler_options() is not None
  with monkeypatch.context() as patched:
    patched.setattr(jax, "jit", recorded)
    double = compilation.jit(lambda x: (2 * x).sum())
  x = jax.numpy.ones(3)
  assert float(double(x)) == 6
  assert called == [known]  # Alone, with the options.
  assert float(jax.jit(lambda: double(x))()) == 6
  assert called == [known, False]
  for gradient in (jax.grad(double), jax.jit(jax.grad(double))):
    assert gradient(x).tolist() == [2, 2, 2]
  assert jax.vmap(double)(jax.numpy.ones((2, 3))).tolist() == [6, 6]


def test_unknown_compiler_options_are_left_out(monkeypatch):
  compilation._compiler_options.cache_clear()
  options = {"xla_cpu_of_another_version": "1"}
  monkeypatch.setattr(compilation, "_FAST_CONVOLUTIONS", options)
  try:
    assert float(compilation.jit(lambda x: x + 1)(1.0)) == 2
  finally:
    compilation._compiler_options.cache_clear()
