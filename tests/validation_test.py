"""The validation page: truths, tables and figure from rows, and what is far."""

import numpy as np
import pytest

from benchmarks import calibration, validation
from geomem import geometry, runs


def test_truths_are_those_of_theory():
  axes = calibration.semi_axes("ellipsoids", 4, 1.5)
  # The mean square of the points of all shapes is alike.
  assert (axes**2).sum() == pytest.approx(4 * 1.5**2)
  assert axes[0] / axes[3] == pytest.approx(2)
  truth = calibration.truth_of("balls", 1, 0.5)
  # Of 100,000 probes.
  expected = float(geometry.segment_capacity(0.5))
  assert truth["capacity"] == pytest.approx(expected, rel=0.02)
  assert np.isnan(calibration.truth_of("clouds", 3, 1.0)["capacity"])


def rows_of_a_calibration():
  rows = runs.Rows()
  for theory in ("mean field", "GLUE"):
    for metric in ("capacity", "radius", "dimension"):
      for case in ("spheres", "clouds"):
        unknown = case == "clouds" and metric == "capacity"
        for M in (25, 50):
          rows.append(
            {
              "check": "calibration",
              "case": case,
              "theory": theory,
              "dimension": 5,
              "radius": 1.0,
              "points": M,
              "metric": metric,
              "value": 2.0 + 50 / M,
              "stderr": 0.1,
              "expected": None if unknown else 2.0,
            }
          )
  return rows


def rows_of_checks(value=1.0):
  return [
    {
      "check": check,
      "case": f"a case of {check}",
      "metric": "capacity",
      "value": value,
      "stderr": None if check == "invariances" else 0.25,
      "expected": 0.5,
    }
    for check in validation._TEXTS
  ]


def test_the_page_holds_the_rows(tmp_path):
  rows = runs.Rows([*rows_of_checks(), *rows_of_a_calibration()])
  validation.write_page(rows, tmp_path, "of a test")
  page = (tmp_path / "validation.md").read_text()
  assert "| a case of exact limits | 1.0000 ± 0.2500 | 0.5000 | 2.0 |" in page
  assert "| a case of invariances | 1.0e+00 |" in page
  assert "| spheres, 5 | 2.00 ± 0.05 | 1.50 ± 0.05 |" in page
  # Clouds have no capacity of their own; radius and dimension of both theories.
  assert page.count("| clouds, 5 |") == 4
  assert (tmp_path / "calibration.png").stat().st_size
  figure = calibration.plot_calibration(rows)
  spheres, *_ = figure.axes[0].get_lines()
  np.testing.assert_allclose(spheres.get_xdata(), (25, 50))
  np.testing.assert_allclose(spheres.get_ydata(), (2.0, 1.5))


def test_what_is_far_from_the_truth_is_named():
  near, far = (runs.Rows(rows_of_checks(value)) for value in (1.4, 1.6))
  assert validation.Validation.findings({}, near) == []
  found = validation.Validation.findings({}, far)
  assert len(found) == 3
  assert "1.6 instead of 0.5, 4.4 standard errors off" in found[0]
