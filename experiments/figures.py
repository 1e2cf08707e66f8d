"""Redraws every figure of a run directory, and of those below it, from rows.

python -m experiments.figures --run=runs/demo

--out puts them elsewhere, as for a run that cannot be written to.
"""

import pathlib

from experiments import flags as common
from experiments import values
from geomem import runs, studies

_RUN = values.define_path("run", None, "run directory", required=True)
_OUT = values.define_path(
  "out", None, "where the figures go; by default into the run directory"
)


def main(argv) -> int:
  """Draws, and prints what was written."""
  del argv
  path = pathlib.Path(_RUN.value)
  runs.read_config(path)
  # What was done with a run afterwards lies in directories below it.
  for config in sorted(path.rglob("config.json")):
    if config.parent != path and not runs.is_complete(config.parent):
      print(f"{config.parent} is not complete; left out.")
      continue
    here = config.parent
    kind = runs.read_config(here).get("experiment", "memorization")
    if here != path and kind not in studies.STUDIES:
      print(f"{here} has no figures; left out.")
      continue
    out = None if _OUT.value is None else _OUT.value / here.relative_to(path)
    for written in studies.draw(here, out):
      print(written)
  return 0


if __name__ == "__main__":
  common.run(main)
