r"""Double descent by model size, and the geometry beside it: figure 4C-E.

Trains networks of several widths on partly permuted labels, the seeds of each
width together, and measures the last hidden layer at every saved epoch.

  python -m experiments.model_size --out=runs/model_size

sweeps a network of one hidden layer on scikit-learn's digits, five to ten
minutes on two cores. The paper's sweep, ResNet-18 on CIFAR-100, is

  python -m experiments.model_size --out=runs/resnet18 \
    --preset=paper_double_descent

Every width is a job in a directory of its own: the same command again resumes,
more widths can be added, and several processes can share a sweep,

  ... --cell=0/8, --cell=1/8, and so on: the array index of a batch system.
"""

import pathlib

from absl import flags

from experiments import flags as common
from experiments import presets, values, work
from geomem import analysis
from geomem.analysis import model_size

_OUT = values.define_path("out", "runs/model_size", "run directory")
_LISTS = ("width",)
common.define_config_flags(analysis.ModelSizeConfig, lists=_LISTS)
common.define_share_flag()
presets.define_preset_flag("model_size")


def main(argv) -> int:
  """Runs the sweep, or this process's share, or says that it is done."""
  del argv
  with values.command_line():
    presets.apply_preset("model_size")
  kind = analysis.ModelSizeConfig
  config = common.config_from_flags(kind, _LISTS)
  widths = common.values_from_flags(kind, _LISTS)["width"]
  with values.command_line():
    config = config.filled()
  return work.run_sweep(
    pathlib.Path(_OUT.value),
    "model_size",
    config,
    {"width": widths or model_size.default_widths(config.dataset)},
    analysis.summarize_sizes,
    share=flags.FLAGS.cell,
  )


if __name__ == "__main__":
  common.run(main)
