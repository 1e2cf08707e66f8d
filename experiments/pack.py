r"""Makes a small copy of a run, to continue from on another machine.

  python -m experiments pack --run=runs/paper --out=runs/small

copies the directory and everything below it: rows, labels, figures, and for
each seed the networks of the best, the last and the first epoch.
--networks=none copies no networks, --networks=all copies all. The run itself is
not changed. Every command works on the copy as on the run, and reports any
network that is missing.

  python -m experiments pack --run=runs/paper --out=runs/small \
    --networks=best,last --dtype=bfloat16

halves the size of the networks by rounding them. Numbers computed from them
later differ, mostly slightly, and are marked; docs/scale.md says by how much.
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
  "comma-separated epochs whose networks are copied: all, best, last, first or"
  " numbers; or none",
)
_DTYPE = flags.DEFINE_string(
  "dtype", "float32", "float32 copies networks exactly, bfloat16 rounds them"
)


def main() -> int:
  """Copies the run, and prints what the copy has."""
  path, out = pathlib.Path(_RUN.value), pathlib.Path(_OUT.value)
  with values.command_line():
    packed = packing.pack(
      path, out, networks=_NETWORKS.value, dtype=_DTYPE.value
    )
  for run in packed:
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
  common.run(main, computes=False)
