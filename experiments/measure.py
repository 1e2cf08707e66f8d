"""Applies further measures to the layers of a finished run.

  python -m experiments measure --run=runs/demo --measures=spectrum

measures every layer at every saved epoch, on the run's own manifolds, and
writes to RUN/measure-NAMES. Options that are not given have their defaults,
whatever the run used; options that differ from both, and chosen epochs, are
part of the name of the directory. Nothing is trained, and values that the run
has measured with the same settings are not measured again. Repeat the command
to resume what was interrupted.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Measuring)
