"""Whole experiments in one call, for notebooks and scripts.

Each goes on with what lies in its directory, does nothing where that is
complete, and gives the rows. What a call takes as `progress` wraps the work as
`tqdm.tqdm` does, and may be that.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from geomem import runs, training
from geomem.analysis import sweep
from geomem.analysis.config import (
  ExperimentConfig,
  config_dict,
  measured_layers,
)
from geomem.analysis.experiment import (
  keep_labels,
  prepare,
  prepare_seeds,
)
from geomem.analysis.finished import load_experiment
from geomem.analysis.memorization import measure_seed
from geomem.analysis.model_size import ModelSizeConfig, summarize_sizes
from geomem.analysis.rewind import measure_rewinds, score_rewinds
from geomem.analysis.rewind_plan import RewindConfig
from geomem.analysis.shared_run import open_run
from geomem.analysis.train import train_seeds

Path = pathlib.Path | str
Progress = Callable[..., Iterable[Any]]


def _exhaust(work: Iterable[Any]) -> None:
  for _ in work:
    pass


def _silent(work: Iterable[Any], **_) -> Iterable[Any]:
  return work


def train_and_measure(
  run, experiment, seeds, progress: Progress = _silent
) -> None:
  """Trains all seeds together, then measures them.

  Args:
    run: where everything goes.
    experiment: from `prepare`.
    seeds: from `prepare_seed`.
    progress: takes what `train_seeds` and `measure_seed` yield, with `total`
      epochs or layers and a title `desc`.
  """
  for seed in seeds:
    keep_labels(run.path, seed)
  config = experiment.config
  numbers = ", ".join(str(seed.seed) for seed in seeds)
  work = train_seeds(run, experiment, seeds)
  title = f"seed {numbers}: training"
  _exhaust(progress(work, total=config.epochs, desc=title))
  layers = measured_layers(config, experiment.network.layer_names)
  total = len(training.checkpoint_epochs(config.epochs)) * len(layers)
  for seed in seeds:
    work = measure_seed(run, experiment, seed)
    title = f"seed {seed.seed}: geometry"
    _exhaust(progress(work, total=total, desc=title))


def run_memorization(
  path: Path, config: ExperimentConfig, *, progress: Progress = _silent
) -> list[dict]:
  """Trains, scores the subsets and measures the layers; gives the rows.

  Args:
    path: the run directory.
    config: what is trained and measured.
    progress: see above.
  """
  experiment = prepare(config)
  seeds = prepare_seeds(experiment)  # Bad input shows before work.
  with open_run(path, config_dict(config), experiment.origin) as run:
    if not run.is_done:
      train_and_measure(run, experiment, seeds, progress)
      run.mark_done()
    return run.rows()


def run_rewinds(
  path: Path,
  config: RewindConfig | None = None,
  *,
  progress: Progress = _silent,
) -> list[dict]:
  """Scores the rewinds of a finished run, and measures them if asked to.

  Args:
    path: the directory of the run; the rewinds' own lies below it.
    config: what is rewound; each layer, the last j, the first j by default.
    progress: see above.
  """
  config = config or RewindConfig()
  experiment = load_experiment(path)
  out = pathlib.Path(path) / config.directory
  origin = runs.parent_of(path).as_origin()
  with open_run(out, config.as_dict(), origin) as run:
    if not run.is_done:
      for seed in prepare_seeds(experiment, path):
        job = (run, path, experiment, seed, config)
        steps = [("rewinds", score_rewinds), ("geometry", measure_rewinds)]
        for name, do in steps if config.geometry else steps[:1]:
          _exhaust(progress(do(*job), desc=f"seed {seed.seed}: {name}"))
      run.mark_done()
    return run.rows()


def run_model_sizes(
  path: Path,
  config: ModelSizeConfig,
  widths: Sequence[int],
  *,
  progress: Progress = _silent,
) -> tuple[list[dict], list[str]]:
  """Sweeps the width; gives the rows of all, and what they say.

  Args:
    path: the sweep's directory; every width has one below it.
    config: what the widths share.
    widths: of the networks.
    progress: see above.
  """
  axes, filled = {"width": list(widths)}, config.filled()
  cells = sweep.make_cells(path, filled, axes)
  outcomes = sweep.run_cells(cells, train_and_measure)
  for outcome in progress(outcomes, total=len(cells), desc="widths"):
    if outcome.error is not None:
      raise outcome.error
  rows = sweep.collect(path, list(axes))
  further, sentences = summarize_sizes(rows)
  shared = sweep.sweep_config("model_size", filled, axes)
  with open_run(path, shared) as run:
    run.replace(rows + further)
    run.mark_done()
    return run.rows(), sentences
