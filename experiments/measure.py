"""Asks a finished run a new question: further measures of its layers.

  python -m experiments.measure --run=runs/demo --measures=spectrum

measures every layer at every saved epoch, on the manifolds and with the probes
of the run itself, and writes to RUN/measure-NAMES. Nothing is trained. The same
command again resumes what was cut off.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Measuring)
