"""The gradients of a finished run: every saved epoch, and the law at its start.

What is done is in the rows: each unit of work ends with a row that says so,
`examples_used`, and a unit that has it is not done again.
"""

from collections.abc import Iterator

import numpy as np

from geomem import runs, training
from geomem.analysis import gradient_law as law
from geomem.analysis import gradient_linear as linear
from geomem.analysis import gradients
from geomem.analysis.findings import epoch_of
from geomem.analysis.gradient_measures import (
  SUBSETS,
  inner_products,
  measure,
)
from geomem.analysis.gradient_plan import (
  LAW_UNITS,
  STREAM,
  checkpoint_directory,
)


def _is_done(run, **columns) -> bool:
  return not run.has_holes and any(
    row["metric"] == "examples_used"
    and all(row.get(name) == value for name, value in columns.items())
    for row in run.rows()
  )


def _append(run, network, rows, number, **columns) -> None:
  """Appends the rows of a unit of work, and at last that it is done."""
  index = {layer: i for i, layer in enumerate(network.layer_names)}
  tagged = []
  for row in rows:
    if "network" not in row and row.get("layer") is not None:
      row = row | {"layer_index": index[row["layer"]]}
    tagged.append(columns | row)
  done = {"metric": "examples_used", "value": number}
  run.append([*tagged, columns | done])


def _measure_epoch(run, experiment, plan, state, epoch, mode):
  """Both subsets at one epoch, in one mode; hands on each."""
  network = experiment.network
  train = mode == "training"
  sums = []
  for name in SUBSETS:
    sums.append(
      gradients.block_sums(
        network,
        state,
        plan.examples[name],
        batch_size=plan.batch_size if train else gradients.BATCH_SIZE,
        train=train,
      )
    )
    yield f"epoch {epoch}, {mode}, {name}"
  products = inner_products(*sums, network.parameter_layers)
  rows = [
    {"layer": layer} | row
    for layer, found in products.items()
    for row in measure(found)
  ]
  number = int(sums[0].counts.sum())
  columns = {"seed": plan.seed, "epoch": epoch, "mode": mode}
  _append(run, network, rows, number, **columns)


def _measure_law(run, experiment, plan, state, draws):
  """The law on the initial network and the closed form; hands on each."""
  network, num_classes = experiment.network, experiment.num_classes
  rng = np.random.default_rng([plan.seed, STREAM, 1])
  rows = []
  for name, examples in plan.examples.items():
    order = rng.permutation(len(examples.labels))
    examples = examples._replace(
      images=examples.images[order], labels=examples.labels[order]
    )
    labels = {"own": examples.labels[None]}
    if name == "permuted":
      labels = law.draw_labels(examples.labels, num_classes, draws, rng)
    for drawn, of_draws in labels.items():
      found = law.norms_by_size(network, state, examples, of_draws)
      rows += law.law_rows(found, name, drawn)
      yield f"law, {name}, {drawn}"
  small = linear.deep_linear(num_classes, network.image_shape, plan.seed)
  for name, examples in plan.examples.items():
    images = linear.centered_images(examples.images, experiment.std)
    rows += linear.linear_rows(*small, images, examples.labels, name)
    yield f"closed form, {name}"
  number = len(plan.examples["permuted"].labels)
  columns = {"seed": plan.seed, "epoch": 0, "mode": "law"}
  _append(run, network, rows, number, **columns)


def measure_gradients(run, experiment, plan, draws: int) -> Iterator[str]:
  """Does what is not done yet, and appends the rows of each epoch and mode.

  Args:
    run: the run directory of the gradients.
    experiment: the finished run's.
    plan: of one seed.
    draws: of the permuted labels.

  Yields:
    A name for each unit of work that was done, or found done.
  """
  facts = runs.read_rows(plan.path)
  run.append(
    {"seed": plan.seed, "metric": f"{w}_epoch", "value": value}
    for w in ("best", "last")
    for value in [epoch_of(facts, w, plan.seed)]
  )
  like = experiment.network.abstract_state
  with training.Checkpoints(
    checkpoint_directory(plan.path, plan.seed)
  ) as saved:
    # The most telling first, for whoever looks before the end.
    work = [
      *((epoch, "evaluation") for epoch in plan.epochs),
      (0, "law"),
      *((epoch, mode) for mode in plan.modes[1:] for epoch in plan.epochs),
    ]
    for epoch, mode in work:
      if _is_done(run, seed=plan.seed, epoch=epoch, mode=mode):
        found = f"epoch {epoch}, {mode}"
        yield from [found] * (LAW_UNITS if mode == "law" else 2)
        continue
      state = saved.load(epoch, like)
      if mode == "law":
        yield from _measure_law(run, experiment, plan, state, draws)
      else:
        yield from _measure_epoch(run, experiment, plan, state, epoch, mode)
