"""Figures of README and tutorial: three seeds of the demo, and its rewinds.

  python -m benchmarks.demo

trains, measures and rewinds in three minutes on two cores, and resumes an
interrupted start. It writes docs/capacity_by_epoch.png of all seeds and
docs/demo_*.png of the first, which is the run of `make demo`, and prints the
tables that docs/reproduction.md discusses.
"""

import pathlib

import tqdm
from absl import app, flags, logging

from geomem import plots, runs, studies

_NUM_SEEDS = 3


def write_figures(
  rows: runs.Rows, rewinds: runs.Rows, directory: pathlib.Path
) -> None:
  """Draws the figures into the directory of the documentation."""
  first, rewound = (t.where(seed=rows.seeds[0]) for t in (rows, rewinds))
  figures = {
    "capacity_by_epoch": plots.plot_capacity_heatmaps(rows),
    "demo_accuracy": plots.plot_accuracy(first),
    "demo_by_layer": plots.plot_geometry_by_layer(first),
    "demo_rewind": plots.plot_recovered(rewound),
  }
  for name, figure in figures.items():
    plots.save_figure(figure, directory / name, suffixes=(".png",))


def main(argv: list[str]) -> None:
  """Runs or resumes the studies, and draws the figures."""
  del argv
  logging.set_verbosity(logging.WARNING)
  config = studies.make_config("memorization", num_seeds=_NUM_SEEDS)
  demo = studies.Memorization(config)
  rows = studies.run(demo, flags.FLAGS.out, progress=tqdm.tqdm)
  trained = studies.TrainedRun(flags.FLAGS.out)
  rewind = studies.LayerRewind(studies.RewindConfig(), trained)
  rewinds = studies.run(rewind, progress=tqdm.tqdm)
  print(demo.table(rows))
  print(rewind.table(rewinds))
  for finding in rewind.findings({}, rewinds):
    print(finding)
  write_figures(rows, rewinds, pathlib.Path(flags.FLAGS.docs))


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/demo_seeds", "run directory")
  flags.DEFINE_string("docs", "docs", "directory of the figures")
  app.run(main)
