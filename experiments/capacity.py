"""Does the theory hold? Figure 1B of the paper: theory against simulation.

Random dichotomies of manifolds are tried on the very points whose mean-field
capacity is computed: on synthetic manifolds,

  python -m experiments.capacity --out=runs/capacity

or on every layer of a finished run, at its best and its last epoch:

  python -m experiments.capacity --run=runs/demo

which writes to runs/demo/capacity. They take one and two minutes on two
cores. The same command again resumes what was cut off.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Capacity)
