"""Training losses: stored beside the networks, and reported by epoch.

They cost nothing, as every step computes its loss, and they cover every epoch,
while scores cover the saved epochs only. Lost rows are rebuilt from
`losses.npz`, without training.
"""

import io
import logging
import pathlib
from collections import Counter

import numpy as np
from jaxtyping import Float

from geomem import disk, parallel, runs, training
from geomem.studies.experiment import Experiment
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import checkpoints

_LOG = logging.getLogger(__name__)


def losses_key(seed: int, epoch: int) -> dict:
  """Returns the unit key of a seed's losses up to a saved epoch."""
  return {"stage": "losses", "seed": seed, "epoch": epoch}


class Losses:
  """The mean losses of all seeds, by stretch of steps.

  A stretch is an epoch, or part of one if the training set is streamed: it ends
  where a state to resume from may be saved. Interrupted training therefore
  resumes with whole stretches, and the mean of an epoch does not depend on
  where it was interrupted.
  """

  def __init__(self, path: pathlib.Path | str, experiment: Experiment):
    """Reads the losses that earlier starts of the run have saved."""
    config = experiment.config.training
    self._file = pathlib.Path(path) / "losses.npz"
    self._seeds = list(config.seeds)
    self._chosen = training.checkpoint_epochs(config.epochs)
    self.steps_per_epoch = training.steps_per_epoch(
      len(experiment.train.labels), experiment.recipe.batch_size
    )
    # The means of each stretch, by the number of steps at its end.
    self._means = parallel.from_first(self._read)
    self._kept = len(self._means)

  def _read(self) -> dict[int, np.ndarray]:
    if not self._file.exists():
      return {}
    try:
      with np.load(self._file, allow_pickle=False) as stored:
        steps, means = stored["steps"], stored["means"]
      if means.shape != (len(steps), len(self._seeds)):
        raise ValueError(means.shape)
      return dict(zip(steps.tolist(), means, strict=True))
    except Exception as error:  # Damaged files fail in many ways.
      _LOG.warning(
        "%s is damaged (%s); training losses of earlier starts are left out.",
        self._file,
        type(error).__name__,
      )
      return {}

  def go_on_from(self, step: int) -> None:
    """Drops the losses of later steps, which will be repeated."""
    self._means = {s: m for s, m in self._means.items() if s <= step}
    if step and step not in self._means:  # Lost, so unknown.
      self.add(step, np.full(len(self._seeds), np.nan))
    self._kept = len(self._means)

  def add(self, step: int, means: Float[np.ndarray, " seeds"]) -> None:
    """Adds the stretch that ends after `step` steps in total."""
    self._means[step] = np.asarray(means, np.float32)

  def save(self) -> None:
    """Writes the file, if stretches were added."""
    if self._kept == len(self._means):
      return
    content = io.BytesIO()
    means = np.array(list(self._means.values()), np.float32)
    means = means.reshape(-1, len(self._seeds))
    np.savez(content, steps=np.array(list(self._means), int), means=means)
    parallel.from_first(
      lambda: disk.write_whole(self._file, content.getvalue())
    )
    self._kept = len(self._means)

  def of_epochs(self, seed: int) -> dict[int, float]:
    """Returns a seed's mean loss in every epoch that is complete."""
    index, steps = self._seeds.index(seed), self.steps_per_epoch
    counts, sums, before = Counter(), Counter(), 0
    for step, means in self._means.items():
      # Epochs count from 1, like the states at their ends.
      epoch = -(-step // steps)
      counts[epoch] += step - before
      sums[epoch] += (step - before) * float(means[index])
      before = step
    return {
      epoch: total / steps
      for epoch, total in sums.items()
      if counts[epoch] == steps and total == total
    }

  def rows(self, seed: int, epoch: int) -> list[runs.Row]:
    """Returns a seed's rows for the epochs since the previous saved one."""
    last = max((e for e in self._chosen if e < epoch), default=0)
    return [
      {"seed": seed, "epoch": e, "metric": "training_loss", "value": loss}
      for e, loss in self.of_epochs(seed).items()
      if last < e <= epoch
    ]


def lost_losses(run: runs.Run, experiment: Experiment) -> Stage:
  """Returns the stage that rebuilds committed losses that were lost."""
  losses = Losses(run.path, experiment)
  units = []
  for seed in experiment.config.training.seeds:
    with checkpoints(run.path, seed) as saved:
      epochs = saved.epochs
    for epoch in epochs:
      key, rows = losses_key(seed, epoch), losses.rows(seed, epoch)
      if rows and not run.has(key):
        units.append(Unit(key, lambda rows=rows: iter([Step(rows)])))
  return Stage("", units)
