"""Comparison of our numbers with the claims of the paper."""

import pathlib
from typing import Any

import numpy as np

from geomem import runs
from geomem.studies.capacity import agreements
from geomem.studies.finding import Finding, doubts
from geomem.studies.gradients.findings import unbiased_slope
from geomem.studies.memorization import by_layer
from geomem.studies.model_size import Sizes, find_dip
from geomem.studies.paper.numbers import CLAIMS, CLOSE, LAST_HIDDEN
from geomem.studies.paper.stages import STAGES, Scale
from geomem.studies.rewind_findings import ENOUGH, RewindScores
from geomem.studies.sweep import of_cells

# The values of a study by claim, one for each seed, and the verdicts that its
# findings do not give; None where there is nothing to judge by.
_Judged = tuple[dict[str, Any], dict[str, bool | None]]

# T2: largest distance of the median from 1, and least correlation.
AGREES, CORRELATES = 0.15, 0.9
# T5: range of parameters of the dip, and least growth of the dimension in it.
DIP_PLACE, DIP_GROWTH = (3e5, 1e6), 3.0


def _memorization(rows: runs.Rows, is_the_papers: bool) -> _Judged:
  chance, values, numbers = rows.chance_capacity(), {}, {}
  for seed in rows.seeds:
    of_seed = rows.where(seed=seed)
    at = {
      (metric, which): by_layer(of_seed, metric, which)
      for metric in CLOSE
      for which in ("best", "last")
    }
    best, last = at["capacity", "best"], at["capacity", "last"]
    early = max(1, len(best["permuted"]) // 2)

    def change(metric, at=at):
      before, after = (at[metric, w]["permuted"][-1] for w in ("best", "last"))
      return after / before

    ratios = {
      "F3.1": best["permuted"][-1] / chance,
      "F3.2": change("capacity"),
      "F3.3": last["restored"][-1] / chance,
      "F3.4 radius": change("radius"),
      "F3.4 dimension": change("dimension"),
      "F3.5": max(
        np.abs(last[subset] / best[subset] - 1)[:early].max() for subset in best
      ),
    }
    for key, value in ratios.items():
      values.setdefault(key, []).append(value)
    for subset, metric in LAST_HIDDEN:
      pair = [at[metric, which][subset][-1] for which in ("best", "last")]
      numbers.setdefault((subset, metric), []).append(pair)
  if not is_the_papers:
    return values, {}
  close = 0
  for (subset, metric), expected in LAST_HIDDEN.items():
    share, distance = CLOSE[metric]
    error = np.abs(np.mean(numbers[subset, metric], axis=0) - expected)
    close += int((error <= np.multiply(share, expected) + distance).sum())
  return values | {"T3": [close]}, {"T3": close == 2 * len(LAST_HIDDEN)}


def _rewind(rows: runs.Rows, _) -> _Judged:
  scores, values = RewindScores(rows), {}

  def recovered(kind, layers):
    return scores.at_best(kind, layers, "test", "recovered")

  for key, kind in (("F4.1", "suffix"), ("F4.2", "prefix")):
    sets = scores.rewound(kind)
    values[key] = recovered(kind, sets[max(1, len(sets) // 2) - 1])
  # Rewinding all layers gives another epoch's network.
  partial = [
    s for s in scores.rewound("suffix")[:-1] if recovered("suffix", s).size
  ]
  if not partial:
    return values, {"T4": None}
  best = max(partial, key=lambda layers: recovered("suffix", layers).mean())
  values["T4"] = recovered("suffix", best)
  remaining = scores.at_best("suffix", best, "permuted").mean()
  holds = values["T4"].mean() >= ENOUGH and remaining <= 2 * scores.chance
  return values, {"T4": bool(holds) if scores.tell_shares else None}


def _gradients(rows: runs.Rows, _) -> _Judged:
  rows = rows.known()
  network = rows.where(layer=None, mode="evaluation", labels="centered")
  ratio = network.where("ratio", part="label")
  facts = rows.where(("best_epoch", "last_epoch"))
  law = {"layer": None, "drawn": "independent", "labels": "centered"}
  errors = rows.where("closed_form_error", part="label").split("seed")

  def last(selected):
    return runs.Rows(selected + facts).at("last").values

  return {
    "G1": rows.where("law_slope", **law).values,
    "G2": [unbiased_slope(of)[0] for of in rows.split("seed").values()],
    "G3": [of.values.max() for of in errors.values()],
    "G4 first": ratio.where(epoch=0).values,
    "G4 last": last(ratio),
    "G5": last(network.where("cancellation", subset="permuted")),
  }, {}


def _capacity(rows: runs.Rows, _) -> _Judged:
  removed = rows.where(centers="low_rank")
  of_seeds = [agreements(of) for of in removed.split("seed").values()]
  overall = agreements(removed)
  if not overall or overall[0].correlation is None:
    return {}, {"T2 ratio": None, "T2 correlation": None}
  values = {
    "T2 ratio": [of[0].ratios[2] for of in of_seeds if of],
    "T2 correlation": [of[0].correlation for of in of_seeds if of],
  }
  return values, {
    "T2 ratio": abs(overall[0].ratios[2] - 1) <= AGREES,
    "T2 correlation": overall[0].correlation >= CORRELATES,
  }


def _model_size(rows: runs.Rows, is_the_papers: bool) -> _Judged:
  sizes = Sizes(of_cells({"axes": ["width"]}, rows))
  accuracy = sizes.at("last", "accuracy", "test")
  dip, keys = find_dip(accuracy), [k for k in CLAIMS if k.startswith("T5")]
  if accuracy.shape[1] < 2:
    return {}, dict.fromkeys(keys)  # With one seed, any noise is a dip.
  if dip is None or dip.at == len(accuracy) - 1:
    return {}, dict.fromkeys(keys, False)
  growth, changes = {}, {}
  for metric in ("radius", "dimension"):
    best, last = (sizes.at(w, metric, "test") for w in ("best", "last"))
    growth[metric], changes[metric] = last / best - 1, last - best
  mean = {metric: of.mean(axis=1) for metric, of in growth.items()}
  ends = np.delete(mean["dimension"], dip.at)[[0, -1]]
  parameters = sizes.fact("num_parameters")[dip.at, 0]
  falls = dip.depth > 2 * dip.stderr and dip.rise > 2 * dip.rise_stderr
  grows = mean["dimension"][dip.at] > max(ends)
  if is_the_papers:
    falls &= DIP_PLACE[0] <= parameters <= DIP_PLACE[1]
    grows &= changes["dimension"][dip.at].mean() >= DIP_GROWTH
  return {
    "T5 accuracy": accuracy[dip.before] - accuracy[dip.at],
    **{f"T5 {metric}": of[dip.at] for metric, of in growth.items()},
  }, {
    "T5 accuracy": bool(falls),
    "T5 dimension": bool(grows),
    "T5 radius": bool(
      abs(mean["radius"][dip.at]) < abs(mean["dimension"][dip.at])
    ),
  }


_NUMBERS = {
  "memorization": _memorization,
  "rewind": _rewind,
  "gradients": _gradients,
  "capacity": _capacity,
  "model_size": _model_size,
  "measure": lambda *_: ({}, {}),
}


def compare(path: pathlib.Path | str, scale: Scale) -> runs.Rows:
  """Compares the complete stages with the paper.

  Args:
    path: the directory of the paper.
    scale: the scale of the stages.

  Returns:
    A row for each number, ordered by claim: its mean over seeds, the standard
    deviation over seeds as `spread`, and whether the claim `holds`, None if it
    is not judged; then a row for each doubt about the numbers.
  """
  values, verdicts, sentences = {}, {}, []
  for stage in STAGES:
    place = pathlib.Path(path) / stage.place
    if not runs.is_complete(place):
      continue
    config, rows = runs.read_config(place), runs.read_rows(place)
    findings = stage.study.findings(config, rows)
    verdicts |= {f.name: f.holds for f in findings if isinstance(f, Finding)}
    numbers, further = _NUMBERS[stage.study.name](rows, scale.is_the_papers)
    values |= numbers
    for key, holds in further.items():
      is_known = not np.isnan(np.sum(numbers.get(key, 0.0)))
      verdicts[key] = holds if is_known else None
    sentences += [f"{stage.name}: {sentence}" for sentence in doubts(rows)]
  if {"G1", "G4"} <= set(verdicts):
    verdicts["T6"] = verdicts["G1"] and verdicts["G4"]
  result = runs.Rows()
  for key in CLAIMS:
    name = key.split()[0]
    judged = verdicts.get(key, verdicts.get(name))
    if key not in values and key not in verdicts and name not in verdicts:
      continue  # The stage is incomplete, or its numbers cannot be compared.
    of_seeds = np.asarray(values.get(key, []), float)
    many = of_seeds.size > 1
    result.append(
      {
        "metric": key,
        "value": float(of_seeds.mean()) if of_seeds.size else None,
        "spread": float(of_seeds.std(ddof=1)) if many else None,
        "holds": judged,
        "is_the_papers": scale.is_the_papers,
      }
    )
  for text in sentences:
    result.append({"metric": "doubt", "text": text})
  return result
