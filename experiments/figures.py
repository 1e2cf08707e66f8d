"""Redraws every figure of a run directory, and of those below it, from rows.

  python -m experiments figures --run=runs/demo

--out chooses another directory, for example if the run is read-only.
"""

import pathlib

from experiments import flags as common
from experiments import values
from geomem import runs, studies

_RUN = values.define_path("run", None, "run directory", required=True)
_OUT = values.define_path(
  "out", None, "directory of the figures; by default the run directory"
)


def main() -> int:
  """Draws the figures, and prints the paths of the files."""
  path = pathlib.Path(_RUN.value)
  runs.read_config(path)
  # The results of later studies of a run lie in directories below it.
  places = sorted(
    d for d, _, files in runs.walk(path) if "config.json" in files
  )
  for run in places:
    if run != path and not runs.is_complete(run):
      print(f"{run} is not complete; left out.")
      continue
    kind = runs.read_config(run).get("experiment", "memorization")
    if run != path and kind not in studies.STUDIES:
      print(f"{run} has no figures; left out.")
      continue
    out = None if _OUT.value is None else _OUT.value / run.relative_to(path)
    written = studies.draw(run, out)
    print(*(written or [f"{run} has no rows to draw."]), sep="\n")
  return 0


if __name__ == "__main__":
  common.run(main, computes=False)
