"""The memorization experiment: train, score the subsets, measure the layers."""

import functools
import itertools
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from geomem import geometry, parallel, runs, training
from geomem.analysis import experiment as experiments
from geomem.analysis.config import measured_layers
from geomem.analysis.layer_statistics import layer_statistics

METRICS = (
  "capacity",
  "radius",
  "dimension",
  "center_correlation",
  "rank",
  "interior",
  "residual",
  "converged",
  "center_left",
)


def score_subsets(experiment, seed, state) -> list[dict]:
  """Rows of accuracy and loss of the four subsets."""
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


def score_logits(seed, logits: dict[str, np.ndarray]) -> list[dict]:
  """Rows of accuracy and loss of the subsets, from the logits by split."""
  rows = []
  for name, subset in seed.subsets.items():
    found = training.scores(
      logits[subset.source][subset.indices], subset.labels
    )
    for metric, (value, stderr) in found.items():
      rows.append(
        {"subset": name, "metric": metric, "value": value, "stderr": stderr}
      )
  return rows


def checkpoints_of(
  run: runs.Run | pathlib.Path | str, seed: int, *, must_exist: bool = False
) -> training.Checkpoints:
  """The saved networks of one seed, by epoch."""
  path = pathlib.Path(getattr(run, "path", run))
  return training.Checkpoints(
    path / "checkpoints" / f"seed{seed}", must_exist=must_exist
  )


def tagged(rows, **columns) -> list[dict]:
  """The rows with the same columns in front of each."""
  return [columns | row for row in rows]


def last_epoch(rows, seed: int) -> int | None:
  """The last epoch of a seed's training; None where it has not ended."""
  for row in rows:
    if row["seed"] == seed and row["metric"] == "last_epoch":
      return row["value"]
  return None


def _geometry_rows(measured, layer, layer_index, names) -> list[dict]:
  columns = {
    "capacity": (measured.mean_capacity, measured.mean_capacity_stderr),
    "radius": (measured.mean_radius, measured.mean_radius_stderr),
    "dimension": (measured.mean_dimension, measured.mean_dimension_stderr),
    "center_correlation": (measured.center_correlation, None),
    "rank": (measured.rank, None),
    "interior": (measured.interior.mean(axis=-1), None),
    "residual": (measured.residual.max(axis=-1), None),
    # The share of the manifolds whose numbers are to be believed.
    "converged": (measured.converged.mean(axis=-1), None),
    # Of any centre, after directions are removed: the least share.
    "center_left": (measured.center_left.min(axis=-1), None),
  }
  return [
    {
      "layer": layer,
      "layer_index": layer_index,
      "subset": name,
      "metric": metric,
      "value": float(columns[metric][0][i]),
      "stderr": None
      if columns[metric][1] is None
      else float(columns[metric][1][i]),
    }
    for i, name in enumerate(names)
    for metric in METRICS
  ]


def measure_layers(
  experiment, seed, state, layers=None
) -> Iterator[list[dict]]:
  """Geometry of a network's layers, or of some; hands on each layer's rows."""
  config, network = experiment.config, experiment.network
  layers = network.layer_names if layers is None else layers
  names = list(seed.manifolds)
  images = experiments.manifold_images(experiment, seed)
  forward = experiments.measuring_forward(experiment)
  options = {
    "kappa": config.kappa,
    "num_probes": config.num_probes,
    "centers": experiments.parse_centers(config.centers),
  }
  # As many layers at a time as give every device a subset of one.
  num_layers = max(1, parallel.mesh().size // len(names))
  found = layer_statistics(forward, state, images, layers, names)
  while some := list(itertools.islice(found, num_layers)):
    # The same probes in every layer and epoch: differences are of the layers.
    measured = _measure(
      seed.geometry_key, _stacked(some, num_layers), **options
    )
    for i, (layer, _) in enumerate(some):
      here = jax.tree.map(
        lambda x, i=i: jnp.asarray(parallel.fetch(x)[i]), measured
      )
      index = network.layer_names.index(layer)
      yield _geometry_rows(here, layer, index, names)


def _stacked(some, num_layers: int) -> geometry.GramStatistics:
  """Statistics `[num_layers, subsets, ...]`; the last layer's fill up."""
  stats = [stats for _, stats in some]
  stats += stats[-1:] * (num_layers - len(stats))
  return jax.tree.map(lambda *xs: jnp.stack(xs), *stats)


@functools.partial(jax.jit, static_argnames=("num_probes", "centers"))
def _measure(key, stats, *, kappa, num_probes, centers):
  """The geometry of each layer's subsets, shared out over the devices.

  On one device they go one after the other: loops end early so.
  """
  leading = stats.mask.shape[:2]
  found = parallel.map_shares(
    lambda subset: geometry.manifold_geometry(
      key, subset, kappa=kappa, num_probes=num_probes, centers=centers
    ),
    jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stats),
  )
  return jax.tree.map(lambda x: x.reshape(*leading, *x.shape[1:]), found)


def _scored_epochs(rows, seed: int) -> set[int]:
  """The epochs whose networks training has saved and scored."""
  return {
    row["epoch"]
    for row in rows
    if (row["seed"], row["metric"]) == (seed, "accuracy")
  }


def measure_seed(run, experiment, seed) -> Iterator[tuple[int, str]]:
  """Measures every saved epoch that is not measured yet.

  The layers are those of the config, all by default.

  Yields:
    The epoch and the layer that were just measured, or found measured.

  Raises:
    ValueError: activations are not finite; it names epoch, layer and subset.
  """
  layers = measured_layers(experiment.config, experiment.network.layer_names)
  expected = len(layers) * len(seed.manifolds) * len(METRICS)
  last = last_epoch(run.rows(), seed.seed)
  like = experiment.network.abstract_state
  with checkpoints_of(run, seed.seed) as saved:
    scored = _scored_epochs(run.rows(), seed.seed)
    for epoch in sorted(e for e in scored | set(saved.epochs) if e <= last):
      done = sum(
        row["seed"] == seed.seed
        and row["epoch"] == epoch
        and row["layer"] is not None
        for row in run.rows()
      )
      if done == expected:
        yield from ((epoch, layer) for layer in layers)
        continue
      state = saved.load(epoch, like)
      rows = []
      try:
        for layer_rows in measure_layers(experiment, seed, state, layers):
          rows += layer_rows
          yield epoch, layer_rows[0]["layer"]
      except ValueError as error:
        raise ValueError(f"Seed {seed.seed}, epoch {epoch}, {error}") from error
      run.append(tagged(rows, seed=seed.seed, epoch=epoch))
