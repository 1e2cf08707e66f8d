"""Makes one page of a run directory, to view, share and keep.

  python -m experiments report --run=runs/demo

writes runs/demo/report.html: config and versions, accuracy, geometry by layer
with a slider over the epochs, and rewinds, gradients and capacities where they
were measured. The page takes seconds to make, and opens offline in a browser.

  python -m experiments report --run=runs/a,runs/b --out=runs

puts several runs on one page, side by side.

  python -m experiments report --run=runs/demo --tensorboard

writes runs/demo/tensorboard instead, for `tensorboard --logdir`; both need
pip install ".[tensorboard]". With several runs and --out=DIR, each run has its
own directory, DIR/RUN/tensorboard.
"""

import os
import pathlib

from absl import flags

from experiments import flags as common
from experiments import values
from geomem import report

flags.DEFINE_list("run", None, "run directory, or several, comma-separated")
flags.mark_flag_as_required("run")
_OUT = values.define_path(
  "out",
  None,
  "directory of the page, by default that of the (first) run; with"
  " --tensorboard of the events, by default each run's own",
)
_TENSORBOARD = flags.DEFINE_bool(
  "tensorboard", False, "whether to write TensorBoard's event files instead"
)


def _paths() -> list[pathlib.Path]:
  """Returns the runs; a comma may also be part of a name, as of a cell's."""
  paths, rest = [], values.list_of("run", str)
  while rest:
    sizes = range(1, len(rest) + 1)
    named = [pathlib.Path(",".join(rest[:n])).expanduser() for n in sizes]
    n = next((n for n in reversed(sizes) if named[n - 1].exists()), 1)
    paths.append(named[n - 1])
    rest = rest[n:]
  return paths


def main() -> int:
  """Writes the page or event files, and prints their paths."""
  paths = _paths()
  if _TENSORBOARD.value:
    named = report.by_name(paths)
    for name, path in named.items():
      out = _OUT.value
      if out is not None and len(named) > 1:
        out = os.path.join(out, name)
      print(report.write_events(path, out))
  else:
    print(report.write_report(*paths, out=_OUT.value))
  return 0


if __name__ == "__main__":
  common.run(main, computes=False)
