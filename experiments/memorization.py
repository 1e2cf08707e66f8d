r"""Where and when does a network memorize? Figures 2 and 3 of the paper.

Trains on partly permuted labels, then measures the capacity, radius and
dimension of the classes in every layer at every saved epoch, for four subsets:
unpermuted, permuted, restored (the permuted examples with their true labels)
and test examples. The best epochs of all seeds are measured first, then the
last ones; --measure_epochs=best,last measures only these, as in figure 3.

  python -m experiments memorization --out=runs/demo

takes about 80 seconds on two cores: a small convolutional network on
scikit-learn's digits, half of the labels permuted. For the paper's network:

  python -m experiments memorization --out=runs/vgg16 --preset=paper_vgg16

Repeat a command to resume an interrupted run. Several values of
--permuted_fraction, --model or --width make a sweep:

  python -m experiments memorization --out=runs/noise \
    --permuted_fraction=0,0.25,0.5,0.75,1 --manifold_points=20
"""

from experiments import cli

if __name__ == "__main__":
  cli.training("memorization", sweeps=("permuted_fraction", "model", "width"))
