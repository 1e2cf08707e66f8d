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
from geomem.studies.experiment import (
  Seed,
  manifold_images,
  measuring_forward,
)
from geomem.studies.fields import check_least, check_types
from geomem.studies.measure_config import measured_layers
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.trained import OfRun, TrainedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
  """What is compared.

  Attributes:
    other: another finished run; the last network of its first seed is compared
      with each of this run's last networks.
    subset: the subset whose images the networks see.
    num_images: the largest number of images to use.
    unbiased: whether to leave the diagonals out of CKA.
    layers: comma-separated names, or `last` (hidden); all by default.
  """

  other: str | None = None
  subset: str = "test"
  num_images: int = 500
  unbiased: bool = True
  layers: str | None = None

  def __post_init__(self):
    check_types(self)
    check_least(self, {"num_images": 4})


def _matrix(rows: runs.Rows, row: str, column: str) -> tuple[list, list, Any]:
  """Averages over seeds; returns the values of both axes and the matrix.

  Layers are in the order of the network, epochs ascend; where seeds have other
  epochs, the average is over those that have a cell.
  """
  vertical, horizontal = (
    sorted(values) if name.endswith("epoch") else values
    for name, values in ((n, rows.distinct(n)) for n in (row, column))
  )
  means = {
    (a, b): cell.mean()[0]
    for a, of_a in rows.split(row).items()
    for b, cell in of_a.split(column).items()
  }
  matrix = [[means.get((a, b), np.nan) for b in horizontal] for a in vertical]
  return vertical, horizontal, np.asarray(matrix, float)


def plot_similarity(rows: runs.Rows):
  """Draws CKA between layers, epochs of the last hidden layer, and two runs."""
  cka = rows.where("cka")
  panels = []
  for which in ("best", "last"):
    selected = rows.at(which).where("cka", kind="layers")
    panels.append((f"layers, {which} epoch", selected, "layer", "other_layer"))
  epochs = cka.where(kind="epochs").last_hidden()
  for layer in epochs.layers.values():
    panels.append((f"epochs, {layer}", epochs, "epoch", "other_epoch"))
  runs_two = cka.where(kind="runs")
  panels.append(
    ("this run against the other", runs_two, "layer", "other_layer")
  )
  panels = [panel for panel in panels if panel[1]]
  figure = style.new_figure(3.6 * len(panels), 3.6)
  axes = np.atleast_1d(figure.subplots(1, len(panels)))
  for (title, selected, row, column), ax in zip(panels, axes, strict=True):
    vertical, horizontal, matrix = _matrix(selected, row, column)
    image = ax.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ax.set_title(title)
    ax.set_yticks(range(len(vertical)), vertical, fontsize=6)
    ax.set_xticks(range(len(horizontal)), horizontal, fontsize=6, rotation=90)
  figure.colorbar(image, ax=axes, label="linear CKA", shrink=0.8)
  return figure


