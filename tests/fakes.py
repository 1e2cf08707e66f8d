"""Run directories as if something had worked on them, and what tests share."""

import functools
import itertools

import jax
import numpy as np
import pytest

from geomem import measures, plots, runs

_NUMBERS = itertools.count()
# Fields of a run that takes a second. Tests that share it share its programs.
SMALL_RUN = {
  "model": "mlp1",
  "width": 4,
  "num_classes": 3,
  "examples_per_class": 60,
  "epochs": 2,
  "batch_size": 30,
  "manifold_points": 5,
  "num_probes": 10,
  "num_seeds": 2,
}


def also_long(*cases):
  """Marks the cases of a parametrized test that `make long` runs."""
  return [pytest.param(case, marks=pytest.mark.long) for case in cases]


@functools.partial(jax.jit, static_argnums=0)
def compute(name, statistics):
  """Computes a measure by name, as one program."""
  measure = measures.MEASURES[name]
  return measure.compute(jax.random.key(0), statistics, measures.Options())


def numbers_of(name, statistics) -> dict[str, float]:
  """Returns the numbers of a measure by their names, for one set."""
  found = jax.tree.map(lambda x: x[None], compute(name, statistics))
  summary = measures.MEASURES[name].summarize(found)
  return {n: float(values[0]) for n, (values, _) in summary.items()}


def fields_of(config) -> dict:
  """Returns a training run's config as its directory keeps it."""
  return {"experiment": "memorization"} | config.as_dict()


def commit(run, rows) -> None:
  """Appends rows as a unit of work of their own."""
  run.commit({"fake": next(_NUMBERS)}, rows)


def write_run(path, config, rows, *, done=True) -> runs.Rows:
  """Writes a run directory that holds the rows."""
  with runs.Run(path, config) as run:
    commit(run, rows)
    if done:
      run.finish()
    return run.rows


def draw_as_png(monkeypatch) -> None:
  """Lets figures be drawn as PNG alone; as PDF, too, they take twice as long.

  Tests of memorization and of values draw PDFs.
  """
  save = functools.partial(plots.save_figure, suffixes=(".png",))
  monkeypatch.setattr(plots, "save_figure", save)


def shown(figure) -> set[float]:
  """Returns the numbers that a figure shows, read back from its axes.

  They are the heights of lines and markers, and the colours of images, to four
  digits.
  """
  numbers = set()
  for ax in figure.axes:
    arrays = [line.get_ydata() for line in ax.get_lines()]
    arrays += [image.get_array() for image in ax.get_images()]
    for array in arrays:
      values = np.ma.filled(np.ma.asarray(array, float), np.nan).ravel()
      numbers |= {float(f"{value:.4g}") + 0.0 for value in values}
  return numbers


def line_of(handle):
  """Returns the line of a legend's handle, of which an error bar has one."""
  return getattr(handle, "lines", [handle])[0]


def curve(ax, label: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns x and y of the one curve that is labelled so."""
  (line,) = (
    line_of(handle)
    for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
    if name == label
  )
  return tuple(np.asarray(values, float) for values in line.get_data())


def assert_distinct(figure) -> None:
  """Asserts that lines of a legend differ by colour, marker or dashes."""
  looks = {}
  for ax in figure.axes:
    for line in ax.get_lines():
      label = line.get_label()
      # Accuracy and capacity have each a chance level, in panels of their own.
      label = "chance" if label.startswith("chance") else label
      if not label.startswith("_"):
        look = (line.get_color(), line.get_marker(), line.get_linestyle())
        looks.setdefault(look, set()).add(label)
  assert all(len(labels) == 1 for labels in looks.values()), looks
