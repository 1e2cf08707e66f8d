"""The memorization study: train, score the subsets, measure the layers."""

import pathlib
from collections.abc import Iterator
from typing import Any

from geomem import geometry, plots, runs
from geomem.studies.config import ExperimentConfig
from geomem.studies.doubts import doubts
from geomem.studies.experiment import keep_labels, prepare, prepare_seeds
from geomem.studies.losses import lost_losses
from geomem.studies.measured_epochs import SavedEpochs
from geomem.studies.measuring import geometry_stage
from geomem.studies.memorization_findings import find
from geomem.studies.study import Stage, Step, Unit
from geomem.studies.train import (
  score_subsets,
  scores_key,
  train_seeds,
)
from geomem.studies.trained import checkpoints


class Memorization:
  """Training on partly wrong labels, and the geometry of every layer.

  It reproduces figures 2 and 3 of the paper.
  """

  name = "memorization"
  figures = plots.MEMORIZATION
  directory = pathlib.Path("runs/memorization")

  def __init__(self, config: ExperimentConfig):
    """Loads the data, builds the network, and checks the config.

    Raises:
      ValueError: the config is not feasible.
    """
    self.config = config
    self.experiment = prepare(config)
    self.seeds = prepare_seeds(self.experiment)
    self.origin = self.experiment.origin

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as a run directory stores it."""
    return {"experiment": self.name} | self.config.as_dict()

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields the stages that train, score and measure all seeds."""
    for seed in self.seeds:
      keep_labels(run.path, seed)
    yield self._training(run)
    for seed in self.seeds:
      yield self._scores(run, seed)
    yield lost_losses(run, self.experiment)
    yield self._facts(run)
    yield geometry_stage(
      self.experiment,
      self.seeds,
      _epochs_of(run.rows),
      lambda seed, epoch: self._load(run, seed, epoch),
      self.config.measure,
    )

  def _training(self, run) -> Stage:
    """Returns the stage that trains all seeds together."""
    first, last = self.seeds[0].number, self.seeds[-1].number
    which = f"seed {first}" if first == last else f"seeds {first} to {last}"
    epochs = self.config.training.epochs
    unit = Unit(
      {"stage": "training"},
      lambda: train_seeds(run, self.experiment, self.seeds),
      epochs,
    )
    return Stage(f"training, {which}", [unit])

  def _scores(self, run, seed) -> Stage:
    """Returns the stage that recomputes committed scores that were lost."""

    def work(epoch):
      state = self._load(run, seed.number, epoch)
      rows = score_subsets(self.experiment, seed, state)
      yield Step(runs.tagged(rows, seed=seed.number, epoch=epoch))

    with checkpoints(run.path, seed.number) as saved:
      epochs = saved.epochs
    units = [
      Unit(scores_key(seed.number, epoch), lambda epoch=epoch: work(epoch))
      for epoch in epochs
    ]
    lost = [unit for unit in units if not run.has(unit.key)]
    return Stage("", lost)

  def _facts(self, run) -> Stage:
    """Returns the stage with the facts that figures and findings need."""
    units = [
      Unit(
        {"stage": "facts", "seed": seed.number},
        lambda seed=seed: iter([Step(self._facts_of(run.rows, seed))]),
      )
      for seed in self.seeds
    ]
    return Stage("", units)

  def _facts_of(self, rows: runs.Rows, seed) -> list[runs.Row]:
    test = {
      row["epoch"]: row["value"]
      for row in rows.where("accuracy", seed=seed.number, subset="test")
    }
    points = next(iter(seed.manifolds.values())).shape[1]
    kappa = self.config.measure.kappa
    facts = {
      "best_epoch": max(test, key=test.get),
      "last_epoch": max(test),
      "manifold_points": points,
      "chance_capacity": float(geometry.simplex_capacity(points, kappa)),
      "chance_accuracy": 1 / self.experiment.num_classes,
      "unchanged_labels": seed.labels.num_unchanged,
      "num_permuted": int(seed.labels.permuted.sum()),
      "num_unpermuted": int((~seed.labels.permuted).sum()),
      "num_parameters": self.experiment.network.num_parameters,
    }
    return [
      {"seed": seed.number, "metric": metric, "value": value}
      for metric, value in facts.items()
    ]

  def _load(self, run, seed: int, epoch: int):
    like = self.experiment.network.abstract_state
    with checkpoints(run.path, seed) as saved:
      return saved.load(epoch, like)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Tests F3.1 to F3.5, if their subsets and layers were measured."""
    measured = set(rows.where("capacity").subsets)
    layers = (config.get("measure") or {}).get("layers")
    if layers or not {"permuted", "restored", "test"} <= measured:
      return doubts(rows)
    numbers = rows.where(("capacity", "radius", "dimension"))
    if len(numbers.known()) < len(numbers):
      missing = "The findings are not judged: numbers are missing."
      return [*doubts(rows), missing]
    return [*doubts(rows), *find(rows)]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns accuracy and last-hidden-layer geometry by subset."""
    if not rows.where("capacity"):
      return ""
    deepest = rows.where("capacity").last_hidden()
    (layer,) = deepest.layers.values()
    lines = [
      f"{'':12}{'epoch':>6}{'accuracy':>10}{'capacity':>10}"
      f"{'radius':>8}{'dimension':>11}   (layer {layer})"
    ]
    for which in ("best", "last"):
      epochs = rows.epochs(which).values()
      # Seeds may differ in their best epoch.
      epoch = "-".join(map(str, sorted({min(epochs), max(epochs)})))
      at_epoch = rows.at(which)
      for subset in deepest.subsets:
        scores = at_epoch.where("accuracy", subset=subset)
        of_layer = at_epoch.where(subset=subset, layer=layer)
        line = f"{subset:12}{epoch:>6}{scores.mean()[0]:10.3f}"
        if of_layer.where("capacity"):
          capacity, radius, dimension = (
            of_layer.where(metric).mean()[0]
            for metric in ("capacity", "radius", "dimension")
          )
          line += f"{capacity:10.4f}{radius:8.3f}{dimension:11.2f}"
        else:
          line += "   was not measured"
        lines.append(line)
    return "\n".join(lines)


def _epochs_of(rows: runs.Rows) -> dict[int, SavedEpochs]:
  """Returns the saved epochs of each seed: those with scores."""
  best, last = rows.epochs("best"), rows.epochs("last")
  return {
    seed: SavedEpochs(sorted(of.distinct("epoch")), best[seed], last[seed])
    for seed, of in rows.where("accuracy").split("seed").items()
  }
