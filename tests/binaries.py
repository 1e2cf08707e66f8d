"""The binaries as their users start them, each in a process of its own."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def command(binary: str, *flags: str, **values) -> list[str]:
  """The command line: flags as they are, and values by the flag's name."""
  named = [f"--{name}={value}" for name, value in values.items()]
  return [sys.executable, "-m", f"experiments.{binary}", *flags, *named]


def execute(binary: str, *flags: str, **values) -> subprocess.CompletedProcess:
  """Runs it to its end, in the root of the checkout."""
  return subprocess.run(
    command(binary, *flags, **values), capture_output=True, text=True, cwd=ROOT
  )
