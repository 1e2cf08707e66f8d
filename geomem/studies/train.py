"""Training of all seeds of a run together, resumed after interruptions."""

import contextlib
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from geomem import data, parallel, runs, training
from geomem.studies import experiment as experiments
from geomem.studies.experiment import Experiment, Seed
from geomem.studies.losses import Losses, losses_key
from geomem.studies.study import Step
from geomem.studies.trained import checkpoints

MEMORIZED = 0.99


def training_key(seed: int) -> dict:
  """Returns the key of the unit of work that trains a seed."""
  return {"stage": "training", "seed": seed}


def scores_key(seed: int, epoch: int) -> dict:
  """Returns the key of the unit of work that scores a seed's network."""
  return {"stage": "scores", "seed": seed, "epoch": epoch}


def score_subsets(experiment: Experiment, seed: Seed, state) -> list[runs.Row]:
  """Computes accuracy and loss of a network on the subsets."""
  logits = {
    split: training.predict_logits(
      experiment.network,
      state,
      getattr(experiment, split).images,
      experiment.mean,
      experiment.std,
    )
    for split in ("train", "test")
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
  epoch, and within long epochs.

  Args:
    run: the run that checkpoints and scores are stored in.
    experiment: from `prepare`.
    seeds: from `prepare_seeds`, the same in every start of a run.

  Yields:
    A step for each epoch, with the mean loss over the seeds.
  """
  config = experiment.config.training
  chosen = training.checkpoint_epochs(config.epochs)
  first, last = seeds[0].number, seeds[-1].number
  resume_path = run.path / "resume" / f"seeds{first}-{last}"
  # A seed that has memorized its labels may stop while the others continue.
  active = [
    i for i, s in enumerate(seeds) if not run.has(training_key(s.number))
  ]
  if not active:
    _forget(resume_path)
    return
  streams = data.streams(experiment.train.images)
  history = Losses(run.path, experiment)
  steps = history.steps_per_epoch
  # Saved states are numbered by steps where data stream, else by epochs.
  unit = steps if streams else 1
  epoch = 0
  with training.Checkpoints(resume_path, keep=2) as resumable:
    for states, losses in training.train_seeds(
      jnp.stack([seed.training_key for seed in seeds]),
      experiment.network,
      _training_data(experiment, seeds),
      experiment.recipe,
      resume=lambda states: _resume(resumable, states, unit),
    ):
      loss, previous, epoch = float(losses.mean()), epoch, states.epoch
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
        history.save()
        resumable.save(epoch * unit + states.step, _resume_tree(states))
      facts = {} if is_start else {"loss": f"{loss:.3f}"}
      yield Step(size=epoch - previous, facts=facts, done_before=is_start)
      if not active:
        break
  _forget(resume_path)


def _forget(path) -> None:
  def remove():
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # Other seeds may have states there.
      path.parent.rmdir()

  parallel.wait(f"all are done with {path}")
  parallel.from_first(remove)


def _training_data(experiment, seeds) -> training.TrainingData:
  of_first = experiments.training_data(experiment, seeds[0])
  labels = jnp.stack([jnp.asarray(seed.labels.labels) for seed in seeds])
  return of_first._replace(labels=labels)


def _record(run, experiment, seed, state: training.TrainState, losses) -> bool:
  """Saves and scores a network; returns whether its training has ended."""
  config = experiment.config.training
  rows = score_subsets(experiment, seed, state.network)
  is_last = state.epoch == config.epochs
  if config.stop_when_memorized:
    is_last |= _memorized(rows)
  if is_last or state.epoch in training.checkpoint_epochs(config.epochs):
    with checkpoints(run.path, seed.number) as saved:
      saved.save(state.epoch, state.network)
    rows = runs.tagged(rows, seed=seed.number, epoch=state.epoch)
    run.commit(scores_key(seed.number, state.epoch), rows)
    losses.save()
    loss_rows = losses.rows(seed.number, state.epoch)
    if loss_rows:  # None before the first epoch.
      run.commit(losses_key(seed.number, state.epoch), loss_rows)
  if is_last:
    run.commit(training_key(seed.number))
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


def _memorized(rows) -> bool:
  accuracy = runs.Rows(rows).where("accuracy", subset="permuted").values
  return bool((accuracy >= MEMORIZED).any())
