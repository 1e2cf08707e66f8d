"""Where and when does a network memorize? Figures 2 and 3 of the paper.

Trains on labels of which a part is permuted, then measures capacity, radius
and dimension of every layer at every saved epoch, for the unpermuted, permuted,
restored and test examples.

  python -m experiments.memorization --out=runs/demo

takes two to three minutes on two cores: a small convolutional network on
scikit-learn's digits, half of the labels permuted. For the paper's network:

  python -m experiments.memorization --out=runs/vgg16 --dataset=cifar100

The same command again resumes a run that was cut off.
"""

import pathlib

from absl import flags
from tqdm import tqdm

from experiments import flags as common
from geomem import analysis, plots, runs
from geomem.training import checkpoint_epochs

_OUT = flags.DEFINE_string("out", "runs/memorization", "run directory")
common.define_config_flags()


def _print_table(rows) -> None:
  """Accuracies and the last hidden layer's geometry, best and last epoch."""
  seeds = sorted({row["seed"] for row in rows})
  print(
    f"{'':12}{'epoch':>6}{'accuracy':>10}{'capacity':>10}"
    f"{'radius':>8}{'dimension':>11}   (last hidden layer)"
  )
  for which in ("best", "last"):
    geometry = {
      metric: analysis.layer_means(rows, metric, which)
      for metric in ("capacity", "radius", "dimension")
    }
    epochs = {seed: analysis.epoch_of(rows, which, seed) for seed in seeds}
    for subset in geometry["capacity"]:
      accuracy = [
        row["value"]
        for row in rows
        if row["metric"] == "accuracy"
        and row["subset"] == subset
        and row["epoch"] == epochs[row["seed"]]
      ]
      last_hidden = {m: by[subset][-2] for m, by in geometry.items()}
      print(
        f"{subset:12}{sum(epochs.values()) / len(seeds):6.0f}"
        f"{sum(accuracy) / len(accuracy):10.3f}"
        f"{last_hidden['capacity']:10.4f}{last_hidden['radius']:8.3f}"
        f"{last_hidden['dimension']:11.2f}"
      )


def _report(run: runs.Run) -> None:
  rows = run.rows()
  written = plots.draw_all(run.path)
  _print_table(rows)
  if {"permuted", "restored"} <= {row["subset"] for row in rows}:
    for finding in analysis.find(rows):
      verdict = "holds" if finding.holds else "does not hold"
      print(f"{finding.name} {verdict}: {finding.sentence}.")
  print("Figures:", ", ".join(str(p) for p in written if p.suffix == ".png"))


def _run_seed(run: runs.Run, experiment, seed_number: int) -> None:
  seed = analysis.prepare_seed(experiment, seed_number)
  seed.labels.save(run.path / f"labels_seed{seed_number}.npz")
  epochs = experiment.config.epochs
  training = analysis.train_seed(run, experiment, seed)
  with tqdm(total=epochs, desc=f"seed {seed_number}: training") as bar:
    for epoch, loss in training:
      bar.n = epoch
      if epoch:
        bar.set_postfix(loss=f"{loss:.3f}")
  count = len(checkpoint_epochs(epochs)) * len(experiment.network.layer_names)
  measuring = analysis.measure_seed(run, experiment, seed)
  with tqdm(total=count, desc=f"seed {seed_number}: geometry") as bar:
    for epoch, layer in measuring:
      bar.update()
      bar.set_postfix(epoch=epoch, layer=layer)


def main(argv) -> int:
  """Runs the experiment, resumes it, or says that it is done."""
  if argv[1:]:
    raise ValueError(f"{argv[1]!r} is not a flag; flags start with --.")
  config = common.config_from_flags()
  experiment = analysis.prepare(config)
  seeds = range(config.seed, config.seed + config.num_seeds)
  for number in seeds:
    analysis.prepare_seed(experiment, number)  # Bad input shows before work.
  path = pathlib.Path(_OUT.value)
  with runs.Run(path, analysis.config_dict(config)) as run:
    if run.is_done:
      print(f"{path} is complete; nothing to do.")
      return 0
    network = experiment.network
    print(
      f"{config.dataset}: {len(experiment.train.labels)} training examples of"
      f" {experiment.num_classes} classes, {network.name} with"
      f" {network.num_parameters:,} parameters, to {path}"
    )
    for number in seeds:
      _run_seed(run, experiment, number)
    _report(run)
    run.mark_done()
  return 0


if __name__ == "__main__":
  common.run(main)
