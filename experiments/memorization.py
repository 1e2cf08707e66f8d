r"""Where and when does a network memorize? Figures 2 and 3 of the paper.

Trains on labels of which a part is permuted, then measures capacity, radius
and dimension of every layer at every saved epoch, for the unpermuted, permuted,
restored and test examples. The best epochs of all seeds come first, then the
last ones; --measure_epochs=best,last measures only these, as figure 3 does.

  python -m experiments.memorization --out=runs/demo

takes some 80 seconds on two cores: a small convolutional network on
scikit-learn's digits, half of the labels permuted. For the paper's network:

  python -m experiments.memorization --out=runs/vgg16 --preset=paper_vgg16

The same command again resumes a run that was cut off. Several values of
--permuted_fraction, --model or --width make a sweep:

  python -m experiments.memorization --out=runs/noise \
    --permuted_fraction=0,0.25,0.5,0.75,1 --manifold_points=20
"""

from experiments import cli

if __name__ == "__main__":
  cli.training("memorization", sweeps=("permuted_fraction", "model", "width"))
