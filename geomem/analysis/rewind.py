"""Layer rewind: the last network with some layers of an earlier epoch.

Source: Stephenson et al., ICLR 2021, figure 4A-B; the same intervention in
Maini et al., "Can neural network memorization be localized?", ICML 2023.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from geomem import runs
from geomem.analysis import hybrids as mixing
from geomem.analysis.findings import epoch_of
from geomem.analysis.memorization import (
  METRICS,
  checkpoints_of,
  measure_layers,
  score_logits,
)
from geomem.analysis.rewind_plan import (
  Rewind,
  RewindConfig,
  epochs_to_rewind,
  make_rewinds,
)
from geomem.training import Checkpoints

# Images that statistics are re-estimated on, as one batch.
_MAX_IMAGES = 2048
# Bytes of logits held at once.
_MAX_BYTES = 2**30


class _Job(NamedTuple):
  """The rewinds of one seed, and the finished run that layers come from."""

  config: RewindConfig
  experiment: Any
  seed: Any
  rows: list[dict]
  saved: Checkpoints
  last: dict[str, Any]
  masks: dict[Rewind, mixing.Mask]

  @property
  def networks(self) -> list[mixing.Mask]:
    """The networks to evaluate: different rewinds may give the same."""
    return sorted(set(self.masks.values()))

  def accuracy(self, which: str) -> float:
    """The test accuracy of the run's `best` or `last` epoch."""
    epoch = epoch_of(self.rows, which, self.seed.seed)
    return _test_accuracy(row for row in self.rows if row["epoch"] == epoch)


def _open_job(path, experiment, seed, config) -> _Job:
  network = experiment.network
  rows = [row for row in runs.read_rows(path) if row["seed"] == seed.seed]
  saved = checkpoints_of(path, seed.seed, must_exist=True)
  last = saved.load(epoch_of(rows, "last", seed.seed), network.abstract_state)
  masks = {
    rewind: mixing.mask_of(network, rewind.layers)
    for rewind in make_rewinds(network, config)
  }
  return _Job(config, experiment, seed, rows, saved, last, masks)


def _test_accuracy(rows) -> float:
  return next(
    row["value"]
    for row in rows
    if (row["subset"], row["metric"]) == ("test", "accuracy")
  )


def _load_hybrids(job: _Job, epoch: int) -> mixing.Hybrids:
  """The last network, and what the rewinds need of an earlier one."""
  experiment, network = job.experiment, job.experiment.network
  rewound = {name for rewind in job.masks for name in rewind.layers}
  like = {name: network.abstract_state[name] for name in rewound}
  other = job.saved.load_layers(epoch, like)
  if job.config.batch_norm == "parameters":
    last = {name: job.last[name] for name in rewound}
    other = network.merge(network.split(other)[0], network.split(last)[1])
  hybrids = mixing.Hybrids(network, job.last, other, {})
  if job.config.batch_norm != "reestimated":
    return hybrids
  images = experiment.train.images
  few = np.linspace(0, len(images), min(len(images), _MAX_IMAGES), False)
  images = images[few.astype(int)]
  return mixing.reestimate(
    hybrids, job.networks, images, experiment.mean, experiment.std
  )


