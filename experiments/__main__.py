"""Runs any study of a finished run by name, also one without its own binary.

  python -m experiments NAME --run=DIR

runs a study; --help after NAME lists its flags.
"""

import sys
import textwrap

from experiments import cli, flags
from geomem.studies import STUDIES, takes_a_run


def main() -> None:
  """Takes the name off the command line, and runs the study."""
  studies = {n: study for n, study in STUDIES.items() if takes_a_run(study)}
  if flags.wants_help(sys.argv[1:2]):
    listed = [_line(*pair) for pair in studies.items()]
    flags.show_help("\n".join([__doc__, "Studies:", "", *listed]))
  if len(sys.argv) < 2 or sys.argv[1] not in studies:
    names = ", ".join(studies)
    print(
      f"Error: give the name of a study: {names}. See --help.", file=sys.stderr
    )
    sys.exit(2)
  cli.study_of_run(studies[sys.argv.pop(1)])


def _line(name: str, study: type) -> str:
  text = study.__doc__.partition("\n")[0]
  return textwrap.fill(
    f"  {name:14}{text}", width=80, subsequent_indent=" " * 16
  )


if __name__ == "__main__":
  main()
