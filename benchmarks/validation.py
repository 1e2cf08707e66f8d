"""The validation page: measured values beside exactly known ones.

  python -m benchmarks.validation

takes minutes on two cores, resumes an interrupted start, and writes the page
docs/validation.md with its figure.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import tqdm
from absl import app, flags

from benchmarks import calibration, checks
from geomem import disk, runs, studies
from geomem.plots import style
from geomem.studies.fields import Fields
from geomem.studies.study import at_once
from geomem.studies.trained import OfRun

# Exact checks that are off by more standard errors than this are findings.
_FAR = 4.0
_EXACT = ("exact limits", "error bars", "float32 against float64")

_PAGE = """# Validation

This page compares the package with exact results and with independent methods.
`python -m benchmarks.validation` computes everything and writes this page (here
with {versions}). There are P manifolds of M points each, with radius R and
dimension D.

{checks}

## Calibration: how results depend on the number of points

The tables show the ratio of the measured to the true value: the mean over
{num_draws} draws, with its standard error, for {num_manifolds} manifolds of a
known shape about independent centres in {num_features} features, with
{num_probes} probes and R = 1. True values are the mean-field numbers of the
whole solid (equal for balls and spheres; ellipsoids have semi-axes that fall as
1/√i). Clouds have no edge and so no true capacity; their true R and D are those
of the distribution. `geometry.detectable_difference` tells which differences a
sample can resolve.

![Capacity, radius and dimension of spheres and clouds over their true values,
by M; bands are standard errors](calibration.png)

{tables}
"""

_TEXTS = {
  "exact limits": "Measured values beside closed forms.",
  "simulated capacity": "Theory beside simulation: random dichotomies in random"
  " projections of the points. Whether a hyperplane separates a dichotomy is"
  " decided exactly, by nonnegative least squares with a certificate, or else"
  " by a linear programme. Mean-field theory assumes independent manifolds and"
  " agrees with GLUE where centres are uncorrelated; GLUE includes"
  " correlations. (Mean-field theory measures points about their mean, so it is"
  " compared with simulations of such points.)",
  "error bars": "With 200 independent keys, 95% of the estimates should lie"
  " within 1.96 of their own standard errors of the mean over all keys.",
  "float32 against float64": "Capacity with 20,000 probes, which differ"
  " between the two types: only differences beyond the probes' error are"
  " rounding.",
  "invariances": "Relative changes of the capacity, with the same probes.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig(Fields):
  """What the calibration covers.

  Attributes:
    sizes: points of a manifold, M.
    dimensions: D.
    radii: R.
  """

  sizes: tuple[int, ...] = (25, 50, 100)
  dimensions: tuple[int, ...] = (2, 5, 10, 20)
  radii: tuple[float, ...] = (1.0,)


class Validation(OfRun):
  """Study that checks known values, and calibrates the effect of sampling."""

  name = "validation"
  needs_run = False
  figures: ClassVar[dict[str, Any]] = {
    "calibration": calibration.plot_calibration
  }

  def stages(self, run: runs.Run) -> Iterator[studies.Stage]:
    """Yields the stage of checks, then that of the calibration."""
    del run
    units = [
      at_once(
        {"check": check.__name__}, functools.partial(checks.rows_of, name)
      )
      for name, check in checks.CHECKS.items()
    ]
    yield studies.Stage("checks", units)
    units = [
      at_once(
        {"shape": shape, "dimension": D, "radius": R, "points": M},
        functools.partial(calibration.calibrate, shape, D, R, M),
      )
      # M varies slowest, as programs are compiled for each M.
      for M in self.config.sizes
      for shape in calibration.SHAPES
      for D in self.config.dimensions
      for R in self.config.radii
    ]
    yield studies.Stage("calibration", units)

  @staticmethod
  def findings(config: dict[str, Any], rows: runs.Rows) -> list[Any]:
    """Lists exact checks that are off by more than `_FAR` standard errors."""
    del config
    return [
      f"{row['check']}, {row['case']}: {row['value']:.4g} instead of"
      f" {row['expected']:.4g}, {_distance(row):.1f} standard errors off"
      for row in rows.where(check=_EXACT)
      if _distance(row) > _FAR
    ]

  @staticmethod
  def table(rows: runs.Rows) -> str:
    """Lists the rows of every check, without the calibration."""
    lines = []
    for check, of_check in rows.split("check").items():
      if check != "calibration":
        lines += [check, *(f"  {_sentence(row)}" for row in of_check)]
    return "\n".join(lines)


def _distance(row: runs.Row) -> float:
  return abs(row["value"] - row["expected"]) / row["stderr"]


def _sentence(row: runs.Row) -> str:
  if row["stderr"] is None:
    return f"{row['case']:64}{row['value']:10.1e}"
  return (
    f"{row['case']:64}{row['value']:10.4f} ± {row['stderr']:.4f}"
    f"{row['expected']:10.4f}"
  )


def _markdown(check: str, rows: runs.Rows) -> str:
  lines = [f"## {check[0].upper()}{check[1:]}", "", _TEXTS[check], ""]
  if rows[0]["stderr"] is None:
    lines += ["| | relative change |", "|---|---|"]
    lines += [f"| {row['case']} | {row['value']:.1e} |" for row in rows]
  else:
    head = "| | measured | expected | distance in standard errors |"
    lines += [head, "|---|---|---|---|"]
    lines += [
      f"| {row['case']} | {row['value']:.4f} ± {row['stderr']:.4f} |"
      f" {row['expected']:.4f} | {_distance(row):.1f} |"
      for row in rows
    ]
  return "\n".join(lines)


def write_page(rows: runs.Rows, directory: pathlib.Path, versions: str) -> None:
  """Writes the page, and its figure as PNG."""
  tables = [
    f"### {theory}: {metric}\n\n{calibration.table_of(rows, theory, metric)}"
    for theory in ("mean field", "GLUE")
    for metric in ("capacity", "radius", "dimension")
  ]
  page = _PAGE.format(
    versions=versions,
    checks="\n\n".join(
      _markdown(check, rows.where(check=check)) for check in _TEXTS
    ),
    tables="\n\n".join(tables),
    num_manifolds=calibration.NUM_MANIFOLDS,
    num_features=calibration.NUM_FEATURES,
    num_probes=calibration.NUM_PROBES,
    num_draws=calibration.NUM_DRAWS,
  )
  figure = calibration.plot_calibration(rows)
  style.save_figure(figure, directory / "calibration", suffixes=(".png",))
  disk.write_whole(directory / "validation.md", page.encode())


def main(argv: list[str]) -> None:
  """Runs or resumes the study, and writes the page."""
  del argv
  study = Validation(ValidationConfig(), None)
  rows = studies.run(study, flags.FLAGS.out, progress=tqdm.tqdm)
  print(study.table(rows))
  for sentence in study.findings({}, rows):
    print(sentence)
  versions = f"jax {jax.__version__}"
  write_page(rows, pathlib.Path(flags.FLAGS.docs), versions)


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/validation", "run directory")
  flags.DEFINE_string("docs", "docs", "directory of the page and its figure")
  app.run(main)
