"""Applies further measures to the layers of a finished run.

  python -m experiments measure --run=runs/demo --measures=spectrum

measures every layer at every saved epoch, on the run's own manifolds, and
writes to RUN/measure-NAMES; chosen epochs, and options that are neither the
run's nor the defaults, are part of that name. Options that are not given have
their defaults, whatever those of the run were. Nothing is trained,
and values that the run has measured with the same settings are not measured
again. Repeat the command to resume what was interrupted. --measure_epochs
chooses the epochs.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Measuring)
