"""Where the repository is: badges, install cells and docs/colab.md say so.

Change the line below, and run `python colabs/address.py`.
"""

import pathlib
import re

REPOSITORY = "your-organisation/geomem"  # It has no public address yet.

_ROOT = pathlib.Path(__file__).parent.parent
_BADGE = re.compile(r"research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")


def pages() -> list[pathlib.Path]:
  """Lists what says the address: all notebooks, and the page about them."""
  notebooks = sorted((_ROOT / "colabs").glob("*.ipynb"))
  return [*notebooks, _ROOT / "docs" / "colab.md"]


def readdress(text: str, repository: str = REPOSITORY) -> str:
  """Puts the address in the place of the one that the badge has."""
  former = _BADGE.search(text).group(1)
  return text.replace(former, repository)


if __name__ == "__main__":
  for page in pages():
    page.write_text(readdress(page.read_text(encoding="utf-8")))
