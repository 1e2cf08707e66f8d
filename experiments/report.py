"""One page of a run directory, to look at, pass on and keep.

  python -m experiments.report --run=runs/demo

writes runs/demo/report.html: config and versions, accuracy, geometry by layer
with a slider over the epochs, and rewinds, gradients and capacities where they
were measured. It opens in a browser, and needs no network. Takes seconds.

  python -m experiments.report --run=runs/demo --tensorboard

writes runs/demo/tensorboard in its place, for `tensorboard --logdir`.
"""

import pathlib

from absl import flags

from experiments import flags as common
from geomem import analysis, plots

_RUN = flags.DEFINE_string("run", None, "run directory", required=True)
_TENSORBOARD = flags.DEFINE_bool(
  "tensorboard", False, "whether to write TensorBoard's event files instead"
)


def main(argv) -> int:
  """Writes, and prints what was written."""
  if argv[1:]:
    raise ValueError(f"{argv[1]!r} is not a flag; flags start with --.")
  path = pathlib.Path(_RUN.value)
  if _TENSORBOARD.value:
    print(plots.write_events(path))
  else:
    print(plots.write_report(path, analysis.sentences_of))
  return 0


if __name__ == "__main__":
  common.run(main)
