"""Runs any study of a finished run by name, also one without its own binary.

python -m experiments NAME --run=DIR

Without NAME it lists the studies; --help after NAME lists its flags.
"""

import sys

from experiments import cli
from geomem.studies import STUDIES, takes_a_run


def main() -> None:
  """Takes the name off the command line, and runs the study."""
  studies = [n for n, study in STUDIES.items() if takes_a_run(study)]
  if len(sys.argv) < 2 or sys.argv[1] not in studies:
    names = ", ".join(studies)
    print(f"Error: give the name of a study: {names}.", file=sys.stderr)
    sys.exit(2)
  cli.study_of_run(STUDIES[sys.argv.pop(1)])


if __name__ == "__main__":
  main()
