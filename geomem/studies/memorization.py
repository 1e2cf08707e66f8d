r"""Where and when does a network memorize? Figures 2 and 3 of the paper.

Trains on partly permuted labels, then measures the capacity, radius and
dimension of the classes in every layer at every saved epoch, for four subsets:
unpermuted, permuted, restored (the permuted examples with their true labels)
and test examples. The best epochs of all seeds are measured first, then the
last ones; --measure_epochs=best,last measures only these, as in figure 3.

  python -m experiments memorization --out=runs/demo

takes about 80 seconds on two cores: a small convolutional network on
scikit-learn's digits, half of the labels permuted. For the paper's network:

  python -m experiments memorization --out=runs/vgg16 --preset=paper_vgg16

Repeat a command to resume an interrupted run. Several values of
--permuted_fraction, --model or --width make a sweep:

  python -m experiments memorization --out=runs/noise \
    --permuted_fraction=0,0.25,0.5,0.75,1 --manifold_points=20

Source: Stephenson et al., ICLR 2021, figures 2 and 3.
"""

import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from geomem import geometry, plots, runs
from geomem.studies.config import ExperimentConfig
from geomem.studies.experiment import (
  keep_labels,
  num_features,
  prepare,
  prepare_seeds,
)
from geomem.studies.finding import doubts
from geomem.studies.measure import check_room, geometry_stage
from geomem.studies.measure_config import (
  SavedEpochs,
  measured_layers,
  places_to_measure,
)
from geomem.studies.memorization_findings import EPOCHS, METRICS, find
from geomem.studies.study import Stage, Unit, at_once
from geomem.studies.train import lost_rows, train_seeds
from geomem.studies.trained import checkpoints

_LOG = logging.getLogger(__name__)


def differing_ranks(rows: runs.Rows) -> list[str]:
  """Says where the table compares capacities with different K, if anywhere."""
  removed = rows.where("rank")
  if not removed:
    return []
  ((index, layer),) = removed.last_hidden().layers.items()
  ranks = {
    which: of_epoch.values
    for which in EPOCHS
    if (of_epoch := rows.at(which).where("rank", layer_index=index).known())
  }
  found = {value for values in ranks.values() for value in values}
  if len(found) < 2:
    return []
  named = ", ".join(f"{_range(v)} at the {which}" for which, v in ranks.items())
  return [
    "Capacities with different numbers K of shared directions removed are not"
    f" comparable in detail; in the layer {layer} K is {named} epoch."
    f" `python -m experiments measure --run=DIR --centers={max(found):.0f}`"
    " removes the same number everywhere."
  ]


def _range(values) -> str:
  """Formats the values over seeds, which may differ, as 5 or 3-8."""
  return "-".join(f"{x:.0f}" for x in sorted({min(values), max(values)}))


