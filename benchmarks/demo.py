"""The README's figure: three seeds of the demo.

  python -m benchmarks.demo

trains and measures in four minutes on two cores, resumes what was cut off,
writes docs/capacity_by_epoch.png, and prints the table that
docs/reproduction.md begins with.
"""

import pathlib

import tqdm
from absl import app, flags

from geomem import plots, runs, studies

_NUM_SEEDS = 3


def write_figure(rows: runs.Rows, directory: pathlib.Path) -> None:
  """Draws the capacity of layers by epoch into the directory of the pages."""
  figure = plots.plot_capacity_heatmaps(rows)
  target = directory / "capacity_by_epoch"
  plots.save_figure(figure, target, suffixes=(".png",))


def main(argv: list[str]) -> None:
  """Does what is left of the run, and draws."""
  del argv
  config = studies.make_config("memorization", num_seeds=_NUM_SEEDS)
  study = studies.Memorization(config)
  rows = studies.run(study, flags.FLAGS.out, progress=tqdm.tqdm)
  print(study.table(rows))
  write_figure(rows, pathlib.Path(flags.FLAGS.docs))


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/demo_seeds", "run directory")
  flags.DEFINE_string("docs", "docs", "directory of the figure")
  app.run(main)
