"""The binaries as their users start them, each in a process of its own.

All import the same, and their processes are forks of one that has it: they
start at once.
"""

import functools
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

from geomem import plots

ROOT = pathlib.Path(__file__).parent.parent
# What all binaries import, at once or for digits and figures, and no device.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
  ["experiments.cli", "matplotlib.backends.backend_pdf", "sklearn.datasets"]
)


def command(binary: str, *flags: str, **values) -> list[str]:
  """The command line: flags as they are, and values by the flag's name."""
  arguments = _arguments(flags, values)
  return [sys.executable, "-m", *words(binary), *arguments]


def words(binary: str) -> list[str]:
  """The module to run, and the command's name if it has no module."""
  has_own = (ROOT / "experiments" / f"{binary}.py").exists()
  return [f"experiments.{binary}"] if has_own else ["experiments", binary]


def _arguments(flags, values) -> list[str]:
  return [*flags, *(f"--{name}={value}" for name, value in values.items())]


def _be_the_binary(binary: str, arguments, stdout, stderr, environment, pdf):
  # As in a process of its own, until the binary sees to it.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(ROOT)
  for path, descriptor in ((stdout, 1), (stderr, 2)):
    with open(path, "a") as file:
      os.dup2(file.fileno(), descriptor)
  if not pdf:
    plots.save_figure = functools.partial(plots.save_figure, suffixes=(".png",))
  sys.argv = [*words(binary), *arguments]
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def start(
  binary: str,
  *flags: str,
  stdout: str,
  stderr: str,
  pdf: bool = False,
  **values,
) -> multiprocessing.Process:
  """Starts it; what it prints is added to the files `stdout` and `stderr`.

  It draws figures as PNG, and as PDF, which takes longer, only if asked to.
  """
  files, environment = (stdout, stderr), dict(os.environ)
  process = _CONTEXT.Process(
    target=_be_the_binary,
    args=(binary, _arguments(flags, values), *files, environment, pdf),
  )
  process.start()
  return process


def execute(
  binary: str, *flags: str, pdf: bool = False, **values
) -> subprocess.CompletedProcess:
  """Runs it to its end, in the root of the checkout."""
  with tempfile.TemporaryDirectory() as directory:
    files = {name: f"{directory}/{name}" for name in ("stdout", "stderr")}
    process = start(binary, *flags, **files, pdf=pdf, **values)
    process.join()
    told = [pathlib.Path(path).read_text() for path in files.values()]
  return subprocess.CompletedProcess(
    command(binary, *flags, **values), process.exitcode, *told
  )
