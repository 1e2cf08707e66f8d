"""Findings on the gradients of a run, each by a rule fixed in advance.

Source: Stephenson et al., ICLR 2021, eq. 25, figure A.1 and their text.
"""

import math
from collections import defaultdict

import numpy as np

from geomem import runs, training
from geomem.plots.style import name_epochs
from geomem.studies.finding import Finding, all_hold, apart, with_error
from geomem.studies.gradients.products import SUBSETS

SLOPE, SLOPE_TOLERANCE = -0.5, 0.05
CLOSED_FORM_TOLERANCE = 0.01
EARLY_RATIO = 0.25
LATE_RATIO = (0.75, 1.33)
CANCELLED = 0.5
_GROWN = math.nextafter(1, 2), math.inf  # What stays the same has not grown.
_LABEL = {"part": "label", "labels": "centered"}


def _judge(holds, *numbers) -> bool | None:
  """Returns whether a claim holds; None where a number for it is missing."""
  return bool(holds) if np.isfinite(numbers).all() else None


def _within(bounds, value: float, error: float) -> tuple[bool | None, str]:
  """Returns whether a value is in bounds, and a caveat for the sentence.

  None stands for a value that is unknown, or beyond by less than two errors.
  """
  beyond = max(bounds[0] - value, value - bounds[1])
  if not beyond > 0 or apart((beyond, error), (0.0, 0.0)):
    return _judge(beyond <= 0, value), ""
  return None, ", which cannot be known within two errors"


def _over_seeds(values: np.ndarray) -> tuple[float, float]:
  """Returns the mean and its error: 0 for one seed, whose value decides."""
  mean, error = runs.mean_and_error(values)
  return mean, error if len(values) > 1 else 0.0


def _whole(rows, metric, **columns) -> dict[int, dict[int, float]]:
  """Returns a metric of the whole network, by seed and epoch.

  All seeds have an entry; what has no row, or none with a value, is NaN.
  """
  values = {seed: defaultdict(lambda: math.nan) for seed in rows.seeds}
  whole = rows.where(metric, layer=None, mode="evaluation", **columns)
  for row in whole.known():
    values[row["seed"]][row["epoch"]] = row["value"]
  return values


def at_epoch(rows, metric: str, which: str, **columns) -> np.ndarray:
  """Returns a metric of the whole network by seed; NaN where it is missing.

  It is that of the `first`, the `best` or the `last` epoch.
  """
  values = []
  for seed, by_epoch in _whole(rows, metric, **columns).items():
    epoch = 0 if which == "first" else rows.epochs(which)[seed]
    values.append(by_epoch[epoch])
  return np.array(values, float)


def _slope(rows, **columns) -> tuple[float, float]:
  """Returns the mean slope over seeds, with the error from the fits.

  The error is NaN where a fit has none, as of two sizes and one draw.
  """
  fits = rows.where("law_slope", layer=None, **columns)
  errors = np.array([row["stderr"] for row in fits], float)
  error = float(np.linalg.norm(errors)) / max(len(fits), 1)
  return fits.mean(rows.seeds)[0], error


def _permuted_slope(rows) -> Finding:
  clean = _slope(rows, drawn="independent", labels="centered")
  raw = _slope(rows, drawn="independent", labels="raw")
  shuffled = _slope(rows, drawn="shuffled", labels="centered")
  norms = rows.where("law_norm", drawn="independent")
  draws = len({(row["seed"], row["draw"]) for row in norms})
  bounds = SLOPE - SLOPE_TOLERANCE, SLOPE + SLOPE_TOLERANCE
  holds, caveat = _within(bounds, *clean)
  return Finding(
    "G1",
    holds,
    "at initialization the label part of labels drawn anew falls with n to the"
    f" power {with_error(*clean)} (centred; {draws} draws;"
    f" {SLOPE} ± {SLOPE_TOLERANCE} was expected{caveat}), and"
    f" {with_error(*raw)} raw,"
    " where the mean of J stays; of labels shuffled among the permuted examples"
    f" {with_error(*shuffled)}, as all of them together have the exact class"
    " counts",
    "random labels average out",
  )


