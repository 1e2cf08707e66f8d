"""The solver and the layer analysis, timed beside what one would take instead.

  python -m experiments.benchmark --out=runs/benchmark

takes three minutes on two cores; nothing else should run meanwhile. DAQP and
quadprog take part where they are installed, and take longer: pip install -e
".[bench]".
"""

import pathlib

from absl import flags

from experiments import flags as common
from experiments import terminal, values
from geomem import runs
from geomem.analysis import benchmark

_OUT = values.define_path("out", "runs/benchmark", "run directory")
flags.DEFINE_list("sizes", ["20", "50", "100", "200"], "M, points")
flags.DEFINE_list("kappas", ["0", "0.5"], "margins κ")
_LAYER = flags.DEFINE_bool("layer", True, "whether to time a whole layer")


def _print_table(rows, size: int, kappa: float) -> None:
  """Microseconds a problem by family and solver; the errors of ours."""
  here = [
    row
    for row in rows
    if (row.get("points"), row.get("kappa")) == (size, kappa)
  ]
  value = {
    (r["family"], r["solver"], r["metric"]): (r["value"], r["stderr"])
    for r in here
  }
  names = list(dict.fromkeys(row["solver"] for row in here))
  print(f"\nM = {size}, κ = {kappa}: microseconds a problem (± spread)")
  print(f"{'':14}" + "".join(f"{name:>18}" for name in names))
  for family in dict.fromkeys(row["family"] for row in here):
    cells = [value[family, name, "microseconds"] for name in names]
    print(f"{family:14}" + "".join(f"{v:11.2f} ± {s:4.1f}" for v, s in cells))
  for metric in ("capacity_error", "force_error"):
    worst = {
      name: max(
        v for (_, n, m), (v, _) in value.items() if (n, m) == (name, metric)
      )
      for name in names
    }
    print(f"{metric:14}" + "".join(f"{worst[name]:18.1e}" for name in names))


def _is_done(rows, size: int, kappa: float) -> bool:
  return any(
    (row.get("points"), row.get("kappa")) == (size, kappa) for row in rows
  )


def main(argv) -> int:
  """Times what is not timed yet, and prints the tables."""
  del argv
  sizes = values.list_of("sizes", int)
  kappas = values.list_of("kappas", float)
  if min(sizes) < 1:
    raise flags.IllegalFlagValueError(
      f"--sizes has {min(sizes)}; at least 1 was expected."
    )
  config = {"experiment": "benchmark", "sizes": sizes, "kappas": kappas}
  with runs.Run(pathlib.Path(_OUT.value), config) as run:
    pairs = [(size, kappa) for size in sizes for kappa in kappas]
    for size, kappa in pairs:
      if _is_done(run.rows(), size, kappa):
        continue
      rows = []
      with terminal.bar(7, f"M = {size}, κ = {kappa}") as bar:
        for part in benchmark.compare_solvers(size, kappa):
          rows += part
          bar.update()
      run.append(rows)
    if _LAYER.value and not any(r["metric"] == "seconds" for r in run.rows()):
      run.append(benchmark.compare_layer())
    for size, kappa in pairs:
      _print_table(run.rows(), size, kappa)
    print("\nA layer of 100 manifolds of 50 points in 5,000 features, seconds:")
    for row in run.rows():
      if row["metric"] in ("seconds", "first_call"):
        print(f"  {row['solver']:28}{row['metric']:12}{row['value']:8.3f}")
    run.mark_done()
  return 0


if __name__ == "__main__":
  common.run(main)