def _largest_share(labels: np.ndarray) -> float:
  """Returns the accuracy of giving all examples their most frequent label."""
  return float(np.bincount(labels).max() / len(labels))


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
    self.origin = {"data": self.experiment.fingerprint}

  def as_dict(self) -> dict[str, Any]:
    """Returns the config as a run directory stores it."""
    return {"experiment": self.name} | self.config.as_dict()

  def stages(self, run: runs.Run) -> Iterator[Stage]:
    """Yields the stages that train, score and measure all seeds."""
    # Not before: what is complete can be read with less room.
    check_room(self.experiment, self.seeds, self.config.measure)
    for seed in self.seeds:
      keep_labels(run.path, seed)

    def load(seed: int, epoch: int):
      with checkpoints(run.path, seed) as saved:
        return saved.load(epoch, self.experiment.network.abstract_state)

    first, last = self.seeds[0].number, self.seeds[-1].number
    named = f"seed {first}" if first == last else f"seeds {first} to {last}"
    unit = Unit(
      {"stage": "training"},
      lambda: train_seeds(run, self.experiment, self.seeds),
      self.config.training.epochs,
    )
    yield Stage(f"training, {named}", [unit])
    yield lost_rows(run, self.experiment, self.seeds, load)
    facts = [
      at_once(
        {"stage": "facts", "seed": seed.number},
        lambda seed=seed: self._facts_of(run.rows, seed),
      )
      for seed in self.seeds
    ]
    yield Stage("", facts)
    rows = run.rows
    best, last = (rows.epochs(which) for which in EPOCHS)
    # The saved epochs are those with scores.
    epochs = {
      seed: SavedEpochs(sorted(of.distinct("epoch")), best[seed], last[seed])
      for seed, of in rows.where("accuracy").split("seed").items()
    }
    measure = self.config.measure
    if not places_to_measure(measure.measure_epochs, epochs):
      there = sorted({epoch for of in epochs.values() for epoch in of.saved})
      _LOG.warning(
        "No geometry is measured: measure_epochs is %s, and the networks are of"
        " epochs %s. The command `measure` measures some of these.",
        measure.measure_epochs,
        ", ".join(map(str, there)),
      )
    yield geometry_stage(self.experiment, self.seeds, epochs, load, measure)

  def _facts_of(self, scored: runs.Rows, seed) -> list[runs.Row]:
    scores = scored.where("accuracy", seed=seed.number, subset="test")
    test = {
      row["epoch"]: value
      for row, value in zip(scores, scores.values, strict=True)
    }
    points = next(iter(seed.manifolds.values())).shape[1]
    kappa = self.config.measure.kappa
    both = seed.labels.labels, self.experiment.test.labels
    facts = {
      # Accuracies that are NaN are no best ones; of equal ones it is the first.
      "best_epoch": max(test, key=lambda e: (test[e] == test[e], test[e], -e)),
      "last_epoch": max(test),
      "manifold_points": points,
      "chance_capacity": float(geometry.simplex_capacity(points, kappa)),
      "chance_accuracy": 1 / self.experiment.num_classes,
      "majority_accuracy": max(map(_largest_share, both)),
      "unchanged_labels": seed.labels.num_unchanged,
      "num_permuted": int(seed.labels.permuted.sum()),
      "num_unpermuted": int((~seed.labels.permuted).sum()),
      "num_parameters": self.experiment.network.num_parameters,
    }
    network, measure = self.experiment.network, self.config.measure
    names, sizes = network.layer_names, num_features(network)
    rows = [{"metric": name, "value": value} for name, value in facts.items()]
    rows += [
      {"layer": name, "layer_index": names.index(name)}
      | {"metric": "num_features", "value": sizes[name]}
      for name in measured_layers(measure.layers, names)
    ]
    return runs.tagged(rows, seed=seed.number)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Tests F3.1 to F3.5, if their subsets and layers were measured."""
    measured = set(rows.where("capacity").subsets)
    chosen = config.get("measure") or {}
    has_all = {"permuted", "restored", "test"} <= measured
    found = find(rows) if has_all and not chosen.get("layers") else []
    is_default = chosen.get("centers", "low_rank") == "low_rank"
    unlike = differing_ranks(rows) if is_default else []
    return [*doubts(rows), *found, *unlike]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Returns accuracy and last-hidden-layer geometry by subset."""
    if not rows.where("capacity"):
      return ""
    deepest = rows.where("capacity").last_hidden()
    (layer,) = deepest.layers.values()
    lines = [
      f"{'':12}{'epoch':>6}{'accuracy':>10}{'capacity':>10}"
      f"{'radius':>8}{'dimension':>11}{'K':>6}   (layer {layer})"
    ]
    for which in ("best", "last"):
      epoch = _range(rows.epochs(which).values())
      at_epoch = rows.at(which)
      for subset in deepest.subsets:
        scores = at_epoch.where("accuracy", subset=subset)
        of_layer = at_epoch.where(subset=subset, layer=layer)
        line = f"{subset:12}{epoch:>6}{scores.mean(rows.seeds)[0]:10.3f}"
        if of_layer.where("capacity"):
          capacity, radius, dimension = (
            of_layer.where(metric).mean(rows.seeds)[0] for metric in METRICS
          )
          line += f"{capacity:10.4f}{radius:8.3f}{dimension:11.2f}"
          if ranks := of_layer.where("rank").known():
            line += f"{_range(ranks.values):>6}"
        else:
          line += "   was not measured"
        lines.append(line)
    return "\n".join(lines)
