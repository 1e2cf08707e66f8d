"""The README's Python runs as it stands."""

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_blocks_run():
  assert BLOCKS
  for block in BLOCKS:
    result = subprocess.run(
      [sys.executable, "-c", block], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "capacity" in result.stdout
