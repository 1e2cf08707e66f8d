"""Training the seeds of a run together; cut off anywhere, it goes on."""

import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from geomem import data, geometry, parallel, training
from geomem.analysis import experiment as experiments
from geomem.analysis import memorization

MEMORIZED = 0.99


def train_seed(run, experiment, seed) -> Iterator[tuple[int, float]]:
  """Trains one seed: `train_seeds` with one."""
  yield from train_seeds(run, experiment, [seed])


def train_seeds(run, experiment, seeds) -> Iterator[tuple[int, float]]:
  """Trains seeds together, or goes on where they were killed.

  At the chosen epochs the networks are saved first, then their scores, then
  the states to resume from: whatever is cut off comes again, the same. Where
  the training set is streamed, states to resume from are saved in every epoch,
  and within epochs that are long.

  Args:
    run: where checkpoints and rows go.
    experiment: from `prepare`.
    seeds: from `prepare_seed`, the same in every start of a run.

  Yields:
    The epoch, and the mean loss of its steps over the seeds.
  """
  config = experiment.config
  chosen = training.checkpoint_epochs(config.epochs)
  numbers = [seed.seed for seed in seeds]
  resume_path = run.path / "resume" / f"seeds{numbers[0]}-{numbers[-1]}"
  if run.has_holes:
    for seed in seeds:
      _score_again(run, experiment, seed)
  # A seed that has memorized all ends; those beside it go on.
  going = [i for i, n in enumerate(numbers) if not _is_trained(run, n)]
  if not going:
    _forget(resume_path)
    return
  streams = isinstance(experiment.train.images, data.StreamedImages)
  # The unit in which saved states count the time: a step or an epoch.
  unit = _steps_per_epoch(experiment) if streams else 1
  with training.Checkpoints(resume_path, keep=2) as resumable:
    for states, losses in training.train_seeds(
      jnp.stack([seed.training_key for seed in seeds]),
      experiment.network,
      _training_data(experiment, seeds),
      experiment.recipe,
      resume=lambda states: _resume(resumable, states, unit),
    ):
      is_chosen = states.step == 0 and states.epoch in chosen
      if is_chosen or (config.stop_when_memorized and states.step == 0):
        going = [
          i for i in going if not _record(run, experiment, seeds[i], states[i])
        ]
      if is_chosen or streams:
        time = states.epoch * unit + states.step
        resumable.save(time, _resume_tree(states))
      yield states.epoch, float(losses.mean())
      if not going:
        break
  _forget(resume_path)


def _forget(path) -> None:
  parallel.wait(f"all are done with {path}")
  parallel.from_first(lambda: shutil.rmtree(path, ignore_errors=True))


def _is_trained(run, seed: int) -> bool:
  return memorization.last_epoch(run.rows(), seed) is not None


def _training_data(experiment, seeds) -> training.TrainingData:
  one = experiments.training_data(experiment, seeds[0])
  labels = jnp.stack([jnp.asarray(seed.labels.labels) for seed in seeds])
  return one._replace(labels=labels)


def _record(run, experiment, seed, state: training.TrainState) -> bool:
  """Saves and scores a network after an epoch; whether it was its last."""
  config = experiment.config
  rows = memorization.score_subsets(experiment, seed, state.network)
  is_last = state.epoch == config.epochs
  if config.stop_when_memorized:
    is_last |= _memorized(rows)
  if is_last or state.epoch in training.checkpoint_epochs(config.epochs):
    with memorization.checkpoints_of(run, seed.seed) as saved:
      saved.save(state.epoch, state.network)
    run.append(memorization.tagged(rows, seed=seed.seed, epoch=state.epoch))
  if is_last:
    run.append(_summary(run.rows(), experiment, seed, state.epoch))
  return is_last


def _steps_per_epoch(experiment) -> int:
  return training.steps_per_epoch(
    len(experiment.train.labels), experiment.recipe.batch_size
  )


def _score_again(run, experiment, seed) -> None:
  """Rows that a damaged file lost, from the networks that are saved."""
  last = memorization.last_epoch(run.rows(), seed.seed)
  if last is None:  # It is trained again, and all of them come by that.
    return
  like = experiment.network.abstract_state
  with memorization.checkpoints_of(run, seed.seed) as saved:
    for epoch in [e for e in saved.epochs if e <= last]:
      state = saved.load(epoch, like)
      rows = memorization.score_subsets(experiment, seed, state)
      run.append(memorization.tagged(rows, seed=seed.seed, epoch=epoch))
  run.append(_summary(run.rows(), experiment, seed, last))


def _resume(resumable, states: list, unit: int) -> list:
  found = resumable.load_latest(_resume_tree(states))
  if found is None:
    return states
  time, tree = found
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
  return any(
    row["value"] >= MEMORIZED
    for row in rows
    if (row["subset"], row["metric"]) == ("permuted", "accuracy")
  )


def _summary(rows, experiment, seed, last_epoch) -> list[dict]:
  """Best epoch by test accuracy, last epoch, and facts for the figures."""
  test = {
    row["epoch"]: row["value"]
    for row in rows
    if row["seed"] == seed.seed
    and (row["subset"], row["metric"]) == ("test", "accuracy")
  }
  config = experiment.config
  points = next(iter(seed.manifolds.values())).shape[1]
  facts = {
    "best_epoch": max(test, key=test.get),
    "last_epoch": last_epoch,
    "manifold_points": points,
    "chance_capacity": float(geometry.simplex_capacity(points, config.kappa)),
    "unchanged_labels": seed.labels.num_unchanged,
    "num_permuted": int(seed.labels.permuted.sum()),
    "num_unpermuted": int((~seed.labels.permuted).sum()),
    "num_parameters": experiment.network.num_parameters,
  }
  return [
    {"seed": seed.seed, "metric": metric, "value": value}
    for metric, value in facts.items()
  ]
