"""Times the solver and the layer analysis beside alternatives.

  python -m experiments benchmark --out=runs/benchmark

takes three minutes on two cores; run nothing else meanwhile. DAQP and quadprog
are included if they are installed (pip install -e ".[bench]"), which takes
longer.
"""

from benchmarks.benchmark import Benchmark
from experiments import cli

if __name__ == "__main__":
  cli.study_of_run(Benchmark, has_run=False)
