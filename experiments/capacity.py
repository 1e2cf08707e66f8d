"""Does the theory hold? Figure 1B of the paper: theory against simulation.

Random dichotomies of manifolds are tested on the same points whose mean-field
capacity is computed: on synthetic manifolds,

  python -m experiments capacity --out=runs/capacity

or on every layer of a finished run, at its best and its last epoch:

  python -m experiments capacity --run=runs/demo

which writes to runs/demo/capacity. The two commands take one and two minutes
on two cores. Repeat a command to resume what was interrupted.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Capacity)
