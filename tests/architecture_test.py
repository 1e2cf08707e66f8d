"""The house stands as drawn: imports run one way, and geometry is light."""

import ast
import graphlib
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import geomem

ROOT = pathlib.Path(__file__).parent.parent

# Room -> rooms of geomem that it may import.
_BELOW = {"data", "disk", "models", "parallel", "runs", "training", "geometry"}
_STUDIES = _BELOW | {"compilation", "measures", "plots", "shares"}
ARROWS = {
  "compilation": {"disk"},
  "disk": set(),
  "environment": set(),
  "parallel": set(),
  "shares": {"parallel"},
  "runs": {"disk", "environment", "parallel"},
  "data": {"disk", "runs"},
  "models": set(),
  "training": {"compilation", "data", "disk", "models", "parallel", "runs"},
  "geometry": set(),
  "measures": {"compilation", "geometry", "parallel", "runs", "shares"},
  "plots": {"disk", "measures", "runs"},
  "studies": _STUDIES,
  "report": _STUDIES | {"studies"},
}
# As installed: here, or from a wheel.
PACKAGE = pathlib.Path(geomem.__file__).parent
LIBRARY = sorted(PACKAGE.rglob("*.py"))
BINARIES = sorted((ROOT / "experiments").rglob("*.py"))


def room_of(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: pathlib.Path) -> set[str]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative imports hide the arrows"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def test_the_parser_sees_imports():
  assert "pytest" in imported_modules(pathlib.Path(__file__))


def test_imports_run_the_allowed_ways():
  for path in LIBRARY:
    room = room_of(path)
    if room == "__init__":
      continue
    rooms = {
      name.split(".")[1]
      for name in imported_modules(path)
      if name.startswith("geomem.") and name != "geomem.__version__"
    }
    assert rooms <= ARROWS[room] | {room}, f"{path} imports {rooms}"


def module_of(path: pathlib.Path) -> str:
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts).removesuffix(".__init__")


def test_no_imports_go_in_a_circle():
  """Within rooms as between them; a package counts where it is imported."""
  modules = {module_of(path): path for path in LIBRARY}
  graph = {
    module: {
      name if name in modules else name.rpartition(".")[0]
      for name in imported_modules(path)
      if name in modules or name.rpartition(".")[0] in modules
    }
    # A package imports its own modules, and they do not import the package.
    - {module}
    for module, path in modules.items()
  }
  for module in graph:
    # Importing a module imports the packages that it lies in.
    graph[module] -= {m for m in graph[module] if module.startswith(f"{m}.")}
  order = graphlib.TopologicalSorter(graph)
  order.prepare()


@pytest.mark.parametrize("number", [450])
def test_files_stay_short(number):
  for path in LIBRARY + BINARIES:
    assert len(path.read_text().splitlines()) <= number, path


def test_nothing_imports_the_experiments():
  for path in LIBRARY:
    names = imported_modules(path)
    assert not any(n.startswith(("experiments", "benchmarks")) for n in names)


def test_jaxopt_is_imported_in_one_file():
  users = [
    path.name
    for path in LIBRARY
    if any(n.startswith("jaxopt") for n in imported_modules(path))
  ]
  assert users == ["jaxopt_solver.py"]


def test_geometry_is_light():
  heavy = (
    "jaxopt tensorflow flax tensorflow_datasets matplotlib orbax optax sklearn"
  )
  code = (
    "import sys, geomem.geometry; "
    f"print([m for m in '{heavy}'.split() if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "[]"


def test_packages_are_imported_when_they_are_used():
  code = (
    "import sys, geomem; assert 'jax' not in sys.modules;"
    " assert not hasattr(geomem, 'nonesuch');"
    " print(geomem.geometry.simplex_capacity(20))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout == "0.1\n"
  rooms = {name for _, name, _ in pkgutil.iter_modules(geomem.__path__)}
  assert rooms == set(geomem._LAZY)
  assert rooms < set(dir(geomem))


def test_strict_users_can_import_it():
  code = "import geomem, geomem.geometry, geomem.studies, geomem.plots"
  subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
