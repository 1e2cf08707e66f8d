"""Findings on the gradients of a run, each by a rule fixed in advance.

Source: Stephenson et al., ICLR 2021, eq. 25, figure A.1 and their text.
"""

from collections import defaultdict

import numpy as np

from geomem import runs
from geomem.studies.finding import Finding, with_error

SLOPE, SLOPE_TOLERANCE = -0.5, 0.05
CLOSED_FORM_TOLERANCE = 0.01
EARLY_RATIO = 0.25
LATE_RATIO = (0.75, 1.33)
CANCELLED = 0.5
_SUBSETS = ("unpermuted", "permuted")
_LABEL = {"part": "label", "labels": "centered"}


def _judge(holds, *numbers) -> bool | None:
  """Returns whether a claim holds; None where a number for it is missing."""
  return bool(holds) if np.isfinite(numbers).all() else None


def _whole(rows, metric, **columns) -> dict[int, dict[int, float]]:
  """Returns a metric of the whole network, by seed and epoch."""
  values = defaultdict(dict)
  for row in rows.where(metric, layer=None, mode="evaluation", **columns):
    values[row["seed"]][row["epoch"]] = row["value"]
  return values


def _at(rows, by_seed, which: str) -> float:
  """Averages a metric over seeds, at the first, best or last epoch."""
  values = []
  for seed, by_epoch in by_seed.items():
    epoch = 0 if which == "first" else rows.epochs(which)[seed]
    values.append(by_epoch.get(epoch, np.nan))
  return float(np.mean(values))


def _slope(rows, **columns) -> tuple[float, float]:
  """Returns the mean slope over seeds, with the error from the fits.

  The error is NaN where a fit has none, as of two sizes and one draw.
  """
  fits = rows.where("law_slope", layer=None, **columns)
  errors = np.array([row["stderr"] for row in fits], float)
  error = float(np.sqrt((errors**2).mean() / len(fits)))
  return float(fits.values.mean()), error


