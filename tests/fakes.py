"""Run directories as if something had worked on them."""

import itertools

from geomem import runs

_NUMBERS = itertools.count()


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
