"""The house stands as drawn: imports run one way, and geometry is light."""

import ast
import pathlib
import subprocess
import sys

import pytest

import geomem

ROOT = pathlib.Path(__file__).parent.parent

# Room -> rooms of geomem that it may import.
ARROWS = {
  "disk": set(),
  "environment": set(),
  "parallel": set(),
  "runs": {"disk", "environment"},
  "data": {"disk"},
  "models": set(),
  "training": {"data", "disk", "models", "parallel", "runs"},
  "activations": {"parallel"},
  "geometry": set(),
  "analysis": {
    "parallel",
    "runs",
    "data",
    "models",
    "training",
    "activations",
    "geometry",
  },
  "plots": {"disk", "runs"},
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


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_imports_run_the_allowed_ways(path):
  room = room_of(path)
  if room == "__init__":
    return
  rooms = {
    name.split(".")[1]
    for name in imported_modules(path)
    if name.startswith("geomem.") and name != "geomem.__version__"
  }
  assert rooms <= ARROWS[room] | {room}, f"{room} imports {rooms}"


@pytest.mark.parametrize("path", LIBRARY + BINARIES, ids=lambda p: p.stem)
def test_files_stay_short(path):
  assert len(path.read_text().splitlines()) <= 260


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_nothing_imports_the_experiments(path):
  assert not any(n.startswith("experiments") for n in imported_modules(path))


def test_jaxopt_is_imported_in_one_file():
  """In one, and in the comparison with what else there is."""
  users = [
    path.name
    for path in LIBRARY
    if any(n.startswith("jaxopt") for n in imported_modules(path))
  ]
  assert users == ["baselines.py", "qp.py"]


def test_geometry_is_light():
  heavy = "tensorflow flax tensorflow_datasets matplotlib orbax optax sklearn"
  code = (
    "import sys, geomem.geometry; "
    f"print([m for m in '{heavy}'.split() if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "[]"


def test_strict_users_can_import_it():
  code = "import geomem, geomem.geometry, geomem.analysis, geomem.plots"
  subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
