"""The validation page: measured values beside exactly known ones.

  python -m benchmarks.validation

takes minutes on two cores, resumes an interrupted start, and writes the page
docs/validation.md with its figure.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import tqdm
from absl import app, flags

from benchmarks import calibration, checks
from geomem import disk, runs, studies
from geomem.plots import style
from geomem.studies.fields import Fields

# Exact checks that are off by more standard errors than this are findings.
_FAR = 4.0
_EXACT = ("exact limits", "error bars", "float32 against float64")

_PAGE = """# Validation

This page compares the package with exact results and with independent methods.
One command, `python -m benchmarks.validation`, computes everything and writes
the page ({versions}).

{checks}

## Calibration: how results depend on the number of points

{num_manifolds} manifolds of a known shape about independent centres in
{num_features} features, {num_probes} probes, R = 1; the mean over {num_draws}
draws of the ratio of the measured to the true value, with its standard error.
True values are the mean-field numbers of the whole solid (equal for balls and
spheres; ellipsoids have semi-axes that fall as 1/√i). Clouds have no edge and
so no true capacity; their true R and D are those they are drawn with.
`geometry.detectable_difference` tells which differences a sample can resolve.

![Capacity, radius and dimension of spheres and clouds over their true values,
by M; bands are standard errors](calibration.png)

{tables}
"""

_TEXTS = {
  "exact limits": "Closed forms. The last column is the distance in standard"
  " errors.",
  "simulated capacity": "Random dichotomies in random projections of the"
  " points. Whether a hyperplane separates one is decided exactly: by"
  " nonnegative least squares with a certificate, or else by a linear"
  " programme. Mean-field theory assumes independent manifolds and agrees with"
  " GLUE where centres are uncorrelated; GLUE includes correlations. (Mean"
  " field is compared with simulations of points about their mean, which is how"
  " it measures them.)",
  "error bars": "Of estimates with 200 independent keys, 95% should lie within"
  " 1.96 of their standard errors of the mean over all keys.",
  "float32 against float64": "Capacity with 20,000 probes, which differ"
  " between the two types: differences beyond the probes' error are rounding.",
  "invariances": "Relative changes of the capacity, with equal probes.",
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


class Validation:
  """Study that checks known values, and calibrates the effect of sampling."""

  name = "validation"
  figures: ClassVar[dict[str, Any]] = {
    "calibration": calibration.plot_calibration
  }
  origin = None
  directory = pathlib.Path("runs/validation")

  def __init__(self, config: ValidationConfig, trained: None = None):
    """Stores the config; no finished run is needed."""
    del trained
    self.config = config

  def as_dict(self) -> dict[str, Any]:
    """Returns the config in the form that a run directory stores."""
    return {"experiment": self.name} | vars(self.config)

  def stages(self, run: runs.Run) -> Iterator[studies.Stage]:
    """Yields the stage of checks, then that of the calibration."""
    del run
    units = [
      _unit({"check": check.__name__}, checks.rows_of, name)
      for name, check in checks.CHECKS.items()
    ]
    yield studies.Stage("checks", units)
    units = [
      _unit(
        {"shape": shape, "dimension": D, "radius": R, "points": M},
        calibration.calibrate,
        *(shape, D, R, M),
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


def _unit(key: dict[str, Any], make: Callable, *arguments) -> studies.Unit:
  """Makes a unit of one step, whose rows a function makes."""
  return studies.Unit(key, lambda: iter([studies.Step(list(make(*arguments)))]))


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
  study = Validation(ValidationConfig())
  rows = studies.run(study, flags.FLAGS.out, progress=tqdm.tqdm)
  print(study.table(rows))
  for sentence in study.findings({}, rows):
    print(sentence)
  versions = f"jax {jax.__version__}"
  write_page(rows, pathlib.Path(flags.FLAGS.docs), versions)


if __name__ == "__main__":
  flags.DEFINE_string("out", str(Validation.directory), "run directory")
  flags.DEFINE_string("docs", "docs", "directory of the page and its figure")
  app.run(main)
