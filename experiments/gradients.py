"""What drives memorization? The gradients, split: figure A.1 of the paper.

At every saved epoch of a finished run the full-set gradient of the unpermuted
and of the permuted examples, by layer, split into the part that depends on the
labels and the part that does not; and, at initialization, how the label part
falls with the number of examples (n^-1/2 where labels are permuted).

  python -m experiments.gradients --run=runs/demo

takes less than a minute on two cores for the demo, and leaves rows and figures
in runs/demo/gradients. On three seeds of it the label part of the permuted
examples, relative to the unpermuted, is 0.04 at initialization, 0.13 at the
best epoch and 0.73 at the last one, without the noise of a finite set; the
slope of the law is -0.510 ± 0.012. The same command again resumes what was cut
off. Memory: the law holds draws + 1 gradients for each doubling of n, the rest
64 (eight blocks of both sets).
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Gradients)
