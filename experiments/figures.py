"""Redraws every figure of a run directory, and of those below it, from rows.

python -m experiments.figures --run=runs/demo
"""

import pathlib

from absl import flags

from experiments import flags as common
from geomem import plots, runs

_RUN = flags.DEFINE_string("run", None, "run directory", required=True)


def main(argv) -> int:
  """Draws, and prints what was written."""
  del argv
  path = pathlib.Path(_RUN.value)
  runs.read_config(path)
  # What was done with a run afterwards lies in directories below it.
  for config in sorted(path.rglob("config.json")):
    if config.parent != path and not (config.parent / "done").exists():
      print(f"{config.parent} is not complete; left out.")
      continue
    for written in plots.draw_all(config.parent):
      print(written)
  return 0


if __name__ == "__main__":
  common.run(main)
