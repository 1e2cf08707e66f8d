r"""A small copy of a run, to carry home and to go on from elsewhere.

  python -m experiments.pack --run=runs/paper --out=runs/small

copies the directory with all below it: rows, labels, figures, and of each seed
the networks of the best, the last and the first epoch. --networks=none leaves
all networks out, --networks=all none of them. What is copied stays as it is.
Every command goes on from the copy as it does from the run, and says so where
it finds a network missing.

  python -m experiments.pack --run=runs/paper --out=runs/small \
    --networks=best,last --dtype=bfloat16

halves the networks, by rounding them. Numbers that come from them later are
others, mostly by little, and are marked; docs/scale.md says by how much.
"""

import pathlib

from absl import flags

from experiments import flags as common
from experiments import values
from geomem.studies import packing

_RUN = values.define_path("run", None, "run directory", required=True)
_OUT = values.define_path("out", None, "directory of the copy", required=True)
_NETWORKS = flags.DEFINE_string(
  "networks",
  "best,last,first",
  "epochs whose networks are copied, with commas: all, best, last, first, or"
  " numbers; or none",
)
_DTYPE = flags.DEFINE_string(
  "dtype", "float32", "float32 copies networks exactly, bfloat16 rounds them"
)


def main(argv) -> int:
  """Copies, and says what the copy has."""
  del argv
  path, out = pathlib.Path(_RUN.value), pathlib.Path(_OUT.value)
  with values.command_line():
    found = packing.pack(
      path, out, networks=_NETWORKS.value, dtype=_DTYPE.value
    )
  for run in found:
    if not run.is_trained:
      print(
        f"{out / run.path}: training has not ended; all networks are there,"
        " and the states that it goes on from."
      )
      continue
    for seed, epochs in run.epochs.items():
      listed = ", ".join(map(str, epochs)) or "none"
      print(f"{out / run.path}: networks of seed {seed} at epochs {listed}.")
  sizes = [packing.size_of(place) / 1e6 for place in (out, path)]
  print(f"{out} has {sizes[0]:.1f} MB of the {sizes[1]:.1f} in {path}.")
  return 0


if __name__ == "__main__":
  common.run(main)