def _unpermuted_slope(rows) -> Finding:
  centered, raw = (
    _slope(rows, subset="unpermuted", labels=labels)
    for labels in ("centered", "raw")
  )
  clean, sizes = unbiased_slope(rows)
  own = [unbiased_slope(of)[0] for of in rows.split("seed").values()]
  _, error = _over_seeds(np.array(own))
  holds, caveat = _within((-SLOPE_TOLERANCE, SLOPE_TOLERANCE), clean, error)
  named = ", ".join(map(str, sizes)) or "none"
  if len(sizes) < 2:
    goes = f"has no slope, which takes two sizes n (there is {named})"
  elif np.isnan(clean):
    goes = f"is nothing, or unknown, at one or more of n = {named}"
  else:
    error = error or math.nan  # That of one seed is not known.
    goes = f"goes with n to the power {with_error(clean, error)} at n = {named}"
  return Finding(
    "G2",
    holds,
    f"without the noise of n examples the unpermuted one {goes}; a power of 0"
    f" ± {SLOPE_TOLERANCE} was expected{caveat}. As measured, it is"
    f" {with_error(*centered)} centred, where small sets add their noise, and"
    f" {with_error(*raw)} raw, where the mean of J stays, too",
    "true labels add up",
  )


def unbiased_slope(rows) -> tuple[float, list[int]]:
  """Returns the unpermuted part's slope without noise, and the sizes."""
  metric = "law_squared_norm_unbiased"
  own = rows.where(metric, drawn="own", labels="centered")
  by_size = own.split("num_examples")
  sizes = [n for n, of_size in by_size.items() if of_size.seeds == rows.seeds]
  squares = np.array([by_size[n].values.mean() for n in sizes])
  if len(sizes) < 2 or not squares.min() > 0:
    return float("nan"), sizes
  return float(np.polyfit(np.log(sizes), np.log(squares) / 2, 1)[0]), sizes


def worst_error(rows, part: str) -> float:
  """Returns the error of the closed form in the worst layer and seed."""
  errors = rows.where("closed_form_error", part=part)
  is_whole = errors and errors.seeds == rows.seeds
  return float(errors.values.max()) if is_whole else math.nan


def _closed_form(rows) -> Finding:
  label, total = (worst_error(rows, part) for part in ("label", "total"))
  return Finding(
    "G3",
    _judge(label <= CLOSED_FORM_TOLERANCE, label),
    "in a deep linear network the label part is Cov(features, labels) to"
    f" {with_error(label, spec='.1e')} in the worst layer, and the total"
    f" gradient at small weights to {with_error(total, spec='.1e')}",
    "the deep linear network is as computed",
  )


def _ratio(rows) -> Finding:
  used = rows.where("examples_used", mode="evaluation")
  bests, lasts = (rows.epochs(which) for which in ("best", "last"))
  early, lost = [], set()
  for seed, by_epoch in _whole(rows, "ratio", **_LABEL).items():
    best = bests[seed]
    measured = used.where(seed=seed).distinct("epoch")
    epochs = {best, *(epoch for epoch in measured if epoch <= best)}
    early.append(np.min([by_epoch[epoch] for epoch in epochs]))
    scored = training.checkpoint_epochs(lasts[seed])
    lost |= {epoch for epoch in scored if epoch < best} - epochs
  early = _over_seeds(np.array(early))
  is_low, vague_early = _within((-math.inf, EARLY_RATIO), *early)
  if lost and is_low is False:  # The least may be at one of them.
    is_low, vague_early = None, f", and {name_epochs(lost)} were not measured"
  late = _over_seeds(at_epoch(rows, "ratio", "last", **_LABEL))
  is_equal, vague_late = _within(LATE_RATIO, *late)
  values, clean = (
    [
      with_error(at_epoch(rows, metric, which, **_LABEL).mean())
      for which in ("first", "best", "last")
    ]
    for metric in ("ratio", "ratio_unbiased")
  )
  number = min(row["value"] for row in used)
  return Finding(
    "G4",
    all_hold(is_low, is_equal),
    "permuted / unpermuted of the label part (centred) is"
    f" {values[0]} at initialization, {values[1]} at the best epoch,"
    f" {values[2]} at the last one; its least up to the best epoch is"
    f" {with_error(early[0])} (below {EARLY_RATIO} was expected{vague_early},"
    f" and between {LATE_RATIO[0]} and {LATE_RATIO[1]} at the end{vague_late})."
    " The noise of"
    f" {number:.0f} examples alone gives {with_error(_floor(rows))} at"
    f" initialization; without it the ratio is {', '.join(clean[:2])} and"
    f" {clean[2]}"
    " (negative: nothing beyond the noise)",
    "permuted labels pull late",
  )


