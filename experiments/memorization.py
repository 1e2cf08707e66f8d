r"""Where and when does a network memorize? Figures 2 and 3 of the paper.

Trains on labels of which a part is permuted, then measures capacity, radius
and dimension of every layer at every saved epoch, for the unpermuted, permuted,
restored and test examples.

  python -m experiments.memorization --out=runs/demo

takes some 80 seconds on two cores: a small convolutional network on
scikit-learn's digits, half of the labels permuted. For the paper's network:

  python -m experiments.memorization --out=runs/vgg16 --preset=paper_vgg16

The same command again resumes a run that was cut off. Several values of
--permuted_fraction, --model or --width make a sweep:

  python -m experiments.memorization --out=runs/noise \
    --permuted_fraction=0,0.25,0.5,0.75,1 --manifold_points=20
"""

import pathlib

from absl import flags

from experiments import flags as common
from experiments import presets, values, work
from geomem import analysis, parallel

_OUT = values.define_path("out", "runs/memorization", "run directory")
_LISTS = ("permuted_fraction", "model", "width")
common.define_config_flags(lists=_LISTS)
common.define_share_flag()
presets.define_preset_flag("memorization")


def _print_table(rows) -> None:
  """Accuracies and the deepest hidden layer's geometry, best and last epoch."""
  layer = analysis.last_hidden_layer(rows)
  deepest = analysis.of_layer(rows, layer)
  seeds = sorted({row["seed"] for row in rows})
  print(
    f"{'':12}{'epoch':>6}{'accuracy':>10}{'capacity':>10}"
    f"{'radius':>8}{'dimension':>11}   (layer {layer})"
  )
  for which in ("best", "last"):
    geometry = {
      metric: analysis.layer_means(deepest, metric, which)
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
      found = {metric: by[subset][0] for metric, by in geometry.items()}
      print(
        f"{subset:12}{sum(epochs.values()) / len(seeds):6.0f}"
        f"{sum(accuracy) / len(accuracy):10.3f}"
        f"{found['capacity']:10.4f}{found['radius']:8.3f}"
        f"{found['dimension']:11.2f}"
      )


def main(argv) -> int:
  """Runs the experiment, resumes it, or says that it is done."""
  del argv
  with values.command_line():
    presets.apply_preset("memorization")
  kind = analysis.ExperimentConfig
  config = common.config_from_flags(kind, _LISTS)
  swept = common.values_from_flags(kind, _LISTS)
  axes = {field: v for field, v in swept.items() if len(v) > 1}
  path = pathlib.Path(_OUT.value)
  if axes:
    return work.run_sweep(
      path,
      "memorization_sweep",
      config,
      axes,
      analysis.summarize_noise,
      share=flags.FLAGS.cell,
    )
  if flags.FLAGS.cell:
    raise flags.IllegalFlagValueError(
      "--cell shares the cells of a sweep; give several values of one of"
      f" {', '.join('--' + field for field in _LISTS)}."
    )
  with values.command_line():  # Bad input shows before work.
    experiment = analysis.prepare(config)
    seeds = analysis.prepare_seeds(experiment)
  whole = analysis.config_dict(config)
  with analysis.open_run(path, whole, experiment.origin) as run:
    if work.was_complete(run):
      return 0
    network = experiment.network
    print(
      f"{config.dataset}: {len(experiment.train.labels)} training examples of"
      f" {experiment.num_classes} classes, {network.name} with"
      f" {network.num_parameters:,} parameters, to {path}"
    )
    print(parallel.describe(experiment.config.batch_size))
    work.train_and_measure(run, experiment, seeds)
    work.report(run, _print_table)
    run.mark_done()
  return 0


if __name__ == "__main__":
  common.run(main)
