"""Which layers memorize? Rewinds of a finished run, figure 4A-B of the paper.

Puts some layers of the last network back to an earlier epoch and keeps the
others, without training: each layer alone, the last j layers, the first j.

  python -m experiments.rewind --run=runs/demo

takes 20 seconds on two cores for the demo: 18 networks for each of 12 saved
epochs. Over three seeds of the demo, rewound to the best epoch, the last three
of seven layers recover 6 % of the test accuracy that was lost, the last six
90 %, the first four 84 %; no single layer recovers more than 15 %, and conv2,
conv3 or conv4 alone forgets most of the permuted labels. `--layers=fc1,fc2`
rewinds layers of your choice, `--batch_norm` chooses the batch statistics.

Repeat the command to resume what was interrupted.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.LayerRewind)
