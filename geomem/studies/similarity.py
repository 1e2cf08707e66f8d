"""Similarity of layers, epochs and networks: linear CKA on the same images.

For a finished run, this compares the layers of one network with each other, a
layer with itself at other epochs, and the layers of two runs at their last
epochs.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from geomem import measures, parallel, runs
from geomem.geometry import similarity
from geomem.geometry.linalg import matmul
from geomem.measures.statistics import most_held_bytes
from geomem.plots import style
from geomem.studies.experiment import Seed, manifold_images, measuring_forward
from geomem.studies.fields import Fields
from geomem.studies.finding import grouped
from geomem.studies.measure_config import measured_layers
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import OfRun, TrainedRun

# Of fewer, the unbiased estimate of CKA is 0/0.
_LEAST_IMAGES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityConfig(Fields):
  """What is compared.

  Attributes:
    other: another finished run; the last network of its first seed is compared
      with each of this run's last networks.
    subset: the subset whose images the networks see.
    num_images: the largest number of images to use.
    unbiased: whether to leave the diagonals out of CKA.
    layers: comma-separated names, or `last` (hidden); all by default.
  """

  _least: ClassVar = {"num_images": _LEAST_IMAGES}
  other: str | None = None
  subset: str = "test"
  num_images: int = 500
  unbiased: bool = True
  layers: str | None = None


def _matrix(rows: runs.Rows, row: str, column: str) -> tuple[list, list, Any]:
  """Averages over seeds; returns the values of both axes and the matrix.

  Layers are in the order of the network, epochs ascend; where seeds have other
  epochs, the average is over those that have a cell.
  """
  vertical, horizontal = (
    sorted(rows.distinct(n)) if n.endswith("epoch") else rows.distinct(n)
    for n in (row, column)
  )
  cells = grouped(rows, row, column).items()
  means = {place: cell.mean()[0] for place, cell in cells}
  matrix = [[means.get((a, b), np.nan) for b in horizontal] for a in vertical]
  return vertical, horizontal, np.asarray(matrix, float)


@style.in_style
def plot_similarity(rows: runs.Rows):
  """Draws CKA between layers, epochs of the last hidden layer, and two runs."""
  cka = rows.where("cka")
  layers, epochs = ("layer", "other_layer"), ("epoch", "other_epoch")
  panels = [
    (f"layers, {w} epoch", rows.at(w).where("cka", kind="layers"), *layers)
    for w in ("best", "last")
  ]
  of_epochs = cka.where(kind="epochs")
  of_epochs = of_epochs.last_hidden() if of_epochs else of_epochs
  for layer in of_epochs.layers.values():
    panels.append((f"epochs, {layer}", of_epochs, *epochs))
  of_runs = cka.where(kind="runs")
  panels.append(("this run against the other", of_runs, *layers))
  panels = [panel for panel in panels if panel[1]]
  if not panels:
    return None
  figure = style.new_figure(3.6 * len(panels), 3.6)
  axes = np.atleast_1d(figure.subplots(1, len(panels)))
  for (title, selected, row, column), ax in zip(panels, axes, strict=True):
    vertical, horizontal, matrix = _matrix(selected, row, column)
    image = ax.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ax.set_title(title)
    style.layer_axis(ax, dict(enumerate(horizontal)), fontsize=6)
    ax.set_yticks(*style.some_of(dict(enumerate(vertical))), fontsize=6)
  figure.colorbar(image, ax=axes, label="linear CKA", shrink=0.8)
  return figure


class Similarity(OfRun):
  """The similarity study: linear CKA between the layers of saved networks."""

  name = "similarity"
  figures: ClassVar = {"similarity": plot_similarity}

  def __init__(self, config: SimilarityConfig, trained: TrainedRun):
    """Validates the config, and opens the other run.

    Raises:
      ValueError: a layer or subset does not exist, it has too few images, the
        other run's images have another shape, or the kernels do not fit in
        memory.
      RunError: `other` is not a finished run, or the last network of either is
        missing.
    """
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    self.layers = measured_layers(config.layers, names)
    known = list(trained.seeds[0].manifolds)
    if config.subset not in known:
      raise ValueError(
        f"{config.subset!r} is not a subset; choose from {', '.join(known)}."
      )
    number = trained.seeds[0].manifolds[config.subset].size
    if number < _LEAST_IMAGES:
      raise ValueError(
        f"The manifolds of {config.subset} hold {number} images, and CKA needs"
        f" {_LEAST_IMAGES}; take another subset, or a run measured with more"
        " --manifold_points."
      )
    self.other = None
    if config.other:
      self.other = TrainedRun(config.other, trained.data_dir)
      ours, theirs = (
        run.experiment.network.image_shape for run in (trained, self.other)
      )
      if ours != theirs:
        raise ValueError(
          f"The images of {trained.path} have the shape {ours}, those of"
          f" {config.other} {theirs}; one shape was expected."
        )
      trained.check_networks("last")
      self.other.check_networks("last", seeds=self.other.seeds[:1])
    self.epochs = self.saved_epochs()
    self._check_room()

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as stored in a run directory, with the other's id."""
    config = super().as_dict()
    if self.other:
      config["other_id"] = runs.parent_of(self.other.path).id
    return config

  def _check_room(self) -> None:
    """Raises if the kernels of a seed do not fit in memory."""
    experiment = self.trained.experiment
    there = experiment.num_classes * experiment.config.measure.manifold_points
    num_images = min(self.config.num_images, there)
    epochs = max(map(len, self.epochs.values()))
    kernels = epochs * len(self.layers)
    if self.other:
      kernels += len(self.other.experiment.network.layer_names)
    needed = 4 * kernels * num_images**2
    if needed > most_held_bytes():
      raise ValueError(
        f"The kernels of {len(self.layers)} layers at {epochs} epochs take"
        f" {needed / 1e9:.1f} GB for {num_images} images, more than"
        " there is room for: lower --num_images, or name fewer --layers."
      )

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Compares every seed's networks, one unit per seed."""
    yield self.facts_stage()
    units = [
      Unit(
        {"stage": "similarity", "seed": seed.number},
        lambda seed=seed: self._work(seed),
        len(self.epochs[seed.number]) + 1,
      )
      for seed in self.trained.seeds
    ]
    yield Stage("networks", units)

  def _images(self, seed: Seed) -> Any:
    """Returns `[n, ...]` images, spread evenly over the manifolds."""
    images = manifold_images(self.trained.experiment, seed)[self.config.subset]
    one_by_one = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])
    return one_by_one[: self.config.num_images]

  def _kernels(
    self, trained: TrainedRun, seed: int, epoch: int, images, layers
  ) -> Float[np.ndarray, "layers n2"]:
    """Computes centred kernels of unit norm; NaN for a dead layer."""
    kernels = []
    for _, stats in measures.layer_statistics(
      measuring_forward(trained.experiment),
      trained.state(seed, epoch),
      {self.config.subset: images[None]},
      layers,
      kinds=("points",),
    ):
      products = jax.tree.map(lambda x: x[0], stats["points"])
      kernel = similarity.centered_kernel(
        products, unbiased=self.config.unbiased
      )
      kernels.append(parallel.fetch(kernel).reshape(-1))
    return np.stack(kernels)

  def _work(self, seed: Seed) -> Iterator[Step]:
    images, place = self._images(seed), {"seed": seed.number}
    place |= {"subset": self.config.subset, "metric": "cka"}
    by_epoch = {}
    for epoch in self.epochs[seed.number]:
      by_epoch[epoch] = self._kernels(
        self.trained, seed.number, epoch, images, self.layers
      )
      yield Step(facts={"epoch": epoch})

    def rows_of(kind, first, second, a, b):
      """Makes one row per pair; `first` and `second` are lists of columns."""
      values = np.asarray(matmul(jnp.asarray(a), jnp.asarray(b).T))
      return [
        place | {"kind": kind} | x | y | {"value": float(values[i, j])}
        for i, x in enumerate(first)
        for j, y in enumerate(second)
      ]

    index_of = self.trained.experiment.network.layer_names.index
    layers = [{"layer": n, "layer_index": index_of(n)} for n in self.layers]
    others = [{"other_layer": name} for name in self.layers]
    rows = []
    for epoch, kernels in by_epoch.items():
      first = runs.tagged(layers, epoch=epoch)
      rows += rows_of("layers", first, others, kernels, kernels)
    for i, columns in enumerate(layers):
      kernels = np.stack([of_epoch[i] for of_epoch in by_epoch.values()])
      first = [columns | {"epoch": epoch} for epoch in by_epoch]
      second = [{"other_epoch": epoch} for epoch in by_epoch]
      rows += rows_of("epochs", first, second, kernels, kernels)
    if self.other:
      names = self.other.experiment.network.layer_names
      number = self.other.seeds[0].number
      last = self.other.last(number)
      theirs = self._kernels(self.other, number, last, images, names)
      epoch, ours = by_epoch.popitem()
      first = runs.tagged(layers, epoch=epoch)
      others = [{"other_layer": name} for name in names]
      rows += rows_of("runs", first, others, ours, theirs)
    yield Step(rows)

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists each layer's similarity between the best and the last epoch."""
    epochs = rows.where("cka", kind="epochs")
    best, last = (rows.epochs(which) for which in ("best", "last"))
    lines = [f"{'CKA, best against last epoch':30}"]
    for index, layer in epochs.layers.items():
      of_layer = epochs.where(layer_index=index)
      values = [
        of_layer.where(
          seed=seed, epoch=best[seed], other_epoch=last[seed]
        ).mean()[0]
        for seed in rows.seeds
      ]
      if not np.isnan(values).all():
        lines.append(f"  {layer:28}{np.mean(values):8.3f}")
    return "\n".join(lines)