def _floor(rows) -> float:
  """Computes the initial ratio that the noise of n examples alone gives."""
  values = []
  columns = {"epoch": 0, **_LABEL}
  norm = {s: _whole(rows, "norm", subset=s, **columns) for s in SUBSETS}
  square = _whole(rows, "squared_norm_unbiased", subset="permuted", **columns)
  for seed, by_epoch in norm["unpermuted"].items():
    noise = norm["permuted"][seed][0] ** 2 - square[seed][0]
    values.append(np.sqrt(max(noise, 0)) / (by_epoch[0] or math.nan))
  return float(np.mean(values))


def _cancellation(rows) -> Finding:

  def at(which, metric, **columns):
    columns["labels"] = "centered"
    return at_epoch(rows, metric, which, **columns)

  early, late = (
    [at(which, "cancellation", subset=s) for s in SUBSETS]
    for which in ("first", "last")
  )
  judged = [_within((CANCELLED, math.inf), *_over_seeds(x)) for x in late]
  grown = []
  for part in ("label", "independent"):
    norm = {"metric": "norm", "subset": "permuted", "part": part}
    first, last = (at(which, **norm) for which in ("first", "last"))
    before = float(first.mean()) or math.nan
    grown.append(float(last.mean()) / before)
    _, error = _over_seeds(last - first)  # A seed's own growth.
    judged.append(_within(_GROWN, grown[-1], error / before))
  said = [with_error(x.mean(), spec=".1%") for x in (*early, *late)]
  holds = all_hold(*(of for of, _ in judged))
  # Of one that fails the others' errors do not matter.
  caveat = "" if holds is False else max(vague for _, vague in judged)
  return Finding(
    "G5",
    holds,
    "the two parts (centred) cancel to"
    f" {said[0]} (unpermuted) and {said[1]} (permuted) at initialization, and"
    f" to {said[2]} and {said[3]} at the end, while the permuted ones grow"
    f" {with_error(grown[0], spec='.3g')}-fold (label) and"
    f" {with_error(grown[1], spec='.3g')}-fold (independent){caveat}",
    "the parts cancel in the end",
  )


def find_gradients(rows: runs.Rows) -> list[Finding]:
  """Tests G1 to G5; each sentence states the figures.

  G1: the slope of labels drawn anew is -0.5 ± 0.05 at initialization.
  G2: the unpermuted part's slope is 0 ± 0.05, without the noise of n examples.
  G3: the closed form of the deep linear network holds to 1 %.
  G4: permuted / unpermuted falls below 0.25 up to the best epoch, and lies
    between 0.75 and 1.33 at the last one. Where networks of epochs up to the
    best are missing, it cannot fail by the former.
  G5: at the last epoch the parts cancel by more than a half, though both parts
    of the permuted examples have grown.

  All but G3 are undecided where they miss their bounds by less than two
  errors: those of the fits, or by the spread of the seeds.
  """
  return [
    _permuted_slope(rows),
    _unpermuted_slope(rows),
    _closed_form(rows),
    _ratio(rows),
    _cancellation(rows),
  ]
