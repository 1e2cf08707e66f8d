"""Which figures belong to which experiment."""

import pathlib

from geomem import runs
from geomem.plots import (
  capacity,
  figures,
  gradients,
  model_size,
  noise,
  rewind,
  style,
)

# The `experiment` field of a config -> its figures by name.
FIGURES = {
  "benchmark": {},
  "capacity": capacity.CAPACITY,
  "gradients": gradients.GRADIENTS,
  "memorization": figures.MEMORIZATION,
  "memorization_sweep": noise.MEMORIZATION_SWEEP,
  "model_size": model_size.MODEL_SIZE,
  "rewind": rewind.REWIND,
  "rewind_geometry": rewind.REWIND,
}


def draw_all(
  path: pathlib.Path | str, out: pathlib.Path | str | None = None
) -> list[pathlib.Path]:
  """Draws every figure of a run directory from its rows; returns the files.

  Args:
    path: the run directory.
    out: where `figures` goes; into the run directory by default.
  """
  path = pathlib.Path(path)
  target = path if out is None else pathlib.Path(out)
  kind = runs.read_config(path).get("experiment", "memorization")
  rows = runs.read_rows(path)
  written = []
  if kind not in FIGURES:
    raise runs.RunError(
      f"{path} holds a run of the experiment {kind!r}, which is not known;"
      f" there are {', '.join(FIGURES)}."
    )
  for name, draw in FIGURES[kind].items():
    written += style.save_figure(draw(rows), target / "figures" / name)
  return written
