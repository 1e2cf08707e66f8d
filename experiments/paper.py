r"""The whole paper: all figures and a table of its claims, in one command.

  python -m experiments paper --out=runs/paper --scale=laptop

trains, rewinds, splits gradients, simulates dichotomies and sweeps the width.
Each of these studies also has its own command, and writes to a directory
below --out. A table of the claims, with the paper's numbers and ours, goes to
DIR/paper.md. The scales are `tiny` (digits, a few minutes, to check that all
works), `laptop` (digits), `paper` (CIFAR-100, for an accelerator) and
`rehearsal` (the stages of `paper` at smaller sizes, for two cores).

First, one unit of each kind of work is timed on the device at hand. The time of
each stage is estimated from these times and the work left in it.

  python -m experiments paper --out=runs/paper --scale=paper --only=fig3,fig4 \
    --minutes=50

makes only these figures, as far as time allows. Repeat the command to resume
what was interrupted or did not fit, even after moving the directory.
"""

import functools
import math
import pathlib
import time
from collections.abc import Callable, Sequence

from absl import flags

from experiments import bars, cli, log, values
from experiments import flags as common
from geomem import disk, parallel, runs
from geomem.studies import Sweep, paper


class OutOfTime(BaseException):
  """Signal that the next step does not fit the remaining time.

  Not an `Exception`, which a sweep would treat as the failure of a cell.
  """


class Budget:
  """Time limit of one start, in minutes; unlimited by default."""

  def __init__(
    self, minutes: float = math.inf, clock: Callable[[], float] = time.monotonic
  ):
    """Starts the clock, which counts seconds."""
    self.limit, self._clock = minutes, clock
    self._start = clock()

  @property
  def left(self) -> float:
    """Minutes until the limit."""
    return max(0.0, self.limit - self.spent)

  @property
  def spent(self) -> float:
    """Minutes since the start."""
    return (self._clock() - self._start) / 60

  def fits(self, minutes: float) -> bool:
    """Returns whether `minutes` are left; all processes get the same answer."""
    return parallel.from_first(lambda: self.spent + minutes <= self.limit)

  def bar(self, **options):
    """Makes a progress bar that stops the work when a step does not fit.

    Raises:
      OutOfTime: from the bar's `update`; the work can resume, as after a kill.
    """
    bar = bars.bar(**options)
    if math.isinf(self.limit):
      return bar
    advance, start = bar.update, self.spent

    def update(size=1):
      advance(size)
      steps = bar.n - bar.initial
      per_step = (self.spent - start) / steps if steps > 0 else 0.0
      if bar.n < bar.total and not self.fits(per_step):
        raise OutOfTime

    bar.update = update
    return bar


def reproduce(
  name: str,
  path: pathlib.Path,
  stages: Sequence[paper.PaperStage],
  budget: Budget,
  data_dir: str | None = None,
) -> int:
  """Runs the stages that fit the time limit, and writes the table.

  The stages are of the scale that is named. Returns the exit status: 1 if part
  of a stage failed.
  """
  scale = paper.SCALES[name]
  config = {"experiment": paper.Paper.name, "scale": name}
  with runs.open_run(path, config) as out:
    if out.is_done:
      log.say(f"{path} is complete; nothing to do. Its table: {path}/paper.md.")
      return 0
    with log.kept(path):
      log.say(f"The paper at scale {name} ({scale.text}), to {path}.")
      status = _do_stages(scale, path, stages, budget, data_dir)
      _tell(out, path, scale)
  return status


def _do_stages(scale, path, stages, budget: Budget, data_dir) -> int:
  """Runs the stages that fit the time limit; returns the exit status."""
  left = []
  for stage in stages:
    place = path / stage.place
    if _is_complete(place):  # A packed copy may lack the networks it needed.
      log.say(f"{stage.name}: {stage.study.name}, in {place}; complete.")
    else:
      left.append(stage)
  if not left:
    return 0
  with values.command_line():
    estimates = paper.Estimates(left, scale, path, data_dir, log.say)
  _say_plan(left, estimates)
  do = functools.partial(_do, scale, path, estimates, budget, data_dir)
  too_long, status = [], 0
  try:
    for count, stage in enumerate(left, 1):
      log.say(f"\n[{count}/{len(left)}] {stage.name}: {stage.study.name}.")
      if stage.of_run and not _is_complete(path / paper.STAGES[0].place):
        log.say(f"It analyses {paper.STAGES[0].name}, which is not complete.")
        continue
      estimate = estimates.of(stage, exact=False)
      if budget.fits(estimate.minutes):
        estimate = estimates.of(stage)
      minutes = estimate.minutes
      if budget.fits(minutes):
        status |= do(stage)
        continue
      log.say(
        f"{stage.name} is not started: it takes about"
        f" {paper.duration(minutes)}, and --minutes leaves"
        f" {paper.duration(budget.left)}."
      )
      if minutes > budget.limit:  # It would not fit the next start either.
        too_long.append((stage, estimate.minutes_a_unit))
    for stage, minutes in too_long:
      if budget.fits(minutes):
        log.say(f"\n{stage.name} needs several starts; this one does a part.")
        status |= do(stage)
      else:
        log.say(
          f"{stage.name} needs {paper.duration(minutes)} for one of its units,"
          " which is more than --minutes leaves."
        )
  except OutOfTime:  # The stage has said so.
    pass
  return status


