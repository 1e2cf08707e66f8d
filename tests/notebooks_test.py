"""The notebooks are stored clean, and run from top to bottom."""

import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# In the place of each notebook's own, and the figures it should draw.
SMALL = {
  "double_descent": "widths, epochs, num_seeds, num_probes = [3, 5], 2, 2, 10",
  "geometry_quickstart": (
    "num_points, num_probes, num_draws, radii = 10, 20, 10, [0.5, 2.0]"
  ),
  "layer_rewind": "epochs, width = 2, 4",
  "memorization": "epochs, num_probes, manifold_points, width = 2, 20, 10, 4",
}
FIGURES = {
  "double_descent": 2,
  "geometry_quickstart": 2,
  "layer_rewind": 3,
  "memorization": 3,
}


def read(path: pathlib.Path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  return notebook


def code_cells(notebook) -> list:
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_parameters(cell) -> bool:
  return "parameters" in cell.metadata.get("tags", [])


def test_there_are_the_four_and_all_begin_alike():
  assert [path.stem for path in NOTEBOOKS] == sorted(SMALL)
  first = {code_cells(read(path))[0].source for path in NOTEBOOKS}
  assert len(first) == 1
  assert "jax.devices()" in first.pop()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_without_outputs(path):
  cells = code_cells(read(path))
  assert not any(cell.outputs or cell.execution_count for cell in cells)
  assert sum(map(is_parameters, cells)) == 1


@pytest.fixture
def kernel(tmp_path, tmp_path_factory, monkeypatch):
  """The environment of the kernel: most of its time would go to compiling."""
  cache = tmp_path_factory.getbasetemp().parent / "compiled"
  for name, value in {
    "PYTHONPATH": ROOT,
    "TMPDIR": tmp_path,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": 1,
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.5,
  }.items():
    monkeypatch.setenv(name, str(value))


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
  notebook = read(path)
  (parameters,) = filter(is_parameters, notebook.cells)
  parameters.source += "\n" + SMALL[path.stem]
  where = {"metadata": {"path": str(tmp_path)}}
  nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
  outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
  figures = ["image/png" in out.get("data", {}) for out in outputs]
  assert sum(figures) == FIGURES[path.stem]
  said = "".join(out.text for out in outputs if out.output_type == "stream")
  assert "Warning" not in said
