"""The pages for readers: their Python runs, links and commands lead on.

Blocks that are marked `python` run; those marked `py` are parts of a file.
"""

import pathlib
import re

import pytest

from tests.binaries import execute
from tests.fakes import write_run

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").glob("*.md")),
]
BLOCKS = {
  f"{page.stem}{number}": block
  for page in PAGES
  for number, block in enumerate(
    re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  )
}
COMMANDS = re.findall(
  r"python -m experiments[. ](\w+)((?:[ \\\n]+--[\w=/.,-]+)*)",
  "\n".join(page.read_text() for page in PAGES),
)


def test_there_are_the_pages():
  assert len(BLOCKS) == 10
  assert len(COMMANDS) > 10
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.fixture
def demo(tmp_path, monkeypatch):
  """A place with the rows of a run, where the tutorial finds them."""
  rows = [
    {"metric": "chance_capacity", "value": 0.067},
    {"metric": "last_epoch", "seed": 0, "value": 100},
    {"metric": "capacity", "seed": 0, "epoch": 100, "subset": "permuted"}
    | {"layer": "fc2", "layer_index": 8, "value": 0.2249, "stderr": 0.001},
  ]
  write_run(tmp_path / "runs" / "demo", {}, rows)
  monkeypatch.chdir(tmp_path)


# In this process, which has JAX and what other blocks have compiled.
@pytest.mark.parametrize("name", BLOCKS)
def test_the_blocks_run(name, demo, capsys):
  exec(compile(BLOCKS[name], name, "exec"), {"__name__": name})
  printed = capsys.readouterr().out
  assert printed
  assert "nan" not in printed


def test_links_lead_somewhere():
  for page in PAGES:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    links += re.findall(r"^\[\w+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
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
  known = set(re.findall(r"^  --(?:\[no\])?(\w+)", told.stdout, re.MULTILINE))
  for command, flags in COMMANDS:
    if command == name:
      given = set(re.findall(r"--(\w+)", flags))
      assert given <= known, given - known