def _say_plan(stages, estimates: paper.Estimates) -> None:
  """Prints the estimates of all stages, and their sum."""
  each = {stage.name: estimates.of(stage, exact=False) for stage in stages}
  log.say("Estimates for this device:")
  for name, estimate in each.items():
    log.say(f"  {name:8} {estimate}")
  total = sum(estimate.minutes for estimate in each.values())
  log.say(f"  {'total':8} about {paper.duration(total)}")


def _do(scale, path, estimates, budget, data_dir, stage) -> int:
  """Runs a stage; returns the exit status."""
  place, estimate = path / stage.place, estimates.of(stage)
  log.say(f"It takes {estimate}.\nIts directory is {place}.")
  with values.command_line():
    made = paper.make(stage, scale, path, data_dir)
  do = cli.do_sweep if isinstance(made, Sweep) else cli.do
  before = budget.spent
  try:
    status = do(made, place, progress=budget.bar)
  except OutOfTime:
    log.say(
      f"{stage.name} is not complete after {budget.spent - before:.1f} min: the"
      " rest does not fit --minutes."
    )
    raise
  took = paper.duration(budget.spent - before)
  expected = paper.duration(estimate.minutes)
  log.say(f"{stage.name} took {took} (estimated {expected}).")
  return status


def _is_complete(place: pathlib.Path) -> bool:
  return parallel.from_first(lambda: runs.is_complete(place))


def _tell(out, path: pathlib.Path, scale: paper.Scale) -> None:
  """Prints and writes the table of the complete stages."""
  out.replace(parallel.from_first(lambda: paper.compare(path, scale)))
  table = paper.Paper.table(out.rows)
  file = path / "paper.md"
  parallel.from_first(lambda: disk.write_whole(file, f"{table}\n".encode()))
  log.say(f"\n{table}\n\nThe table is in {file}.")
  left = [s.name for s in paper.STAGES if not _is_complete(path / s.place)]
  if left:
    log.say(
      f"Remaining: {', '.join(left)}. Repeat the command to continue, even if"
      f" {path} has moved; without --only it runs all of them."
    )
  else:
    out.finish()


def _define_flags() -> None:
  values.define_path("out", "runs/paper", "directory of all stages")
  texts = "; ".join(f"{name}: {s.text}" for name, s in paper.SCALES.items())
  flags.DEFINE_string("scale", "tiny", f"size of the reproduction. {texts}")
  names = sorted({name for stage in paper.STAGES for name in stage.names})
  text = f"comma-separated, from {', '.join(names)}; all by default"
  flags.DEFINE_list("only", None, text)
  text = "time limit of this start in minutes; none by default"
  flags.DEFINE_float("minutes", None, text)
  values.define_path("data_dir", None, "TFDS directory")


def main() -> int:
  """Checks the command line, and runs the stages."""
  given = flags.FLAGS
  with values.command_line():
    if given.scale not in paper.SCALES:
      raise ValueError(
        f"--scale={given.scale} is not known; choose one of"
        f" {', '.join(paper.SCALES)}."
      )
    stages = paper.choose(values.list_of("only", str))
    minutes = math.inf if given.minutes is None else given.minutes
    if not minutes > 0:
      raise ValueError(
        f"--minutes={given.minutes} is not a duration; give a positive number,"
        " or leave it out for no limit."
      )
  path = pathlib.Path(given.out)
  return reproduce(given.scale, path, stages, Budget(minutes), given.data_dir)


if __name__ == "__main__":
  _define_flags()
  common.run(main)
