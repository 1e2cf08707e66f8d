"""The readout compared with the representation: prediction depth, NC3, NC4.

An example's prediction depth is the first layer from which the vote of its
nearest neighbours agrees with the network's decision in every layer: deep
examples are decided late. With W the weights of the readout, and C̃ the means of
the manifolds in the last hidden layer about their mean,

  NC3 = ‖W/‖W‖ − C̃/‖C̃‖‖,  NC4 = fraction of decisions for the nearest mean.

Sources: Baldock, Maennel and Neyshabur, NeurIPS 2021 (k = 30; here at most
M − 1); Papyan, Han and Donoho, PNAS 2020.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geomem import measures, models, parallel, runs
from geomem.geometry.linalg import einsum, matmul
from geomem.measures.neighbors import vote_of_neighbors
from geomem.plots import figures, style
from geomem.studies.experiment import Seed, manifold_images, measuring_forward
from geomem.studies.fields import Fields
from geomem.studies.finding import Finding, apart, with_error
from geomem.studies.measure_config import measured_layers
from geomem.studies.study import Stage, Step
from geomem.studies.trained import OfRun, TrainedRun

_LABELS = {
  "prediction_depth": "prediction depth, layers",
  "nc3": "NC3, readout off the means",
  "nc4": "NC4, decides by nearest mean",
}
# Relative to the largest logit. Rounding stays below it, even in bfloat16.
_AFFINE = 0.03
_vote = jax.jit(vote_of_neighbors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadoutConfig(Fields):
  """What is measured at every saved epoch.

  Attributes:
    layers: comma-separated layers whose neighbours vote, and of which the
      prediction depth is the number; all by default.
  """

  layers: str | None = None


@style.in_style
def plot_readout(rows: runs.Rows):
  """Draws prediction depth, NC3 and NC4 by epoch and subset."""
  present = [name for name in _LABELS if rows.where(name).known()]
  if not present:
    return None
  count = len(present)
  figure, (axes,) = style.new_axes(3.4 * count, 3, 1, count)
  for name, ax in zip(present, axes, strict=True):
    measured = rows.where(name)
    style.draw_subsets(ax, measured, "epoch")
    figures.epoch_axis(ax, max(measured.distinct("epoch")))
    ax.set_ylabel(_LABELS[name])
  style.explain(figure, axes, ncols=4)
  return figure


class Readout(OfRun):
  """The readout study: decisions compared with the layers, epoch by epoch."""

  name = "readout"
  figures: ClassVar = {"readout": plot_readout}

  def __init__(self, config: ReadoutConfig, trained: TrainedRun):
    """Checks the names of the layers.

    Raises:
      ValueError: a layer does not exist.
    """
    super().__init__(config, trained)
    self.names = trained.experiment.network.layer_names
    self.layers = measured_layers(config.layers, self.names)
    self.epochs = self.saved_epochs()

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Measures every seed at every saved epoch."""
    yield self.facts_stage()
    for seed in self.trained.seeds:
      epochs, size = self.epochs[seed.number], len(self.layers)
      yield self.stage_of(seed, "readout", self._work, size, epoch=epochs)

  def _work(self, seed: Seed, epoch: int) -> Iterator[Step]:
    experiment = self.trained.experiment
    images = manifold_images(experiment, seed)
    state = self.trained.state(seed.number, epoch)
    outputs = {
      subset: self._outputs(state, of_subset)
      for subset, of_subset in images.items()
    }
    depths = {s: np.zeros(len(decided)) for s, (_, decided) in outputs.items()}
    results = measures.layer_statistics(
      measuring_forward(experiment),
      state,
      images,
      self.layers,
      kinds=("points",),
    )
    for index, (layer, stats) in enumerate(results):
      for i, subset in enumerate(images):
        products = jax.tree.map(lambda x, i=i: x[i], stats["points"])
        votes = parallel.fetch(_vote(products)[0])
        # The depth is one past the last layer whose vote disagrees. Where that
        # layer may be one without votes, it is unknown.
        depth = np.where(votes < 0, np.nan, index + 1)
        agrees = votes == outputs[subset][1]
        depths[subset] = np.where(agrees, depths[subset], depth)
      yield Step(facts={"epoch": epoch, "layer": layer})
    rows = []
    for subset, of_subset in depths.items():
      error = of_subset.std(ddof=1) / np.sqrt(len(of_subset))
      values = {"prediction_depth": (of_subset.mean(), error)}
      values |= self._collapse(state, *outputs[subset])
      rows += [
        {"subset": subset, "metric": metric, "value": value, "stderr": stderr}
        for metric, (value, stderr) in values.items()
      ]
    yield Step(runs.tagged(rows, seed=seed.number, epoch=epoch), size=0)

  def _outputs(self, state, images) -> tuple[Array, np.ndarray]:
    """Returns `[P, M, ...]` points of the last hidden layer, and decisions."""
    forward = measuring_forward(self.trained.experiment)
    flat = images.reshape(-1, *images.shape[2:])
    image = jax.ShapeDtypeStruct((1, *flat.shape[1:]), flat.dtype)
    shapes = jax.eval_shape(forward, state, image)
    arrays = []
    for name, values in measures.layer_blocks(
      forward, state, flat, self.names[-2:]
    ):
      shape = shapes[name].shape[1:]
      # Cuts off the zero padding of the features.
      values = parallel.fetch(values)[:, : int(np.prod(shape))]
      if not np.isfinite(values).all():
        raise ValueError(
          f"The activations of layer {name} are not finite, so that there is no"
          " decision; look for an epoch before they overflow."
        )
      arrays.append(values.reshape(*images.shape[:2], *shape))
    points, logits = arrays
    return jnp.asarray(points), logits.argmax(axis=-1).reshape(-1)

  def _collapse(self, state, points, decisions) -> dict[str, Any]:
    """Computes NC3 and NC4 of a subset, with standard errors where known.

    In a dead layer all means coincide, and both are NaN.
    """
    count, network = len(decisions), self.trained.experiment.network
    flat = points.reshape(count, *points.shape[2:])
    W = _readout_weights(network, state, flat)
    points = points.reshape(*points.shape[:2], -1)
    # Means of equal points differ by their rounding.
    eps = jnp.finfo(points.dtype).eps
    floor = (8 * eps) ** 2 * (points**2).sum(axis=-1).max()
    points = points - points.mean(axis=(0, 1), keepdims=True)
    means = points.mean(axis=1)
    squares = (means**2).sum(axis=1)
    distances = squares[None, None] - 2 * einsum("pmn,qn->pmq", points, means)
    nearest = np.asarray(distances.argmin(axis=-1)).reshape(-1)
    agreed = (nearest == decisions).mean()
    metrics = {"nc4": (agreed, runs.error_of_share(agreed, count))}
    if W is not None:
      centered = means - means.mean(axis=0, keepdims=True)
      unit = [x / jnp.linalg.norm(x) for x in (W, centered)]
      metrics["nc3"] = (float(jnp.linalg.norm(unit[0] - unit[1])), None)
    if not bool(squares.max() > floor):
      return dict.fromkeys(metrics, (math.nan, None))
    return metrics

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Finding]:
    """Tests whether permuted examples are decided later than unpermuted."""
    name = "Prediction depth (wrong labels are decided late)"
    last = rows.at("last").where("prediction_depth")
    if not {"unpermuted", "permuted"} <= set(last.subsets):
      return []
    right, wrong = (
      last.where(subset=subset).mean(rows.seeds)
      for subset in ("unpermuted", "permuted")
    )
    if not np.isfinite([right[0], wrong[0]]).all():
      nothing = (
        "a depth at the last epoch is unknown: in a layer, points coincide or"
        " are lost in rounding, or a manifold has one point, so that votes are"
        " unknown"
      )
      return [Finding(name, None, nothing)]
    holds, caveat = wrong[0] > right[0], ""
    if not apart(wrong, right):
      holds, caveat = None, ": which is later cannot be known within two errors"
    counted = " of the chosen ones" if config.get("layers") else ""
    sentence = (
      "at the last epoch permuted examples are decided at layer"
      f" {with_error(*wrong, '.1f')} on average, unpermuted ones at"
      f" {with_error(*right, '.1f')}{counted}{caveat}"
    )
    return [Finding(name, holds, sentence)]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists the metrics by subset, at the best and the last epoch."""
    subsets = rows.where("prediction_depth").subsets
    lines = [f"{'':20}" + "".join(f"{subset:>12}" for subset in subsets)]
    for which in ("best", "last"):
      at_epoch = rows.at(which)
      lines.append(f"{which} epoch")
      for metric in _LABELS:
        measured = at_epoch.where(metric)
        if measured:
          means = [
            measured.where(subset=s).mean(rows.seeds)[0] for s in subsets
          ]
          lines.append(
            f"  {metric:18}" + "".join(f"{value:12.3f}" for value in means)
          )
    return "\n".join(lines)


def _readout_weights(
  network: models.Network, state: dict[str, Any], h: Float[Array, "n ..."]
) -> Float[Array, "classes features"] | None:
  """Returns W of a readout W h + b, or None if the readout is not affine."""
  name = network.layer_names[-1]

  def read(h):
    values, _ = network.apply_layer(name, state.get(name, {}), h)
    return values.astype(jnp.float32)

  zero = read(jnp.zeros_like(h[:1]))
  size = int(np.prod(h.shape[1:]))
  units = jnp.eye(size, dtype=h.dtype).reshape(size, *h.shape[1:])
  # The readout of a unit vector, minus b, is a column of W.
  W = (read(units) - zero).T
  expected = matmul(h.reshape(len(h), -1), W.T) + zero
  values = read(h)
  deviates = jnp.abs(values - expected).max() > _AFFINE * jnp.abs(values).max()
  return None if bool(deviates) else W
