"""Truncation, an alternative to rewinding: a layer's last components removed.

The activations of one layer are projected onto their first d principal
components, and the layers above run on the projection. If wrong labels are
memorized in components of small variance, test accuracy recovers and permuted
accuracy falls. Source: "Malignant Tail", arXiv 2603.02293.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geomem import compilation, data, models, parallel, runs, training
from geomem.geometry.linalg import matmul
from geomem.plots import style
from geomem.studies.experiment import Seed, spread_images
from geomem.studies.fields import Fields
from geomem.studies.finding import (
  Finding,
  any_reaches,
  bounds,
  grouped,
  with_error,
)
from geomem.studies.measure_config import measured_layers
from geomem.studies.rewind_scores import ENOUGH, too_vague, without_loss
from geomem.studies.study import Stage, Step
from geomem.studies.train import score_logits
from geomem.studies.trained import OfRun, TrainedRun

# Largest number of training images that the components are computed from.
_MAX_IMAGES = 1024
_PLACE = ("kept", "layer_index")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncateConfig(Fields):
  """What is truncated.

  Attributes:
    dimensions: d, the numbers of principal components to keep.
    layers: comma-separated names, or `last` (hidden); all by default.
  """

  dimensions: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
  layers: str | None = None

  def __post_init__(self):
    super().__post_init__()
    if min(self.dimensions, default=0) < 1:
      raise ValueError(
        f"dimensions is {self.dimensions}; positive numbers were expected."
      )
    if len(set(self.dimensions)) < len(self.dimensions):
      raise ValueError(f"dimensions {self.dimensions} names a number twice.")


@style.in_style
def plot_truncation(rows: runs.Rows):
  """Draws test and permuted accuracy by the number of components kept.

  Numbers that some seeds lack, as their layer has a smaller rank, are left out.
  """
  truncated = rows.where("accuracy", kept=tuple(rows.distinct("kept")))
  truncated = truncated.of_all_seeds(rows.seeds, *_PLACE)
  untruncated = rows.at("last").where("accuracy", kept=None)
  layers = truncated.layers
  if not layers:
    return None
  figure, (axes,) = style.new_axes(8.6, 3.4, 1, 2, sharex=True, sharey=True)
  for subset, ax in zip(("test", "permuted"), axes, strict=True):
    curves = {
      layer: truncated.where(subset=subset, layer_index=index)
      for index, layer in layers.items()
    }
    style.draw_layers(ax, curves, "kept")
    baseline = untruncated.where(subset=subset)
    if baseline:
      level, _ = baseline.mean(rows.seeds)
      ax.axhline(level, color="0.4", ls="--", label="all")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    style.accuracy_axis(ax, rows)
    ax.set_xlabel("principal components kept")
    ax.set_title(subset)
  axes[0].set_ylabel("accuracy, last epoch")
  style.list_beside(axes[1], len(layers))
  return figure


class Truncate(OfRun):
  """The truncation study: scores of the last network, one layer truncated."""

  name = "truncate"
  figures: ClassVar = {"truncation": plot_truncation}
  copied = (
    *("accuracy", "loss", "best_epoch", "last_epoch"),
    *("chance_accuracy", "majority_accuracy"),
  )

  def __init__(self, config: TruncateConfig, trained: TrainedRun):
    """Checks the names of the layers.

    Raises:
      ValueError: a layer does not exist, or only the logits were chosen.
      RunError: a seed's last network is missing.
    """
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    chosen = measured_layers(config.layers, names)
    self.layers = [name for name in chosen if name != "logits"]
    if not self.layers:
      raise ValueError(
        "layers names the logits alone, and there is no layer above them that"
        " could run on their projection; name another layer."
      )
    trained.check_networks("last")

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Truncates every layer of every seed's last network."""
    yield self.facts_stage()
    for seed in self.trained.seeds:
      yield self.stage_of(
        seed, "truncated", self._work, title="layers", layer=self.layers
      )

  def _work(self, seed: Seed, layer: str) -> Iterator[Step]:
    experiment, trained = self.trained.experiment, self.trained
    network = experiment.network
    last = trained.last(seed.number)
    truncated = _Truncated(experiment, trained.state(seed.number, last), layer)
    rows = []
    most = truncated.num_components
    dimensions = [kept for kept in self.config.dimensions if kept <= most]
    logits = {
      split: truncated.logits(images, dimensions)
      for split, images in experiment.splits.items()
    }
    for i, kept in enumerate(dimensions):
      scores = score_logits(seed, {k: of[i] for k, of in logits.items()})
      scores = [*scores, *trained.recovered(seed.number, scores)]
      rows += runs.tagged(scores, kept=kept)
    place = {"layer": layer, "layer_index": network.layer_names.index(layer)}
    columns = {"seed": seed.number, "epoch": last} | place
    yield Step(runs.tagged(rows, **columns), facts={"layer": layer})

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Finding]:
    """Tests whether any truncation recovers most of the lost test accuracy.

    Seeds that have lost none have nothing to recover, and are left out. Chosen
    layers and numbers of components cannot show that none does.
    """
    name = "Truncation (the memory is in the tail)"
    measured = rows.where("recovered")
    of_all = measured.of_all_seeds(measured.seeds, *_PLACE)
    cells = grouped(of_all, *_PLACE)
    if not rows.distinct("kept"):
      reason = "no layer has more components than were to be kept"
    elif not measured:
      reason = "no test accuracy was lost"
    elif measured.known() != measured:
      reason = "recovered shares are unknown"
    elif not (reason := too_vague(measured)) and not cells:
      reason = "no number of components is of all seeds"
    if reason:
      return [Finding(name, None, reason)]
    share, kept, index = max(
      (cell.mean()[0], *place) for place, cell in cells.items()
    )
    accuracy = rows.where("accuracy", layer_index=index, kept=kept)
    numbers = ", ".join(
      f"{subset} accuracy {with_error(of_subset.mean(measured.seeds)[0])}"
      for subset in ("test", "permuted")
      if (of_subset := accuracy.where(subset=subset, seed=measured.seeds))
    )
    parts = "component" if kept == 1 else "components"
    sentence = (
      f"of the test accuracy that was lost at most {share:.0%} comes back, by"
      f" keeping {kept} {parts} of {rows.layers[index]} ({numbers});"
      f" {ENOUGH:.0%} was expected{without_loss(rows.seeds, measured.seeds)}"
    )
    holds = any_reaches(
      ENOUGH,
      (
        bounds(cell.values, np.array([row["stderr"] for row in cell], float))
        for cell in cells.values()
      ),
    )
    if holds is None:
      sentence += "; whether that is reached cannot be known within two errors"
    missing = {*TruncateConfig.dimensions} - {
      *config.get("dimensions", TruncateConfig.dimensions)
    }
    if holds is False and (config.get("layers") or missing):
      holds = None
      sentence += "; other layers or numbers of components were not tried"
    return [Finding(name, holds, sentence)]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists test accuracy by layer and number of components kept."""
    accuracy = rows.where("accuracy", subset="test")
    accuracy = accuracy.where(kept=tuple(accuracy.distinct("kept")))
    accuracy = accuracy.of_all_seeds(rows.seeds, *_PLACE)
    lines = [f"{'test accuracy':16}"]
    lines[0] += "".join(f"{kept:>8}" for kept in accuracy.split("kept"))
    for index, layer in accuracy.layers.items():
      means = accuracy.where(layer_index=index).series("kept").mean
      lines.append(f"{layer:16}" + "".join(f"{m:8.3f}" for m in means))
    return "\n".join(lines)


class _Truncated:
  """A network with one layer projected onto its first principal components.

  With c the mean and V the principal components of the layer's activations a on
  training images, the layers above see c + V_d V_dᵀ (a − c).
  """

  def __init__(self, experiment, state: dict[str, Any], layer: str):
    self._experiment = experiment
    self._state = state
    self._head, self._tail = _compiled(experiment.network, layer)
    chosen = spread_images(experiment.train.images, _MAX_IMAGES)
    activations = np.concatenate(
      [
        parallel.fetch(self._activate(block))[:count].reshape(count, -1)
        for count, block in training.padded_blocks(chosen)
      ],
      dtype=np.float32,  # In bfloat16, NumPy's mean would be far off.
    )
    self._center = activations.mean(axis=0)
    _, s, V = np.linalg.svd(activations - self._center, full_matrices=False)
    # Smaller singular values are rounding errors.
    self.num_components = int((s > 1e-6 * s[0]).sum())
    self._components = V[: self.num_components]

  def _activate(self, block) -> Float[Array, "n ..."]:
    moments = self._experiment.mean, self._experiment.std
    return self._head(self._state, block, *moments)

  def logits(
    self, images, dimensions: Sequence[int]
  ) -> list[Float[Array, "n classes"]]:
    """Computes the logits of all images, with each number of components."""
    V = jnp.asarray(self._components)
    blocks = [[] for _ in dimensions]
    for count, block in training.padded_blocks(images):
      a = self._activate(block)
      for of_projection, kept in zip(blocks, dimensions, strict=True):
        logits = self._tail(self._state, a, self._center, V, kept)
        of_projection.append(parallel.gather(logits)[:count])
    return list(map(jnp.concatenate, blocks))


@functools.cache
def _compiled(network: models.Network, layer: str):
  """Compiles the layers up to `layer`, and those above it on its projection."""
  index = network.layer_names.index(layer)

  def run(names, state, x):
    for name in names:
      x, _ = network.apply_layer(name, state.get(name, {}), x)
    return x

  def head(state, images, mean, std):
    x = data.normalize(images, mean, std)
    return run(network.layer_names[1 : index + 1], state, x)

  def tail(state, a, center, V, kept):
    V = jnp.where(jnp.arange(len(V))[:, None] < kept, V, 0)
    flat = a.reshape(len(a), -1).astype(jnp.float32) - center[None]
    x = center[None] + matmul(matmul(flat, V.T), V)
    x = x.reshape(a.shape).astype(a.dtype)
    logits = run(network.layer_names[index + 1 :], state, x)
    return logits.astype(jnp.float32)

  return compilation.jit(head), compilation.jit(tail)
