"""Which layers memorize? Rewinds of a finished run, figure 4A-B of the paper.

The last network with some of its layers put back to an earlier epoch, the
others kept, nothing trained: each layer alone, the last j layers, the first j.

  python -m experiments.rewind --run=runs/demo

takes 20 seconds on two cores for the demo: 18 networks for each of 12 saved
epochs. Over three seeds of it, back to the best epoch, the last three of seven
layers recover 6 % of the test accuracy that was lost, the last six 90 %, the
first four 84 %; no single layer's rewind recovers more than 15 %, and those of
conv2 to conv4 forget most of the permuted labels. `--layers=fc1,fc2` rewinds
layers of your own choice, `--batch_norm` says what becomes of batch statistics.

The same command again resumes what was cut off.
"""

import pathlib

from absl import flags

from experiments import flags as common
from experiments import terminal, values, work
from geomem import analysis, runs

_RUN = values.define_path(
  "run",
  None,
  "directory of a finished run of experiments.memorization",
  required=True,
)
_OUT = values.define_path(
  "out", None, "where the results go; by default a directory below the run's"
)
_DATA_DIR = common.define_data_dir_flag()
flags.DEFINE_list(
  "kinds", ["single", "suffix", "prefix"], "each layer, the last j, the first j"
)
flags.DEFINE_list("layers", [], "layers to rewind, in place of kinds")
flags.DEFINE_list("epochs", [], "epochs to go back to; all by default")
_BATCH_NORM = flags.DEFINE_string(
  "batch_norm",
  "together",
  "batch statistics of rewound layers: rewound together with the parameters,"
  " kept (parameters), or reestimated for the whole network afterwards",
)
_GEOMETRY = flags.DEFINE_bool(
  "geometry", False, "whether to measure the layers above the rewound ones"
)


def _config() -> analysis.RewindConfig:
  return analysis.RewindConfig(
    kinds=tuple(values.list_of("kinds", str)),
    layers=tuple(values.list_of("layers", str)),
    epochs=tuple(values.list_of("epochs", int)),
    batch_norm=_BATCH_NORM.value,
    geometry=_GEOMETRY.value,
  )


def _rewind_seed(run, path, experiment, seed, config) -> None:
  number = seed.seed
  epochs = analysis.epochs_to_rewind(path, config, number)
  networks, layers = analysis.num_networks(experiment, config)
  job = (run, path, experiment, seed, config)
  total = len(epochs) * networks
  with terminal.bar(total, f"seed {number}: networks") as bar:
    for done in analysis.score_rewinds(*job):
      bar.update(done)
  if config.geometry:
    last = analysis.epoch_of(runs.read_rows(path), "last", number)
    total = layers * sum(epoch != last for epoch in epochs)
    with terminal.bar(total, f"seed {number}: geometry") as bar:
      for epoch in analysis.measure_rewinds(*job):
        terminal.advance(bar, epoch=epoch)


def _print_table(rows) -> None:
  """What every rewind to about the best epoch gives, mean over seeds."""
  scores = analysis.RewindScores(rows)
  subsets = scores.subsets
  print(f"{'to the best epoch':24}{'recovered':>10}", end="")
  print(*(f"{subset:>11}" for subset in subsets), sep="")
  for kind in scores.kinds:
    for rewound in scores.rewound(kind):
      recovered = scores.at_best(kind, rewound, "test", "recovered")
      print(f"{kind:8}{_short_name(kind, rewound):16}", end="")
      print(
        f"{recovered.mean():10.2f}" if recovered.size else f"{'':10}", end=""
      )
      for subset in subsets:
        print(f"{scores.at_best(kind, rewound, subset).mean():11.3f}", end="")
      print()


def _short_name(kind: str, rewound: str) -> str:
  names = rewound.split("+")
  return {"suffix": f"{names[0]} ...", "prefix": f"... {names[-1]}"}.get(
    kind, rewound
  )


def main(argv) -> int:
  """Rewinds, resumes, or says that all is done."""
  del argv
  path, config = pathlib.Path(_RUN.value), _config()
  experiment = analysis.load_experiment(path, _DATA_DIR.value)
  with values.command_line():
    analysis.make_rewinds(experiment.network, config)
  seeds = analysis.prepare_seeds(experiment, path)
  with values.command_line():  # Bad input shows first.
    for seed in seeds:
      analysis.epochs_to_rewind(path, config, seed.seed)
  out = pathlib.Path(_OUT.value or path / config.directory)
  origin = runs.parent_of(path).as_origin()
  with analysis.open_run(out, config.as_dict(), origin) as run:
    if work.was_complete(run):
      return 0
    for seed in seeds:
      _rewind_seed(run, path, experiment, seed, config)
    work.report(run, _print_table)
    run.mark_done()
  return 0


if __name__ == "__main__":
  common.run(main)
