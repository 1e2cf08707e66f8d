"""Asks a finished run a new question: further measures of its layers.

  python -m experiments.measure --run=runs/demo --measures=spectrum

measures every layer at every saved epoch, on the manifolds and with the probes
of the run itself, and writes to RUN/measure-NAMES. Nothing is trained, and what
the run has measured with the same settings is not measured again. The same
command again resumes what was cut off. --measure_epochs chooses the epochs.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Measuring)
