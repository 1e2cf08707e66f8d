"""Training of all seeds of a run together, resumed after interruptions.

Training losses cost nothing, as every step computes its loss, and they cover
every epoch, while scores cover the saved epochs only. They are stored beside
the networks in `losses.npz`, from which lost rows are rebuilt.
"""

import contextlib
import functools
import io
import logging
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from geomem import data, disk, parallel, runs, training
from geomem.studies import experiment as experiments
from geomem.studies.experiment import Experiment, Seed
from geomem.studies.study import Stage, Step, at_once
from geomem.studies.trained import checkpoints

_LOG = logging.getLogger(__name__)
MEMORIZED = 0.99


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

  def rows(self, seed: int, epoch: int) -> list[runs.Row]:
    """Returns a seed's rows for whole epochs since the previous saved one."""
    last = max((e for e in self._chosen if e < epoch), default=0)
    index, steps = self._seeds.index(seed), self.steps_per_epoch
    counts, sums, before = Counter(), Counter(), 0
    for step, means in self._means.items():
      # Epochs count from 1, like the states at their ends.
      at = -(-step // steps)
      counts[at] += step - before
      sums[at] += (step - before) * float(means[index])
      before = step
    row = {"seed": seed, "metric": "training_loss"}
    return [
      row | {"epoch": at, "value": total / steps}
      for at, total in sums.items()
      if last < at <= epoch and counts[at] == steps and total == total
    ]


def lost_rows(
  run: runs.Run,
  experiment: Experiment,
  seeds: Sequence[Seed],
  load: Callable[[int, int], Any],
) -> Stage:
  """Returns the stage that rebuilds committed scores and losses that were lost.

  The function `load` takes a seed and an epoch to the state of the network. A
  warning names the epochs whose scores cannot be rebuilt.
  """
  config = experiment.config.training
  chosen = training.checkpoint_epochs(config.epochs)

  def rescore(seed, epoch):
    scores = score_subsets(experiment, seed, load(seed.number, epoch))
    return runs.tagged(scores, seed=seed.number, epoch=epoch)

  history = Losses(run.path, experiment)
  scores, losses = [], []
  for seed in seeds:
    with checkpoints(run.path, seed.number) as saved:
      epochs = saved.epochs
    known = [
      epoch
      for epoch in chosen
      if epoch in epochs
      or run.has({"stage": "scores", "seed": seed.number, "epoch": epoch})
    ]
    end = max(known, default=0) if config.stop_when_memorized else chosen[-1]
    if gone := [e for e in chosen if e <= end and e not in known]:
      _LOG.warning(
        "The scores of epochs %s of seed %d are lost, and so are the networks;"
        " one of them may be the best epoch.",
        ", ".join(map(str, gone)),
        seed.number,
      )
    for epoch in epochs:
      place = {"seed": seed.number, "epoch": epoch}
      work = functools.partial(rescore, seed, epoch)
      scores.append(at_once({"stage": "scores"} | place, work))
      if rows := history.rows(**place):
        losses.append(at_once({"stage": "losses"} | place, lambda r=rows: r))
  return Stage("", [u for u in scores + losses if not run.has(u.key)])


def score_subsets(experiment: Experiment, seed: Seed, state) -> list[runs.Row]:
  """Computes accuracy and loss of a network on the subsets."""
  network, moments = experiment.network, (experiment.mean, experiment.std)
  logits = {
    split: training.predict_logits(network, state, images, *moments)
    for split, images in experiment.splits.items()
  }
  return score_logits(seed, logits)


def score_logits(seed: Seed, logits: dict) -> list[runs.Row]:
  """Computes accuracy and loss of the subsets from the logits of each split."""
  by_subset = training.scores(
    {
      name: (logits[subset.source][subset.indices], subset.labels)
      for name, subset in seed.subsets.items()
    }
  )
  return [
    {"subset": name, "metric": metric, "value": value, "stderr": stderr}
    for name, of_subset in by_subset.items()
    for metric, (value, stderr) in of_subset.items()
  ]


def train_seeds(
  run: runs.Run, experiment: Experiment, seeds: list[Seed]
) -> Iterator[Step]:
  """Trains seeds together, resuming from the last saved states.

  At the checkpoint epochs each network is saved first, then its scores and the
  losses since the previous checkpoint are committed, then the states to resume
  from are saved. Interrupted work is therefore repeated, with the same result.
  If the training set is streamed, states to resume from are saved in every
  epoch, and within long epochs. The seeds are the same in every start of a run.

  Yields:
    A step for each epoch, with the mean loss over the seeds that go on.
  """
  config = experiment.config.training
  chosen = training.checkpoint_epochs(config.epochs)
  first, last = seeds[0].number, seeds[-1].number
  resume_path = run.path / "resume" / f"seeds{first}-{last}"
  # A seed that has memorized its labels may stop while the others continue.
  ends = [{"stage": "training", "seed": seed.number} for seed in seeds]
  active = [i for i, end in enumerate(ends) if not run.has(end)]
  if not active:
    _forget(resume_path)
    return
  streams = data.streams(experiment.train.images)
  history = Losses(run.path, experiment)
  steps = history.steps_per_epoch
  labels = jnp.stack([jnp.asarray(seed.labels.labels) for seed in seeds])
  of_first = experiments.training_data(experiment, seeds[0])
  # Saved states are numbered by steps where data stream, else by epochs.
  unit = steps if streams else 1
  epoch = 0
  networks = run.path / "checkpoints"
  kept = [_saved_in(networks / f"seed{seeds[i].number}") for i in active]
  parallel.from_first(lambda: _drop_states(resume_path, kept, chosen, unit))

  def needed() -> dict[int, str]:
    return {i: f"seed {seeds[i].number}" for i in active}

  with training.Checkpoints(resume_path, keep=2) as resumable:
    for states, losses in training.train_seeds(
      jnp.stack([seed.training_key for seed in seeds]),
      experiment.network,
      of_first._replace(labels=labels),
      experiment.recipe,
      resume=lambda states: _resume(resumable, states, unit),
      needed=needed,
    ):
      loss, previous = float(losses[active].mean()), epoch
      epoch = states.epoch
      is_start = loss != loss  # NaN marks the states to start from.
      if is_start:
        history.go_on_from(epoch * steps + states.step)
      else:
        history.add(epoch * steps + states.step, losses)
      is_chosen = states.step == 0 and epoch in chosen
      if is_chosen or (config.stop_when_memorized and states.step == 0):
        active = [
          i
          for i in active
          if not _record(run, experiment, seeds[i], states[i], history)
        ]
      if is_chosen or streams:
        run.check_place()
        history.save()
        resumable.save(epoch * unit + states.step, _resume_tree(states))
      facts = {} if is_start else {"loss": f"{loss:.3f}"}
      yield Step(size=epoch - previous, facts=facts, done_before=is_start)
      if not active:
        break
  _forget(resume_path)


def _saved_in(path: pathlib.Path) -> set[int]:
  """Returns the times of the checkpoints in a directory, if it exists."""
  return {int(x.name) for x in path.glob("[0-9]*") if x.name.isdigit()}


def _drop_states(path: pathlib.Path, kept: list[set], chosen, unit) -> None:
  """Removes the states to resume from that are later than a missing network.

  A copy of a run in progress may have such states; resumed from them, it would
  never have the network. Given are the epochs `kept` of each seed and those
  `chosen` to be; `unit` is the number of the state after one epoch.
  """
  missing = set(chosen) - set.intersection(*kept)
  for time in _saved_in(path):
    if missing and time > min(missing) * unit:
      _LOG.warning(
        "%s is left out, as the network of epoch %d is missing.",
        path / str(time),
        min(missing),
      )
      shutil.rmtree(path / str(time))


def _forget(path) -> None:
  def remove():
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # Other seeds may have states there.
      path.parent.rmdir()

  parallel.wait(f"all are done with {path}")
  parallel.from_first(remove)


def _record(run, experiment, seed, state: training.TrainState, losses) -> bool:
  """Saves and scores a network; returns whether its training has ended.

  Raises:
    NonFiniteLossError: a score is not finite; the network is not saved.
  """
  config = experiment.config.training
  rows = score_subsets(experiment, seed, state.network)
  if not np.isfinite(runs.Rows(rows).values).all():
    raise training.NonFiniteLossError(
      f"The logits of seed {seed.number} overflow after epoch {state.epoch};"
      " lower --learning_rate."
    )
  is_last = state.epoch == config.epochs
  if config.stop_when_memorized:
    accuracy = runs.Rows(rows).where("accuracy", subset="permuted").values
    is_last |= bool((accuracy >= MEMORIZED).any())
  if is_last or state.epoch in training.checkpoint_epochs(config.epochs):
    run.check_place()  # Another run would take the network for its own.
    place = {"seed": seed.number, "epoch": state.epoch}
    # A network that was saved before a kill may come from another device, and
    # differ in rounding from the one that is scored.
    is_scored = run.has({"stage": "scores"} | place)
    with checkpoints(run.path, seed.number) as saved:
      saved.save(state.epoch, state.network, replace=not is_scored)
    run.commit({"stage": "scores"} | place, runs.tagged(rows, **place))
    losses.save()
    if loss_rows := losses.rows(**place):  # None before the first epoch.
      run.commit({"stage": "losses"} | place, loss_rows)
  if is_last:
    run.commit({"stage": "training", "seed": seed.number})
  return is_last


def _resume(resumable, states: list, unit: int) -> list:
  latest = resumable.load_latest(_resume_tree(states))
  if latest is None:
    return states
  time, tree = latest
  structure = jax.tree.structure(states[0].optimizer)
  return [
    training.TrainState(
      tree[f"network{i}"],
      jax.tree.unflatten(structure, tree[f"optimizer{i}"]),
      *divmod(time, unit),
    )
    for i in range(len(states))
  ]


def _resume_tree(states) -> dict:
  tree = {}
  for i, state in enumerate(states):
    tree[f"network{i}"] = state.network
    tree[f"optimizer{i}"] = jax.tree.leaves(state.optimizer)
  return tree