def _permuted_slope(rows) -> Finding:
  clean = _slope(rows, drawn="independent", labels="centered")
  raw = _slope(rows, drawn="independent", labels="raw")
  shuffled = _slope(rows, drawn="shuffled", labels="centered")
  norms = rows.where("law_norm", drawn="independent")
  draws = len({(row["seed"], row["draw"]) for row in norms})
  return Finding(
    "G1",
    _judge(abs(clean[0] - SLOPE) <= SLOPE_TOLERANCE, clean[0]),
    "at initialization the label part of labels drawn anew falls with n to the"
    f" power {with_error(*clean)} (centred; {draws} draws;"
    f" {SLOPE} ± {SLOPE_TOLERANCE} was expected), and {with_error(*raw)} raw,"
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
  named = ", ".join(map(str, sizes)) or "none"
  if len(sizes) < 2:
    goes = f"has no slope, which takes two sizes n (there is {named})"
  elif np.isnan(clean):
    goes = f"is nothing at one or more of n = {named}"
  else:
    goes = f"goes with n to the power {clean:.3f} at n = {named}"
  return Finding(
    "G2",
    _judge(abs(clean) <= SLOPE_TOLERANCE, clean),
    f"without the noise of n examples the unpermuted one {goes}; a power of 0"
    f" ± {SLOPE_TOLERANCE} was expected. As measured, it is"
    f" {with_error(*centered)} centred, where small sets add their noise, and"
    f" {with_error(*raw)} raw, where the mean of J stays, too",
    "true labels add up",
  )


def unbiased_slope(rows) -> tuple[float, list[int]]:
  """Returns the unpermuted part's slope without noise, and the sizes."""
  by_size = defaultdict(list)
  metric = "law_squared_norm_unbiased"
  for row in rows.where(metric, drawn="own", labels="centered"):
    by_size[row["num_examples"]].append(row["value"])
  sizes = sorted(by_size)
  squares = np.array([np.mean(by_size[n]) for n in sizes])
  if len(sizes) < 2 or not squares.min() > 0:
    return float("nan"), sizes
  return float(np.polyfit(np.log(sizes), np.log(squares) / 2, 1)[0]), sizes


def _closed_form(rows) -> Finding:
  worst = {
    part: rows.where("closed_form_error", part=part).values.max()
    for part in ("label", "total")
  }
  return Finding(
    "G3",
    _judge(worst["label"] <= CLOSED_FORM_TOLERANCE, worst["label"]),
    "in a deep linear network the label part is Cov(features, labels) to"
    f" {worst['label']:.1e} in the worst layer, and the total gradient at"
    f" small weights to {worst['total']:.1e}",
    "the deep linear network is as computed",
  )


def _ratio(rows) -> Finding:
  ratio = _whole(rows, "ratio", **_LABEL)
  unbiased = _whole(rows, "ratio_unbiased", **_LABEL)
  early, late = [], []
  for seed, by_epoch in ratio.items():
    best = rows.epochs("best")[seed]
    early.append(np.min([v for e, v in by_epoch.items() if e <= best]))
    late.append(by_epoch[rows.epochs("last")[seed]])
  early, late = float(np.mean(early)), float(np.mean(late))
  holds = early < EARLY_RATIO and LATE_RATIO[0] < late < LATE_RATIO[1]
  values, clean = (
    [f"{_at(rows, by_seed, w):.3f}" for w in ("first", "best", "last")]
    for by_seed in (ratio, unbiased)
  )
  number = min(r["value"] for r in rows.where("examples_used"))
  return Finding(
    "G4",
    _judge(holds, early, late),
    "permuted / unpermuted of the label part (centred) is"
    f" {values[0]} at initialization, {values[1]} at the best epoch,"
    f" {values[2]} at the last one; its least up to the best epoch is"
    f" {early:.3f} (below {EARLY_RATIO} was expected, and between"
    f" {LATE_RATIO[0]} and {LATE_RATIO[1]} at the end). The noise of"
    f" {number:.0f} examples alone gives {_floor(rows):.3f} at initialization;"
    f" without it the ratio is {clean[0]}, {clean[1]} and {clean[2]}"
    " (negative: nothing beyond the noise)",
    "permuted labels pull late",
  )


def _floor(rows) -> float:
  """Computes the initial ratio that the noise of n examples alone gives."""
  values = []
  columns = {"epoch": 0, **_LABEL}
  norm = {s: _whole(rows, "norm", subset=s, **columns) for s in _SUBSETS}
  square = _whole(rows, "squared_norm_unbiased", subset="permuted", **columns)
  for seed, by_epoch in norm["unpermuted"].items():
    noise = norm["permuted"][seed][0] ** 2 - square[seed][0]
    values.append(np.sqrt(max(noise, 0)) / by_epoch[0])
  return float(np.mean(values))


def _cancellation(rows) -> Finding:
  cancelled = {
    s: _whole(rows, "cancellation", subset=s, labels="centered")
    for s in _SUBSETS
  }
  early, late = (
    [_at(rows, cancelled[s], which) for s in _SUBSETS]
    for which in ("first", "last")
  )
  grown = [
    _at(rows, norms, "last") / _at(rows, norms, "first")
    for norms in (
      _whole(rows, "norm", subset="permuted", part=part, labels="centered")
      for part in ("label", "independent")
    )
  ]
  return Finding(
    "G5",
    _judge(min(late) > CANCELLED and min(grown) > 1, *late, *grown),
    "the two parts (centred) cancel to"
    f" {early[0]:.1%} (unpermuted) and {early[1]:.1%} (permuted) at"
    f" initialization, and to {late[0]:.1%} and {late[1]:.1%} at the end, while"
    f" the permuted ones grow {grown[0]:.3g}-fold (label) and"
    f" {grown[1]:.3g}-fold (independent)",
    "the parts cancel in the end",
  )


def find_gradients(rows: runs.Rows) -> list[Finding]:
  """Tests G1 to G5; each sentence states the figures.

  G1: the slope of labels drawn anew is -0.5 ± 0.05 at initialization.
  G2: the unpermuted part's slope is 0 ± 0.05, without the noise of n examples.
  G3: the closed form of the deep linear network holds to 1 %.
  G4: permuted / unpermuted falls below 0.25 up to the best epoch, and lies
    between 0.75 and 1.33 at the last one.
  G5: at the last epoch the parts cancel by more than a half, though both parts
    of the permuted examples have grown.
  """
  return [
    _permuted_slope(rows),
    _unpermuted_slope(rows),
    _closed_form(rows),
    _ratio(rows),
    _cancellation(rows),
  ]