def _score_networks(job: _Job, hybrids, found: dict) -> Iterator[float]:
  """Fills `found` with rows by mask; hands on how many networks are done."""
  experiment, classes = job.experiment, job.experiment.num_classes
  splits = {s: getattr(experiment, s).images for s in ("train", "test")}
  total = sum(map(len, splits.values()))
  size = max(1, _MAX_BYTES // (4 * total * classes))
  for start in range(0, len(job.networks), size):
    masks = job.networks[start : start + size]
    logits = {
      mask: {s: np.empty((len(x), classes), "f4") for s, x in splits.items()}
      for mask in masks
    }
    for split, images in splits.items():
      for mask, where, block in mixing.hybrid_logits(
        hybrids, masks, images, experiment.mean, experiment.std
      ):
        logits[mask][split][where] = block
        yield len(block) / total
    for mask in masks:
      found[mask] = score_logits(job.seed, logits[mask])


def _recovered(job: _Job, rows) -> list[dict]:
  """(rewound - last) / (best - last) of the test accuracy, if any was lost."""
  best, last = job.accuracy("best"), job.accuracy("last")
  if best == last:
    return []
  value = (_test_accuracy(rows) - last) / (best - last)
  return [{"subset": "test", "metric": "recovered", "value": value}]


def _facts(job: _Job) -> list[dict]:
  """What figures and findings need of the finished run itself."""
  facts = [
    {"metric": metric, "value": epoch_of(job.rows, which, job.seed.seed)}
    for metric, which in (("best_epoch", "best"), ("last_epoch", "last"))
  ]
  chance = 1 / job.experiment.num_classes
  facts.append({"metric": "chance_accuracy", "value": chance})
  # The networks of the epochs themselves, nothing rewound.
  columns = ("epoch", "subset", "metric", "value", "stderr")
  facts += [
    {column: row[column] for column in columns}
    for row in job.rows
    if row["metric"] in ("accuracy", "loss")
  ]
  return [{"seed": job.seed.seed} | row for row in facts]


def _tagged(job: _Job, rewind: Rewind, epoch: int, rows) -> list[dict]:
  columns = {"seed": job.seed.seed, "epoch": epoch} | rewind.columns
  columns["batch_norm"] = job.config.batch_norm
  return [columns | row for row in rows]


def _count(run, job: _Job, *, layers: bool) -> Counter:
  """Rows of rewinds by epoch, those of layers or those of whole networks."""
  return Counter(
    row["epoch"]
    for row in run.rows()
    if "kind" in row
    and row["seed"] == job.seed.seed
    and (row["layer"] is not None) == layers
  )


def score_rewinds(run, path, experiment, seed, config) -> Iterator[float]:
  """Accuracy and loss of every rewound network; done epochs are passed over.

  Args:
    run: where the rows go.
    path: the directory of the finished run.
    experiment: from `load_experiment`.
    seed: from `prepare_seed`.
    config: what is rewound.

  Yields:
    How many networks (in parts) were just evaluated, or found done; equal
    networks count once.
  """
  job = _open_job(path, experiment, seed, config)
  with job.saved:
    run.append(_facts(job))
    done = _count(run, job, layers=False)
    for epoch in epochs_to_rewind(path, config, seed.seed):
      if done[epoch] == _expected_scores(job):
        yield len(job.networks)
        continue
      found = {}
      yield from _score_networks(job, _load_hybrids(job, epoch), found)
      rows = []
      for rewind, mask in job.masks.items():
        scores = found[mask] + _recovered(job, found[mask])
        rows += _tagged(job, rewind, epoch, scores)
      run.append(rows)


def _expected_scores(job: _Job) -> int:
  """Rows of an epoch: accuracy and loss by subset, and what is recovered."""
  lost = job.accuracy("best") != job.accuracy("last")
  return len(job.masks) * (2 * len(job.seed.subsets) + lost)


def measure_rewinds(run, path, experiment, seed, config) -> Iterator[int]:
  """Geometry of the layers that a rewind changes.

  Those are the layers up to which the network has layers of both epochs; the
  others are those of one epoch's network, which the finished run measured.
  A rewind to the last epoch changes none.

  Args:
    run: where the rows go.
    path: the directory of the finished run.
    experiment: from `load_experiment`.
    seed: from `prepare_seed`.
    config: what is rewound.

  Yields:
    The epoch, after each layer.
  """
  job = _open_job(path, experiment, seed, config)
  last = epoch_of(job.rows, "last", seed.seed)
  layers = {
    mask: mixing.mixed_layers(experiment.network, mask) for mask in job.networks
  }
  expected = sum(len(layers[mask]) for mask in job.masks.values())
  expected *= len(seed.manifolds) * len(METRICS)
  done = _count(run, job, layers=True)
  with job.saved:
    for epoch in epochs_to_rewind(path, config, seed.seed):
      if epoch == last:
        continue
      if done[epoch] == expected:
        yield from (epoch for names in layers.values() for _ in names)
        continue
      hybrids, found = _load_hybrids(job, epoch), {}
      for mask, names in layers.items():
        found[mask] = []
        state = hybrids.state(mask)
        for rows in measure_layers(experiment, seed, state, names):
          found[mask] += rows
          yield epoch
      for rewind, mask in job.masks.items():
        run.append(_tagged(job, rewind, epoch, found[mask]))


def num_networks(experiment, config) -> tuple[int, int]:
  """Networks to evaluate for each epoch, and layers of them to measure."""
  network = experiment.network
  masks = {
    mixing.mask_of(network, rewind.layers)
    for rewind in make_rewinds(network, config)
  }
  layers = [mixing.mixed_layers(network, mask) for mask in masks]
  return len(masks), sum(map(len, layers))
