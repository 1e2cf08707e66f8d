"""Does the theory hold? Figure 1B of the paper: theory against simulation.

Random dichotomies of manifolds are tried on the very points whose mean-field
capacity is computed: on synthetic manifolds,

  python -m experiments.capacity --out=runs/capacity

or on every layer of a finished run, at its best and its last epoch:

  python -m experiments.capacity --run=runs/demo

which writes to runs/demo/capacity. They take one and two minutes on two
cores. The same command again resumes what was cut off.
"""

import pathlib

from experiments import flags as common
from experiments import terminal, values, work
from geomem import analysis, runs

_OUT = values.define_path(
  "out", None, "directory (by default: runs/capacity, or RUN/capacity)"
)
_RUN = values.define_path("run", None, "run directory of a finished run")
_DATA_DIR = common.define_data_dir_flag()
common.define_config_flags(analysis.CapacityConfig)


def _prepare(config):
  """Directory, units and their number, of a run or of synthetic manifolds."""
  if _RUN.value is None:
    units = analysis.synthetic_units(config)
    return "runs/capacity", units, analysis.count_synthetic_units(config)
  path = pathlib.Path(_RUN.value)
  experiment = analysis.load_experiment(path, _DATA_DIR.value)
  units = analysis.run_units(path, experiment, config)
  count = analysis.count_run_units(path, experiment, config)
  return path / "capacity", units, count


def main(argv) -> int:
  """Compares, goes on comparing, or says that it is done."""
  del argv
  config = common.config_from_flags(analysis.CapacityConfig)
  with values.command_line():
    analysis.check_capacity(config)
  default, units, count = _prepare(config)
  out = pathlib.Path(_OUT.value or default)
  of_run = _RUN.value is not None
  fields = analysis.capacity_config_dict(config, of_run=of_run)
  origin = runs.parent_of(_RUN.value).as_origin() if of_run else None
  fields = {"experiment": "capacity", **fields}
  with analysis.open_run(out, fields, origin) as run:
    if work.was_complete(run):
      return 0
    with terminal.bar(count, "capacity") as bar:
      for unit in analysis.measure_units(run, config, units):
        terminal.advance(bar, done=analysis.name_of(unit.columns))
    work.report(run)
    run.mark_done()
  return 0


if __name__ == "__main__":
  common.run(main)
