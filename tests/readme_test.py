"""The pages for readers: their Python runs, links and commands lead on."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests.binaries import execute

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").glob("*.md")),
]
BLOCKS = [
  block
  for page in PAGES
  for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]
COMMANDS = re.findall(
  r"python -m experiments[. ](\w+)((?:[ \\\n]+--[\w=/.,-]+)*)",
  "\n".join(page.read_text() for page in PAGES),
)


def test_there_are_the_pages():
  assert len(BLOCKS) == 3
  assert len(COMMANDS) > 10
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_blocks_run(block):
  result = subprocess.run(
    [sys.executable, "-c", block], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert "capacity" in result.stdout


def test_links_lead_somewhere():
  for page in PAGES:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
      assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_files_that_are_named_are_there():
  for path in re.findall(
    r"`((?:geomem|docs|tests)/[\w/.]+)`", PAGES[1].read_text()
  ):
    if "NAME" not in path:
      assert (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", sorted({name for name, _ in COMMANDS} - {"NAME"})
)
def test_commands_have_the_flags_that_pages_give_them(name):
  module = (ROOT / "experiments" / f"{name}.py").exists()
  told = execute(*([name] if module else ["__main__", name]), "--help")
  known = set(re.findall(r"^  --(?:no)?(\w+)", told.stdout, re.MULTILINE))
  for command, flags in COMMANDS:
    if command == name:
      given = set(re.findall(r"--(\w+)", flags))
      assert given <= known, given - known
