"""The notebooks are stored clean, and run from top to bottom."""

import ast
import asyncio
import inspect
import os
import pathlib
import re
import runpy

import jupyter_client
import nbclient
import nbformat
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# In the place of each notebook's own, and the figures it should draw. Equal
# sizes are compiled once.
SMALL = {
  "double_descent": "widths, epochs, num_seeds, num_probes = [3, 5], 2, 2, 10",
  "geometry_quickstart": (
    "num_points, num_probes, num_draws, num_balls = 10, 10, 5, 10\n"
    "radii = [0.5, 2.0]"
  ),
  "glue_and_friends": (
    "num_points, num_probes, num_draws, num_manifolds = 10, 10, 5, 10\n"
    "strengths = [0.0, 0.9]"
  ),
  "layer_rewind": "epochs, width, num_probes = 1, 4, 10",
  "memorization": "epochs, num_probes, manifold_points, width = 1, 10, 10, 4",
  "your_own_network": "epochs, num_probes, num_points, width = 1, 10, 10, 4",
}
FIGURES = {
  "double_descent": 2,
  "geometry_quickstart": 2,
  "glue_and_friends": 3,
  "layer_rewind": 3,
  "memorization": 3,
  "your_own_network": 2,
}


def read(path: pathlib.Path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  return notebook


def code_cells(notebook) -> list:
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_parameters(cell) -> bool:
  return "parameters" in cell.metadata.get("tags", [])


def test_all_begin_alike():
  assert [path.stem for path in NOTEBOOKS] == sorted(SMALL)
  begins = set()
  for path in NOTEBOOKS:
    install, parameters, results = code_cells(read(path))[:3]
    begins.add((install.source, results.source))
    assert is_parameters(parameters)
    for line in ('folder = ""  # @param', "on_drive = False  # @param"):
      assert line in parameters.source
  assert len(begins) == 1
  assert "jax.devices()" in begins.pop()[0]


def test_paths_may_start_at_home(tmp_path, monkeypatch):
  """All begin alike, and one takes data of a user's own."""
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  cells = code_cells(read(ROOT / "colabs" / "geometry_quickstart.ipynb"))
  names = {"folder": "~/mine", "on_drive": False, "pathlib": pathlib}
  exec(cells[2].source, names)
  assert names["results"] == tmp_path / "mine"
  np.savez("own.npz", activations=np.eye(6), labels=np.arange(6) % 2)
  names |= {"own_data": "~/own.npz", "np": np, "num_points": 3}
  (of_own_data,) = (c for c in cells if "np.load(" in c.source)
  exec(of_own_data.source.partition("def ")[0], names)
  assert np.array_equal(names["activations"], np.eye(6))
  assert sorted(os.listdir()) == ["mine", "own.npz"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_without_outputs(path):
  notebook = read(path)
  cells = code_cells(notebook)
  assert not any(cell.outputs or cell.execution_count for cell in cells)
  assert sum(map(is_parameters, cells)) == 1
  assert notebook.metadata.accelerator == "GPU"


def test_the_repository_has_one_address():
  address = runpy.run_path(str(ROOT / "colabs" / "address.py"))
  repository, readdress = address["REPOSITORY"], address["readdress"]
  place = f"colab.research.google.com/github/{repository}/blob/main/colabs/"
  page = (ROOT / "docs" / "colab.md").read_text()
  for path in NOTEBOOKS:
    notebook = read(path)
    badge, install = notebook.cells[0].source, code_cells(notebook)[0].source
    assert badge.startswith("[![Open in Colab]")
    assert f"{place}{path.name})" in badge
    assert f"{place}{path.name})" in page
    assert f'repository = "{repository}"' in install
  for path in address["pages"]():
    text = path.read_text()
    assert readdress(text) == text
    assert repository not in readdress(text, "other/name")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
  """One process for all: most of its time would go to imports and compiling.

  Each notebook begins with no names of another.
  """
  folder = tmp_path_factory.mktemp("notebooks")
  options = {
    "PYTHONPATH": ROOT,
    "TMPDIR": folder,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": 1,
    # Bars of cells are cleared at their end: each step must have been drawn.
    "TQDM_MININTERVAL": 0,
    # Without ipywidgets bars are text, and tqdm.auto says so.
    "PYTHONWARNINGS": "ignore:IProgress not found",
  }
  environment = os.environ | {name: str(x) for name, x in options.items()}
  manager = jupyter_client.AsyncKernelManager(kernel_name="python3")
  yield manager, {"env": environment, "cwd": str(folder)}
  if manager.has_kernel:
    asyncio.run(manager.shutdown_kernel(now=True))


def called(node, names):
  """Returns what an expression such as `studies.run` is, or None."""
  if isinstance(node, ast.Name):
    return names.get(node.id)
  if isinstance(node, ast.Attribute):
    owner = called(node.value, names)
    if inspect.ismodule(owner) and owner.__name__.startswith("geomem"):
      return getattr(owner, node.attr)  # An error where there is none.
  return None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_it_calls_takes_what_it_gives(path):
  """Names of geomem are there, and its functions have the arguments."""
  source = "\n".join(
    re.sub(r"^(\s*)[%!].*", r"\1pass", cell.source, flags=re.MULTILINE)
    for cell in code_cells(read(path))
  )
  tree, names, count = ast.parse(source), {}, 0
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      module = getattr(node, "module", None) or node.names[0].name
      if module.partition(".")[0] == "geomem":
        exec(ast.unparse(node), names)
  for node in ast.walk(tree):
    called(node, names)
    if not isinstance(node, ast.Call):
      continue
    function = called(node.func, names)
    if function is None:
      continue
    count += 1
    keywords = {x.arg: x.value for x in node.keywords}
    starred = any(isinstance(x, ast.Starred) for x in node.args)
    if starred or None in keywords:
      continue
    inspect.signature(function).bind(*node.args, **keywords)
  assert count > 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, kernel):
  manager, how = kernel
  notebook = read(path)
  (parameters,) = filter(is_parameters, notebook.cells)
  parameters.source += "\n" + SMALL[path.stem]
  notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
  client = nbclient.NotebookClient(notebook, timeout=300, km=manager)
  try:
    client.execute(cleanup_kc=False, **how)
  finally:
    if client.kc is not None:
      client.kc.stop_channels()
  outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
  figures = ["image/png" in out.get("data", {}) for out in outputs]
  assert sum(figures) == FIGURES[path.stem]
  said = "".join(out.text for out in outputs if out.output_type == "stream")
  assert "Warning" not in said
  last = dict(re.findall(r"([^\r\n|]+): +(\d+)%\|", said))
  assert set(last.values()) == {"100"}, last
