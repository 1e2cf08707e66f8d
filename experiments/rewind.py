"""Which layers memorize? Rewinds of a finished run, figure 4A-B of the paper.

The last network with some of its layers put back to an earlier epoch, the
others kept, nothing trained: each layer alone, the last j layers, the first j.

  python -m experiments.rewind --run=runs/demo

takes 20 seconds on two cores for the demo: 18 networks for each of 12 saved
epochs. Over three seeds of it, back to the best epoch, the last three of seven
layers recover 6 % of the test accuracy that was lost, the last six 90 %, the
first four 84 %; no single layer's rewind recovers more than 15 %, and those of
conv2 to conv4 forget most of the permuted labels. `--layers=fc1,fc2` rewinds
layers of your own choice, `--batch_norm` says what becomes of batch statistics.

The same command again resumes what was cut off.
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.LayerRewind)
