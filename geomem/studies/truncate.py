"""Truncation, the rival of rewinding: a layer's last components left out.

All but the first d principal components of one layer are left out of its
activations, and the rest of the network sees what remains. If the memory of
wrong labels lies in components of small variance, test accuracy comes back and
permuted accuracy falls. Source: "Malignant Tail", arXiv 2603.02293.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float

from geomem import data, models, parallel, runs, training
from geomem.geometry.linalg import matmul
from geomem.plots import style
from geomem.studies.experiment import Seed
from geomem.studies.fields import check_types
from geomem.studies.measure_config import measured_layers
from geomem.studies.of_run import OfRun
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.train import score_logits
from geomem.studies.trained import TrainedRun
from geomem.studies.words import Finding

# Training images that the components are those of.
_MAX_IMAGES = 1024
ENOUGH = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncateConfig:
  """What is truncated.

  Attributes:
    dimensions: d, numbers of principal components to keep.
    layers: those to truncate, with commas, or `last` (hidden); all by default.
  """

  dimensions: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
  layers: str | None = None

  def __post_init__(self):
    check_types(self)
    if min(self.dimensions, default=0) < 1:
      raise ValueError(
        f"dimensions is {self.dimensions}; positive numbers were expected."
      )


def plot_truncation(rows: runs.Rows):
  """Draws test and permuted accuracy by the components that are kept."""
  figure = style.new_figure(8.6, 3.4)
  axes = figure.subplots(1, 2, sharex=True, sharey=True)
  truncated = rows.where("accuracy", kept=tuple(rows.distinct("kept")))
  whole = rows.at("last").where("accuracy", kept=None)
  layers = truncated.layers
  colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.93, len(layers)))
  for subset, ax in zip(("test", "permuted"), axes, strict=True):
    for (index, layer), color in zip(layers.items(), colors, strict=True):
      found = truncated.where(subset=subset, layer_index=index)
      look = {"color": color, "marker": ".", "label": layer}
      style.draw_series(ax, found.series("kept"), **look)
    everything = whole.where(subset=subset)
    if everything:
      ax.axhline(everything.mean()[0], color="0.4", ls="--", label="all")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("principal components kept")
    ax.set_title(subset)
  axes[0].set_ylabel("accuracy, last epoch")
  axes[1].legend(
    loc="center left",
    bbox_to_anchor=(1, 0.5),
    fontsize=6.5,
    ncols=1 + len(layers) // 12,
  )
  return figure


class Truncate(OfRun):
  """Scores the last network with the tail of a layer's components left out."""

  name = "truncate"
  figures: ClassVar = {"truncation": plot_truncation}

  def __init__(self, config: TruncateConfig, trained: TrainedRun):
    """Checks the names of the layers.

    Raises:
      ValueError: a layer does not exist.
    """
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    chosen = measured_layers(config.layers, names)
    self.layers = [name for name in chosen if name != "logits"]

  def facts(self) -> runs.Rows:
    """Returns the scores of the whole network, and the epochs that count."""
    facts = self.trained.rows.where(layer=None)
    return facts.where(("accuracy", "loss", "best_epoch", "last_epoch"))

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Truncates every layer of every seed's last network."""
    del run
    yield self.facts_stage()
    for seed in self.trained.seeds:
      units = [
        Unit(
          {"stage": "truncated", "seed": seed.number, "layer": layer},
          functools.partial(self._work, seed, layer),
        )
        for layer in self.layers
      ]
      yield Stage(f"layers, seed {seed.number}", units)

  def _work(self, seed: Seed, layer: str) -> Iterator[Step]:
    experiment, trained = self.trained.experiment, self.trained
    network = experiment.network
    last = trained.last(seed.number)
    truncated = _Truncated(experiment, trained.state(seed.number, last), layer)
    of_run = trained.rows.where("accuracy", seed=seed.number, subset="test")
    best = of_run.where(epoch=trained.best(seed.number)).values[0]
    lost = best - of_run.where(epoch=last).values[0]
    rows = []
    for kept in self.config.dimensions:
      if kept > truncated.num_components:
        continue
      logits = {
        split: truncated.logits(getattr(experiment, split).images, kept)
        for split in ("train", "test")
      }
      scores = runs.Rows(score_logits(seed, logits))
      if lost:
        found = scores.where("accuracy", subset="test").values[0]
        value = 1 - (best - found) / lost
        recovered = {"metric": "recovered", "value": value}
        scores.append({"subset": "test"} | recovered)
      rows += runs.tagged(scores, kept=kept)
    place = {"layer": layer, "layer_index": network.layer_names.index(layer)}
    columns = {"seed": seed.number, "epoch": last} | place
    yield Step(runs.tagged(rows, **columns), facts={"layer": layer})

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Finding]:
    """Tests whether some truncation restores most of what was lost."""
    del config
    shares = [
      (found.mean()[0], kept, index)
      for kept, of_kept in rows.where("recovered").split("kept").items()
      for index, found in of_kept.split("layer_index").items()
    ]
    if not shares:  # Nothing was lost.
      return []
    share, kept, index = max(shares)
    at = {"layer_index": index, "kept": kept}
    accuracy = {
      subset: rows.where("accuracy", subset=subset, **at).mean()[0]
      for subset in ("test", "permuted")
      if rows.where("accuracy", subset=subset, **at)
    }
    numbers = ", ".join(f"{s} accuracy {v:.3f}" for s, v in accuracy.items())
    return [
      Finding(
        "Truncation (the memory is in the tail)",
        share >= ENOUGH,
        f"of the test accuracy that was lost at most {share:.0%} come back, by"
        f" keeping {kept} components of {rows.layers[index]} ({numbers});"
        f" {ENOUGH:.0%} was expected",
      )
    ]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists test accuracy by layer and components kept."""
    found = rows.where("accuracy", subset="test")
    found = found.where(kept=tuple(found.distinct("kept")))
    lines = [f"{'test accuracy':16}"]
    lines[0] += "".join(f"{kept:>8}" for kept in found.split("kept"))
    for index, layer in found.layers.items():
      means = found.where(layer_index=index).series("kept").mean
      lines.append(f"{layer:16}" + "".join(f"{m:8.3f}" for m in means))
    return "\n".join(lines)


class _Truncated:
  """A network of which one layer keeps some principal components.

  With c the mean and V the components of the layer's activations a on training
  images, the layers above see c + V_d V_dᵀ (a − c).
  """

  def __init__(self, experiment, state: dict[str, Any], layer: str):
    self._experiment = experiment
    self._state = state
    self._head, self._tail = _compiled(experiment.network, layer)
    images = experiment.train.images
    few = np.linspace(0, len(images), min(len(images), _MAX_IMAGES), False)
    chosen = images[few.astype(int)]
    activations = np.concatenate(
      [
        parallel.fetch(self._activate(block))[:count].reshape(count, -1)
        for count, block in training.padded_blocks(chosen)
      ]
    )
    self._center = activations.mean(axis=0)
    _, s, V = np.linalg.svd(activations - self._center, full_matrices=False)
    # Beyond, there is nothing but rounding.
    self.num_components = int((s > 1e-6 * s[0]).sum())
    self._components = V[: self.num_components]

  def _activate(self, block) -> Float[Array, "n ..."]:
    moments = self._experiment.mean, self._experiment.std
    return self._head(self._state, block, *moments)

  def logits(self, images, kept: int) -> Float[Array, "n classes"]:
    """Computes the logits of all images with the first components kept."""
    V = np.zeros_like(self._components)
    V[:kept] = self._components[:kept]
    found = []
    for count, block in training.padded_blocks(images):
      a = self._activate(block)
      logits = self._tail(self._state, a, self._center, V)
      found.append(parallel.gather(logits)[:count])
    return jnp.concatenate(found)


@functools.cache
def _compiled(network: models.Network, layer: str):
  """Compiles the layers up to one, and those above it on what is kept."""
  index = network.layer_names.index(layer)

  def run(names, state, x):
    for name in names:
      x, _ = network.apply_layer(name, state.get(name, {}), x)
    return x

  def head(state, images, mean, std):
    x = data.normalize(images, mean, std)
    return run(network.layer_names[1 : index + 1], state, x)

  def tail(state, a, center, V):
    flat = a.reshape(len(a), -1).astype(jnp.float32) - center[None]
    x = center[None] + matmul(matmul(flat, V.T), V)
    x = x.reshape(a.shape).astype(a.dtype)
    logits = run(network.layer_names[index + 1 :], state, x)
    return logits.astype(jnp.float32)

  return jax.jit(head), jax.jit(tail)
