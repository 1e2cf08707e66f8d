"""Commands made from studies: flags, bars, figures, tables and findings."""

import contextlib
import functools
import pathlib
import sys
import traceback
import typing
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from experiments import bars, log, values
from experiments import flags as common
from geomem import parallel, runs, studies
from geomem.report import events, live_events
from geomem.studies import config as configs
from geomem.studies import presets

# Flags defined here count as key flags of the calling module.
flags.disclaim_key_flags()

_RUN_CONFIG = (
  configs.DataConfig,
  configs.ModelConfig,
  configs.TrainConfig,
  configs.MeasureConfig,
)


def study_of_run(study: type, *, has_run: bool = True, text: str = "") -> None:
  """Runs a study of a finished run as a command.

  The fields of its config become flags. Without a `text`, `--help` shows the
  docstring of the command's module.
  """
  kind = typing.get_type_hints(study.__init__)["config"]
  place = "below the run" if has_run else str(study.directory)
  if has_run:
    needed = getattr(study, "needs_run", True)
    place += "" if needed else f", or runs/{study.name} without one"
    values.define_path(
      "run", None, "directory of a finished run", required=needed
    )
    values.define_path(
      "data_dir", None, "directory of the data, if they have moved"
    )
  values.define_path(
    "out", None, f"directory of the results; by default {place}"
  )
  common.define_flags([kind])

  def main() -> int:
    with values.command_line():
      config = kind(**common.given([kind]))
    trained = None
    if has_run and flags.FLAGS.run is not None:
      log.say(f"Reading {flags.FLAGS.run} and its data.")
      trained = studies.TrainedRun(flags.FLAGS.run, flags.FLAGS.data_dir)
      # Before the command line, which is not wrong if these cannot be read.
      _ = trained.seeds
    with values.command_line():
      made = study(config, trained)
    return do(made, flags.FLAGS.out)

  common.run(main, text=text)


def training(study: str, sweeps: tuple[str, ...], text: str) -> None:
  """Runs a training study as a command: one run, or a sweep of some fields."""
  values.define_path("out", f"runs/{study}", "run directory")
  names = presets.names_of(study)
  recipes = [presets.default_preset(study, data) for data in ("digits", "")]
  filled = {field for recipe in recipes for field in recipe.values}
  common.define_flags(_RUN_CONFIG, sweeps=sweeps, filled=filled)
  flags.DEFINE_string(
    "cell", None, "i/n: run the i-th of n shares of a sweep, with i from 0"
  )
  flags.DEFINE_bool(
    "tensorboard",
    False,
    "whether to write TensorBoard event files to DIR/tensorboard during the"
    " run; needs the extra `tensorboard`",
  )
  texts = "; ".join(f"{name}: {presets.PRESETS[name].text}" for name in names)
  flags.DEFINE_string(
    "preset", None, f"name of a set of values for many flags. {texts}."
  )
  common.run(functools.partial(_train, study, sweeps), text=text)


def _train(study: str, sweeps: tuple[str, ...]) -> int:
  fields = common.given(_RUN_CONFIG, sweeps=sweeps)
  options = {"preset": flags.FLAGS.preset, "share": flags.FLAGS.cell}
  axes = {n: fields.pop(n) for n in sweeps if len(fields.get(n, ())) > 1}
  if flags.FLAGS.tensorboard:
    try:  # Before there is a directory.
      events.check_installed()
    except runs.RunError as error:
      raise flags.IllegalFlagValueError(f"--tensorboard: {error}") from error
  with values.command_line():
    if study == "model_size":
      widths = axes.get("width") or fields.pop("width", ())
      sweep = studies.model_size_sweep(widths, **options, **fields)
    else:
      fields |= {n: fields[n][0] for n in sweeps if n in fields}
      sweep = None
      if axes:
        sweep = studies.memorization_sweep(axes, **options, **fields)
  if sweep is not None:
    return do_sweep(sweep, flags.FLAGS.out)
  with values.command_line():
    if flags.FLAGS.cell:
      raise ValueError(
        "--cell shares the cells of a sweep; give several values of one of"
        f" {', '.join('--' + name for name in sweeps)}."
      )
    config = studies.make_config(study, flags.FLAGS.preset, **fields)
    if config.data.dataset != "digits":  # Others can be slow to load.
      log.say(f"Reading {config.data.dataset}.")
    made = studies.Memorization(config)
  experiment = made.experiment
  return do(
    made,
    flags.FLAGS.out,
    f"{config.data.dataset}: {len(experiment.train.labels)} training examples"
    f" of {experiment.num_classes} classes, {experiment.network.name} with"
    f" {experiment.network.num_parameters:,} parameters, to {flags.FLAGS.out}\n"
    + parallel.describe(experiment.recipe.batch_size),
  )


