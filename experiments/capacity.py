"""Does the theory hold? Figure 1B of the paper: theory against simulation.

Mean-field capacity is compared with simulated capacity: random dichotomies
(divisions of the manifolds into two groups) of the same points are tested for
separability. The points are those of synthetic manifolds,

  python -m experiments capacity --out=runs/capacity

or of every layer of a finished run, at its best and its last epoch:

  python -m experiments capacity --run=runs/demo

which writes to runs/demo/capacity. The two commands take one and two minutes
on two cores. Repeat a command to resume what was interrupted.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Capacity)
