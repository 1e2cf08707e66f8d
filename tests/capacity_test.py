"""Theory against simulation through the binary: whole, resumed, refused."""

import dataclasses
import itertools

import numpy as np
import pytest

from geomem import analysis, geometry, plots, runs
from tests.binaries import execute

SMALL = {"num_draws": 4, "num_probes": 10, "num_shuffles": 2, "epochs": "last"}
COMPARISON = analysis.CapacityConfig(**SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The directory of a tiny finished run."""
  path = tmp_path_factory.mktemp("trained") / "run"
  found = execute(
    "memorization",
    out=path,
    model="mlp",
    width=16,
    epochs=1,
    manifold_points=4,
    num_classes=4,
    num_probes=10,
    permuted_fraction=0,
  )
  assert found.returncode == 0, found.stderr
  return path


def in_part(trained, out, stop_after):
  """The same work in this process, cut off after some units."""
  experiment = analysis.load_experiment(trained)
  fields = analysis.capacity_config_dict(COMPARISON, of_run=True)
  with runs.Run(out, {"experiment": "capacity", **fields}) as run:
    units = analysis.run_units(trained, experiment, COMPARISON)
    measured = analysis.measure_units(run, COMPARISON, units)
    return len(list(itertools.islice(measured, stop_after)))


@pytest.mark.slow
def test_layers_of_a_run_are_compared_once_and_killed_work_resumes(
  trained, tmp_path
):
  first = execute("capacity", run=trained, **SMALL)
  assert first.returncode == 0, first.stderr
  assert "simulated over theory has median" in first.stdout
  out = trained / "capacity"
  rows = runs.read_rows(out)
  # 5 layers x 2 subsets, with and without shared directions.
  experiment = analysis.load_experiment(trained)
  assert analysis.count_run_units(trained, experiment, COMPARISON) == 5 * 2 * 2
  for metric in ("capacity", "simulated_capacity", "null_capacity"):
    assert sum(row["metric"] == metric for row in rows) == 5 * 2 * 2
  for name in ("capacity", "capacity_along"):
    for suffix in (".png", ".pdf"):
      assert (out / "figures" / (name + suffix)).stat().st_size
  second = execute("capacity", run=trained, **SMALL)
  assert "nothing to do" in second.stdout
  assert runs.read_rows(out) == rows
  other = execute("capacity", run=trained, **(SMALL | {"num_draws": 5}))
  assert other.returncode == 1
  assert "another num_draws" in other.stderr

  # Cut off after 3 units, then inside the rows of the fourth.
  killed = tmp_path / "killed"
  assert in_part(trained, killed, 3) == 3
  calm = (out / "results.jsonl").read_bytes()
  count = len(runs.read_rows(killed))
  torn = b"".join(calm.splitlines(True)[: count + 2]) + b'{"seed": 0, "ep'
  (killed / "results.jsonl").write_bytes(torn)
  assert in_part(trained, killed, None) == 5 * 2 * 2
  assert (killed / "results.jsonl").read_bytes() == calm


def test_the_subsets_of_the_run_are_compared(trained):
  experiment = analysis.load_experiment(trained)
  config = dataclasses.replace(experiment.config, subsets="test")
  job = trained, experiment._replace(config=config), COMPARISON
  units = list(analysis.run_units(*job))
  assert {unit.columns["subset"] for unit in units} == {"test"}
  assert len(units) == analysis.count_run_units(*job) == 5 * 2


def test_a_run_that_is_none_is_refused(tmp_path):
  found = execute("capacity", run=tmp_path)
  assert found.returncode == 1
  assert "is not a run directory" in found.stderr


@pytest.mark.parametrize(
  ("fields", "sentence"),
  [
    ({"epochs": "first"}, "epochs 'first' is not known"),
    ({"num_draws": 0}, "num_draws is 0"),
    ({"dimension": 500}, "dimension is 500"),
    ({"num_manifolds": 1}, "too few to compare"),
  ],
)
def test_bad_input_is_a_sentence(fields, sentence):
  with pytest.raises(ValueError, match=sentence):
    analysis.check_capacity(analysis.CapacityConfig(**fields))


def test_synthetic_units_are_what_they_say():
  config = analysis.CapacityConfig(
    num_manifolds=8, manifold_points=3, num_features=40, dimension=2
  )
  units = list(analysis.synthetic_units(config))
  assert len(units) == analysis.count_synthetic_units(config)
  assert len({analysis.name_of(u.columns) for u in units}) == len(units) - 4
  for unit in units:
    family = unit.columns["subset"]
    size = {"points": 1, "segments": 2}.get(family, 3)
    assert unit.points.shape == (8, size, 40)
    if family == "points":
      assert unit.exact == pytest.approx(2)
  segment = next(u for u in units if u.columns["subset"] == "segments")
  # Half the distance of the ends is the radius; the exact value is of the
  # radius in units of the centre's norm about the mean of all centres.
  ends = segment.points[:, 1] - segment.points[:, 0]
  np.testing.assert_allclose(np.linalg.norm(ends, axis=1) / 2, 0.1, rtol=1e-4)
  assert segment.exact == pytest.approx(
    float(geometry.segment_capacity(0.1 / np.sqrt(7 / 8)))
  )


def row(metric, value, **columns):
  base = {"seed": 0, "subset": "clouds", "centers": "none", "layer": None}
  return base | {"metric": metric, "value": value, "stderr": 0.01} | columns


def test_agreement_is_counted_from_rows():
  rows = [
    row(metric, value, manifold_radius=radius)
    for radius, theory, simulated in [
      (0.1, 1.0, 1.0),
      (0.3, 0.5, 0.55),
      (1.0, 0.25, 0.2),
      (3.0, 0.1, None),
    ]
    for metric, value in [
      ("capacity", theory),
      ("simulated_capacity", simulated),
    ]
  ]
  (found,) = analysis.agreements(rows)
  assert (found.count, found.unknown) == (3, 1)
  assert found.ratios[0] == pytest.approx(0.8)
  assert found.ratios[-1] == pytest.approx(1.1)
  assert found.farthest == "clouds R=1.0"
  assert found.correlation > 0.97
  for draw in plots.FIGURES["capacity"].values():
    draw(rows)
