"""The memorization study: train, score the subsets, measure the layers.

Its findings F3.1 to F3.5 are the paper's, tested on the rows of a run.

Source: Stephenson et al., ICLR 2021, figure 3 and its text.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geomem import geometry, plots, runs
from geomem.studies.config import ExperimentConfig
from geomem.studies.experiment import keep_labels, prepare, prepare_seeds
from geomem.studies.finding import Finding, doubts, name_seeds, places
from geomem.studies.measure import geometry_stage
from geomem.studies.measure_config import SavedEpochs
from geomem.studies.study import Stage, Unit, at_once
from geomem.studies.train import lost_rows, train_seeds
from geomem.studies.trained import checkpoints

TOLERANCE = 0.25  # Relative, for values that are equal in the paper.
_EPOCHS = ("best", "last")
_METRICS = ("capacity", "radius", "dimension")
_CLAIMS = {
  "F3.1": "generalization comes first",
  "F3.2": "the last layers memorize",
  "F3.3": "the true labels of permuted examples are lost",
  "F3.4": "memorized manifolds shrink",
  "F3.5": "early layers stay general",
}
# If less of a centre is left without its shared directions, its manifold's
# capacity hangs on which of several directions went.
_LITTLE_LEFT = 0.05
# Whether a claim holds, and a sentence with its numbers.
_Judged = tuple[bool | None, str]


def find(rows: runs.Rows) -> list[Finding]:
  """Tests the five findings; each sentence contains its numbers.

  Values that are equal in the paper, such as a capacity and that of chance,
  must agree within `TOLERANCE`; the paper's own agree within 10 %. It has 50
  points of each of 100 classes: if manifolds have more points than there are
  classes, permuted and restored points fall together once memorized, and lie
  above chance. A finding is undecided if a number it needs is missing. Seeds
  whose best epoch is their last are left out of all findings but F3.1, as they
  would be compared with themselves.
  """
  changed, left_out = changed_seeds(rows)
  no_best = _lacks(rows, "best")
  undecided = "the best epoch of every seed is its last; train longer"
  if changed:
    undecided = _lacks(changed, "best") or _lacks(changed, "last")
  at_best, chance = by_layer(rows, "capacity", "best"), rows.chance_capacity()
  capacity, *sizes = (
    [by_layer(changed, metric, which) for which in _EPOCHS]
    for metric in _METRICS
  )
  early = 0 if undecided else len(capacity[0]["permuted"]) // 2
  no_half = "" if early else "of one hidden layer there is no first half"
  no_half = undecided or no_half

  def judge(name, nothing, test: Callable, *of) -> Finding:
    holds, sentence = (None, nothing) if nothing else test(*of)
    if left_out and name != "F3.1":
      sentence += f" (left out, as the best epoch is the last: {left_out})"
    return Finding(name, holds, sentence, _CLAIMS[name])

  return [
    judge(
      "F3.1",
      no_best,
      _permuted_at_chance,
      at_best,
      chance,
      lambda: removed_apart(rows, "best", ("restored", "test")),
    ),
    judge("F3.2", no_half, _permuted_rises_late, *capacity, early),
    judge("F3.3", undecided, _restored_falls, *capacity, chance),
    judge("F3.4", undecided, _permuted_shrinks, *sizes),
    judge("F3.5", no_half, _early_layers_stay, *capacity, early),
  ]


def changed_seeds(rows: runs.Rows) -> tuple[runs.Rows, str]:
  """Selects the seeds whose last epoch is not their best; names the others.

  The name is empty where there are no others, or only others.
  """
  best, last = (rows.epochs(which) for which in _EPOCHS)
  same = [seed for seed in rows.seeds if best[seed] == last[seed]]
  changed = runs.Rows(row for row in rows if row["seed"] not in same)
  return changed, name_seeds(same) if same and changed else ""


def incomplete(rows: runs.Rows, which: str) -> dict[int, str]:
  """Says what the best or last epoch of each seed lacks, for those that lack.

  Needed are the hidden layers, subsets and metrics that any epoch has.
  """
  hidden = tuple(rows.where(_METRICS).layers)[1:-1]
  numbers, at_epoch = (
    selected.where(_METRICS, layer_index=hidden)
    for selected in (rows, rows.at(which))
  )
  columns, lacking = ("layer_index", "subset", "metric"), {}
  for seed in rows.seeds:
    of_seed = at_epoch.where(seed=seed)
    if not of_seed:
      lacking[seed] = "was not measured in hidden layers"
    elif places(of_seed.known(), *columns) != places(numbers, *columns):
      lacking[seed] = "lacks numbers"
  return lacking


def _lacks(rows: runs.Rows, which: str) -> str:
  """Names the seeds that lack numbers of the best or last epoch, if any."""
  lacking = incomplete(rows, which)
  problems = {
    problem: name_seeds(s for s in lacking if lacking[s] == problem)
    for problem in lacking.values()
  }
  return ", and ".join(
    f"the {which} epoch of {seeds} {problem}"
    for problem, seeds in problems.items()
  )


def by_layer(rows: runs.Rows, metric: str, which: str) -> dict:
  """Averages a metric over seeds: `[hidden layers]` by subset.

  The input, which does not change, and the logits, the output, are left out.
  """
  at_epoch = rows.at(which).where(metric)
  return {
    subset: at_epoch.where(subset=subset).series("layer_index").mean[1:-1]
    for subset in at_epoch.subsets
  }


def removed_apart(
  rows: runs.Rows, which: str, subsets: tuple[str, str]
) -> np.ndarray:
  """Tells by hidden layer whether removed directions may set two subsets apart.

  They may where their number K differs, or where little of a centre is left.
  Runs that do not record this are taken to have the same removed.
  """
  at_epoch = rows.at(which).where(("capacity", "rank", "center_left"))

  def differ(of_layer: runs.Rows) -> bool:
    ranks, other = (
      {(r["seed"], r["value"]) for r in of_layer.where("rank", subset=subset)}
      for subset in subsets
    )
    left = of_layer.where("center_left", subset=subsets).known()
    return ranks != other or any(r["value"] < _LITTLE_LEFT for r in left)

  layers = list(at_epoch.split("layer_index").values())[1:-1]
  return np.array([differ(of_layer) for of_layer in layers], bool)


def differing_ranks(rows: runs.Rows) -> list[str]:
  """Says where the table compares capacities with different K, if anywhere."""
  of_epoch = {which: rows.at(which).where("rank").known() for which in _EPOCHS}
  ranks = {
    which: of.last_hidden().values for which, of in of_epoch.items() if of
  }
  found = {value for values in ranks.values() for value in values}
  if len(found) < 2:
    return []
  named = ", ".join(f"{_range(v)} at the {which}" for which, v in ranks.items())
  return [
    "Capacities with different numbers K of shared directions removed are not"
    f" comparable in detail; in the last hidden layer K is {named} epoch."
    f" `python -m experiments measure --run=DIR --centers={max(found):.0f}`"
    " removes the same number everywhere."
  ]


def _range(values) -> str:
  """Formats the values over seeds, which may differ, as 5 or 3-8."""
  return "-".join(f"{x:.0f}" for x in sorted({min(values), max(values)}))


def _farthest(values: np.ndarray, expected: np.ndarray | float) -> float:
  return float(np.abs(values / expected - 1).max())


def _permuted_at_chance(
  best: dict[str, np.ndarray], chance: float, removed_apart: Callable
) -> _Judged:
  spread = _farthest(best["permuted"], chance)
  apart = np.abs(best["restored"] / best["test"] - 1)
  holds: bool | None = bool(max(spread, apart.max()) < TOLERANCE)
  sentence = (
    f"best epoch: permuted capacity is within {spread:.0%} of chance"
    f" ({chance:.3f}) in every hidden layer, restored within"
    f" {apart.max():.0%} of test"
  )
  if (
    spread < TOLERANCE < apart.max()
    and removed_apart()[apart > TOLERANCE].all()
  ):
    holds = None
    sentence += (
      "; they differ only where different numbers of shared directions were"
      " removed, or little of a centre is left"
    )
  return holds, sentence


def _permuted_rises_late(best, last, early: int) -> _Judged:
  rise = last["permuted"] / best["permuted"]
  most = rise[:early].max()
  return (
    bool(rise[-1] > 1.5 and most < 1 + TOLERANCE),
    f"last epoch: permuted capacity rises to {rise[-1]:.2f} times its best-"
    f"epoch value in the last hidden layer, at most {most:.2f} times in the"
    f" first {early}",
  )


def _restored_falls(best, last, chance: float) -> _Judged:
  before, after = best["restored"][-1], last["restored"][-1]
  apart = after / chance - 1
  return (
    bool(after < before and abs(apart) < TOLERANCE),
    f"last epoch: restored capacity of the last hidden layer goes from"
    f" {before:.3f} to {after:.3f}, {apart:+.0%} from chance, test from"
    f" {best['test'][-1]:.3f} to {last['test'][-1]:.3f}",
  )


def _permuted_shrinks(radii, dimensions) -> _Judged:
  radius = [at["permuted"][-1] for at in radii]
  dimension = [at["permuted"][-1] for at in dimensions]
  return (
    bool(radius[1] < radius[0] and dimension[1] < dimension[0]),
    f"permuted radius and dimension of the last hidden layer go from"
    f" {radius[0]:.2f} and {dimension[0]:.1f} to {radius[1]:.2f} and"
    f" {dimension[1]:.1f}",
  )


def _early_layers_stay(best, last, early: int) -> _Judged:
  change = max(_farthest(last[s][:early], best[s][:early]) for s in best)
  return (
    change < TOLERANCE,
    f"the first {early} hidden layers change by at most {change:.0%} in"
    " capacity between best and last epoch, over all subsets",
  )


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
    best, last = (rows.epochs(which) for which in _EPOCHS)
    # The saved epochs are those with scores.
    epochs = {
      seed: SavedEpochs(sorted(of.distinct("epoch")), best[seed], last[seed])
      for seed, of in rows.where("accuracy").split("seed").items()
    }
    yield geometry_stage(
      self.experiment, self.seeds, epochs, load, self.config.measure
    )

  def _facts_of(self, rows: runs.Rows, seed) -> list[runs.Row]:
    test = {
      row["epoch"]: row["value"]
      for row in rows.where("accuracy", seed=seed.number, subset="test")
    }
    points = next(iter(seed.manifolds.values())).shape[1]
    kappa = self.config.measure.kappa
    facts = {
      # Accuracies that are NaN are no best ones; of equal ones it is the first.
      "best_epoch": max(test, key=lambda e: (test[e] == test[e], test[e], -e)),
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

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Tests F3.1 to F3.5, if their subsets and layers were measured."""
    measured = set(rows.where("capacity").subsets)
    layers = (config.get("measure") or {}).get("layers")
    if layers or not {"permuted", "restored", "test"} <= measured:
      return doubts(rows)
    chosen = (config.get("measure") or {}).get("centers", "low_rank")
    unlike = differing_ranks(rows) if chosen == "low_rank" else []
    return [*doubts(rows), *find(rows), *unlike]

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
        line = f"{subset:12}{epoch:>6}{scores.mean()[0]:10.3f}"
        if of_layer.where("capacity"):
          capacity, radius, dimension = (
            of_layer.where(metric).mean()[0] for metric in _METRICS
          )
          line += f"{capacity:10.4f}{radius:8.3f}{dimension:11.2f}"
          if ranks := of_layer.where("rank").known():
            line += f"{_range(ranks.values):>6}"
        else:
          line += "   was not measured"
        lines.append(line)
    return "\n".join(lines)
