"""What drives memorization? The gradients, split: figure A.1 of the paper.

At every saved epoch of a finished run the full-set gradient of the unpermuted
and of the permuted examples, by layer, split into the part that depends on the
labels and the part that does not; and, at initialization, how the label part
falls with the number of examples (n^-1/2 where labels are permuted).

  python -m experiments.gradients --run=runs/demo

takes less than a minute on two cores for the demo, and leaves rows and figures
in runs/demo/gradients. On three seeds of it the label part of the permuted
examples, relative to the unpermuted, is 0.04 at initialization, 0.13 at the
best epoch and 0.73 at the last one, without the noise of a finite set; the
slope of the law is -0.510 ± 0.012. The same command again resumes what was cut
off. Memory: the law holds draws + 1 gradients for each doubling of n, the rest
64 (eight blocks of both sets).
"""

import pathlib

from absl import flags

from experiments import flags as common
from experiments import terminal, values, work
from geomem import analysis, runs

_RUN = values.define_path("run", None, "run directory", required=True)
_OUT = values.define_path(
  "out", None, "where the results go; by default RUN/gradients"
)
_DATA_DIR = common.define_data_dir_flag()
_MAX_EXAMPLES = flags.DEFINE_integer(
  "max_examples", 0, "at most so many examples of each subset; 0 for all"
)
_DRAWS = flags.DEFINE_integer(
  "draws", 8, "draws of the permuted labels, for the law", lower_bound=1
)
_TRAINING_MODE = flags.DEFINE_bool(
  "training_mode",
  True,
  "whether networks with batch norm are measured with batches' statistics, too",
)


def main(argv) -> int:
  """Measures, resumes, or says that it is done."""
  del argv
  path = pathlib.Path(_RUN.value)
  experiment = analysis.load_experiment(path, _DATA_DIR.value)
  with values.command_line():
    config = analysis.GradientConfig(
      max_examples=_MAX_EXAMPLES.value,
      draws=_DRAWS.value,
      training_mode=_TRAINING_MODE.value,
    )
  out = pathlib.Path(_OUT.value or path / "gradients")
  plans = []
  if not runs.is_complete(out):
    plans = [
      analysis.plan_gradients(path, experiment, seed, config)
      for seed in analysis.prepare_seeds(experiment, path)
    ]
  fields = analysis.gradient_config_dict(config)
  origin = runs.parent_of(path).as_origin()
  with analysis.open_run(out, fields, origin) as run:
    if work.was_complete(run):
      return 0
    total = sum(plan.num_units for plan in plans)
    with terminal.bar(total, "gradients") as bar:
      for plan in plans:
        bar.set_description(f"seed {plan.seed}")
        for unit in analysis.measure_gradients(
          run, experiment, plan, config.draws
        ):
          terminal.advance(bar, done=unit)
    work.report(run)
    run.mark_done()
  return 0


if __name__ == "__main__":
  common.run(main)
