"""Which layers memorize? Rewinds of a finished run, figure 4A-B of the paper.

Puts some layers of the last network back to an earlier epoch and keeps the
others, without training: each layer alone, the last j layers, the first j.

  python -m experiments rewind --run=runs/demo

takes 20 seconds on two cores for the demo: 18 networks for each of 12 saved
epochs. `--layers=fc1,fc2` rewinds layers of your choice, and `--batch_norm`
chooses the batch statistics. docs/reproduction.md says what the rewinds of the
demo and of CIFAR-100 recover.

Repeat the command to resume what was interrupted.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.LayerRewind)
