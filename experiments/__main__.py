"""Runs a study of a finished run by its name, one with a binary or without.

python -m experiments NAME --run=DIR

NAME is one of `geomem.studies.STUDIES`; --help behind it lists the flags.
"""

import sys

from experiments import cli
from geomem.studies import STUDIES


def main() -> None:
  """Takes the name off the command line, and runs the study."""
  known = [name for name, study in STUDIES.items() if hasattr(study, "stages")]
  if len(sys.argv) < 2 or sys.argv[1] not in known:
    names = ", ".join(known)
    print(f"Error: give the name of a study: {names}.", file=sys.stderr)
    sys.exit(2)
  name = sys.argv.pop(1)
  if name == "memorization":
    cli.training(name, sweeps=("permuted_fraction", "model", "width"))
  else:
    cli.study_of_run(STUDIES[name])


if __name__ == "__main__":
  main()
