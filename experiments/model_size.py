r"""Double descent by model size, and the geometry: figure 4C-E of the paper.

Trains networks of several widths on partly permuted labels, the seeds of each
width together, and measures the last hidden layer at every saved epoch.

  python -m experiments model_size --out=runs/model_size

sweeps a network with one hidden layer on scikit-learn's digits, in five minutes
on two cores. The paper's sweep, ResNet-18 on CIFAR-100, is

  python -m experiments model_size --out=runs/resnet18 \
    --preset=paper_double_descent

Every width is a run in its own directory: repeat the command to resume, add
widths at any time, or share a sweep between several jobs with --cell=0/8,
--cell=1/8 and so on, with the array index of a batch system.
"""

from experiments import cli

if __name__ == "__main__":
  cli.training("model_size", sweeps=("width",))