def do(
  study: studies.Study,
  out: pathlib.Path | str | None,
  opening: str = "",
  progress: Callable[..., Any] = bars.bar,
) -> int:
  """Runs a study, shows its progress, and reports its results.

  The text `opening` is printed unless the run in `out` is complete.
  """
  path = pathlib.Path(out or study.directory)
  if parallel.from_first(lambda: runs.is_complete(path)):
    studies.run(study, path)  # Raises if the run is of another study.
    # Asked of one process for all, as another may be drawing.
    if parallel.from_first(
      lambda: (
        not any((path / "figures").glob("*.png"))
        and studies.draw(path, study=study)
      )
    ):
      log.say(f"Drew the figures of {path}.")
    log.say(f"{path} is complete; nothing to do.")
    return 0
  if opening:
    log.say(opening)
  report = functools.partial(_report, study)
  studies.run(study, path, progress=progress, report=report, watch=watched)
  return 0


@contextlib.contextmanager
def watched(path: pathlib.Path) -> Iterator[Callable[[], None]]:
  """Keeps a log of the work, and event files if `--tensorboard` is set."""
  defined = flags.FLAGS
  wants_events = "tensorboard" in defined and defined["tensorboard"].value
  written = contextlib.nullcontext(lambda: None)
  with log.kept(path):
    if wants_events and parallel.is_first():
      written = live_events(path)
    with written as update:
      yield update


def _draw(path: pathlib.Path, study: Any = None) -> list[pathlib.Path]:
  log.say("Drawing the figures.")
  return studies.draw(path, study=study)


def _report(study, run) -> None:
  """Draws the figures of a finished run, and prints its table and findings."""
  written = parallel.from_first(lambda: _draw(run.path, study))
  rows = run.rows
  table = study.table(rows)
  if table:
    log.say(table)
  findings = study.findings(run.config, rows)
  for finding in findings:
    log.say(finding)
  if any(getattr(finding, "claim", "") for finding in findings):
    log.say("How claims such as F3.1 are judged: docs/reproduction.md.")
  _say_figures(written)


def do_sweep(
  sweep: studies.Sweep,
  out: pathlib.Path | str,
  progress: Callable[..., Any] = bars.bar,
) -> int:
  """Runs a sweep, or this process's share of it; returns 1 if a cell failed."""
  path = pathlib.Path(out)
  with values.command_line():
    cells = sweep.cells(path)
    sweep.own(cells)
  complete = parallel.from_first(lambda: runs.is_complete(path))
  reported = []

  def report(run, sentences) -> None:
    reported.append(True)
    written = _draw(run.path)
    for sentence in sentences:
      log.say(sentence)
    _say_figures(written)

  failures = studies.run_sweep(
    sweep, path, progress=progress, report=report, watch=watched
  )
  missing = [cell.path.name for cell in cells if not cell.is_done]
  if missing:
    log.say(
      f"Complete: {len(cells) - len(missing)} of {len(cells)} cells;"
      f" remaining: {', '.join(missing)}."
    )
  elif complete and not reported:
    log.say(f"{path} is complete; nothing to do.")
  for cell, error in failures:
    text = log.sentence(error)
    if text is None:  # A bug of ours has no message for users.
      traceback.print_exception(error)
    print(f"Failed: {cell.path}: {text or error}", file=sys.stderr)
  return 1 if failures else 0


def _say_figures(written: list[pathlib.Path]) -> None:
  shown = [str(path) for path in written if path.suffix == ".png"]
  if shown:
    log.say(f"Figures: {', '.join(shown)}")