class Similarity(OfRun):
  """The similarity study: linear CKA between the layers of saved networks."""

  name = "similarity"
  figures: ClassVar = {"similarity": plot_similarity}

  def __init__(self, config: SimilarityConfig, trained: TrainedRun):
    """Validates the config, and opens the other run.

    Raises:
      ValueError: a layer or subset does not exist, the other run's images have
        another shape, or the kernels do not fit in memory.
      RunError: `other` is not a finished run.
    """
    super().__init__(config, trained)
    names = trained.experiment.network.layer_names
    self.layers = measured_layers(config.layers, names)
    known = list(trained.seeds[0].manifolds)
    if config.subset not in known:
      raise ValueError(
        f"{config.subset!r} is no subset; choose from {', '.join(known)}."
      )
    self.other = TrainedRun(config.other) if config.other else None
    if self.other:
      trained_runs = trained, self.other
      shapes = [run.experiment.network.image_shape for run in trained_runs]
      if shapes[0] != shapes[1]:
        raise ValueError(
          f"The images of {trained.path} have the shape {shapes[0]}, those of"
          f" {config.other} {shapes[1]}; one shape was expected."
        )
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
    epochs = max(map(len, self.epochs.values()))
    needed = 4 * epochs * len(self.layers) * self.config.num_images**2
    if needed > most_held_bytes():
      raise ValueError(
        f"The kernels of {len(self.layers)} layers at {epochs} epochs take"
        f" {needed / 1e9:.1f} GB for {self.config.num_images} images, more than"
        " there is room for: lower --num_images, or name fewer --layers."
      )

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Compares every seed's networks, one unit per seed."""
    del run
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
    per_manifold = max(1, self.config.num_images // images.shape[0])
    return images[:, :per_manifold].reshape(-1, *images.shape[2:])[
      : self.config.num_images
    ]

  def _kernels(
    self, trained: TrainedRun, seed: int, epoch: int, images, layers
  ) -> Float[np.ndarray, "layers n2"]:
    """Computes centred kernels of unit norm; NaN for a dead layer."""
    forward = measuring_forward(trained.experiment)
    statistics = measures.layer_statistics(
      forward,
      trained.state(seed, epoch),
      {self.config.subset: images[None]},
      layers,
      kinds=("points",),
    )
    kernels = []
    for _, stats in statistics:
      products = jax.tree.map(lambda x: x[0], stats["points"])
      kernel = similarity.centered_kernel(
        products, unbiased=self.config.unbiased
      )
      kernels.append(parallel.fetch(kernel).reshape(-1))
    return np.stack(kernels)

  def _work(self, seed: Seed) -> Iterator[Step]:
    images, names = self._images(seed), list(self.layers)
    index_of = self.trained.experiment.network.layer_names.index
    epochs = self.epochs[seed.number]
    kernels = []
    for epoch in epochs:
      kernels.append(
        self._kernels(self.trained, seed.number, epoch, images, names)
      )
      yield Step(facts={"epoch": epoch})
    common = {"metric": "cka", "stderr": None, "seed": seed.number}
    common["subset"] = self.config.subset

    def rows_of(kind, first, second, a, b):
      """Makes one row per pair; `first` and `second` are lists of columns."""
      values = np.asarray(matmul(jnp.asarray(a), jnp.asarray(b).T))
      return [
        common | {"kind": kind} | x | y | {"value": float(values[i, j])}
        for i, x in enumerate(first)
        for j, y in enumerate(second)
      ]

    layer_columns = [{"layer": n, "layer_index": index_of(n)} for n in names]
    rows = []
    for epoch, kernel in zip(epochs, kernels, strict=True):
      first = [{"epoch": epoch} | columns for columns in layer_columns]
      rows += rows_of(
        "layers", first, [{"other_layer": n} for n in names], kernel, kernel
      )
    for i, columns in enumerate(layer_columns):
      stack = np.stack([kernel[i] for kernel in kernels])
      first = [columns | {"epoch": epoch} for epoch in epochs]
      second = [{"other_epoch": epoch} for epoch in epochs]
      rows += rows_of("epochs", first, second, stack, stack)
    if self.other:
      network = self.other.experiment.network
      theirs = list(measured_layers(None, network.layer_names))
      number = self.other.seeds[0].number
      last = self.other.last(number)
      kernel = self._kernels(self.other, number, last, images, theirs)
      first = [{"epoch": epochs[-1]} | columns for columns in layer_columns]
      rows += rows_of(
        "runs", first, [{"other_layer": n} for n in theirs], kernels[-1], kernel
      )
    yield Step(rows)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Returns no findings: there is no threshold to test similarity against."""
    del config, rows
    return []

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists each layer's similarity between the best and the last epoch."""
    epochs = rows.where("cka", kind="epochs")
    best, last = (rows.epochs(which) for which in ("best", "last"))
    lines = [f"{'CKA, best against last epoch':30}"]
    for index, layer in epochs.layers.items():
      of_layer = epochs.where(layer_index=index)
      values = np.concatenate(
        [
          of_seed.where(epoch=best[seed], other_epoch=last[seed]).values
          for seed, of_seed in of_layer.split("seed").items()
        ]
      )
      if len(values):
        lines.append(f"  {layer:28}{values.mean():8.3f}")
    return "\n".join(lines)
