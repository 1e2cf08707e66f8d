"""What drives memorization? Gradients split by labels: the paper's figure A.1.

At every saved epoch of a finished run, the gradients of all unpermuted and of
all permuted examples are split, by layer, into a part that depends on the
labels and a part that does not. At initialization, the study also measures how
the label part falls with the number n of examples (as n^-1/2 where labels are
permuted).

  python -m experiments gradients --run=runs/demo

takes less than a minute on two cores for the demo, and writes rows and figures
to runs/demo/gradients. docs/reproduction.md describes the results for the demo
and for CIFAR-100. Repeat the command to resume what was interrupted.

The n^-1/2 law holds draws + 1 gradients in memory for each doubling of n, the
rest 64 (eight blocks of both sets).
"""

from experiments import cli
from geomem import studies

if __name__ == "__main__":
  cli.study_of_run(studies.Gradients)
