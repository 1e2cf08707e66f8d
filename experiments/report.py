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
from experiments import values
from geomem import analysis, plots

_RUN = values.define_path("run", None, "run directory", required=True)
_OUT = values.define_path(
  "out", None, "directory of the page; by default the run's own"
)
_TENSORBOARD = flags.DEFINE_bool(
  "tensorboard", False, "whether to write TensorBoard's event files instead"
)


def main(argv) -> int:
  """Writes, and prints what was written."""
  del argv
  path = pathlib.Path(_RUN.value)
  if _TENSORBOARD.value:
    print(plots.write_events(path, _OUT.value))
  else:
    print(plots.write_report(path, analysis.sentences_of, _OUT.value))
  return 0


if __name__ == "__main__":
  common.run(main)
