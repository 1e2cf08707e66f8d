"""The documentation shows every public name, from its docstring."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import types

import geomem

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
  page: page.read_text() for page in (ROOT / "docs" / "api").glob("*.md")
}


def rooms() -> list[types.ModuleType]:
  """The packages and modules right below `geomem`, by name."""
  found = pkgutil.iter_modules(geomem.__path__, "geomem.")
  return [importlib.import_module(name) for _, name, _ in found]


def public_names(room: types.ModuleType) -> list[str]:
  """What `__all__` lists, or what a module without one defines itself."""
  if hasattr(room, "__all__"):
    return sorted(room.__all__)
  return sorted(
    name
    for name, value in vars(room).items()
    if not name.startswith("_")
    and getattr(value, "__module__", None) == room.__name__
  )


def shown(room: types.ModuleType) -> tuple[bool, set[str]]:
  """Whether a page shows the whole room, and the names it singles out."""
  whole, names = False, set()
  for text in PAGES.values():
    found = re.findall(r"^::: (\S+)\n((?:    .*\n)*)", text, re.MULTILINE)
    for path, options in found:
      if path == room.__name__:
        whole |= "members: false" not in options
      elif path.startswith(f"{room.__name__}."):
        names.add(path.rpartition(".")[2])
  return whole, names


def is_table(value) -> bool:
  """Tells values and unions of types, which have no docstring of their own."""
  kinds = dict | tuple | str | types.UnionType | types.GenericAlias
  return isinstance(value, kinds)


def must_be_singled_out(room: types.ModuleType, name: str) -> bool:
  """Whether a page of the whole room lacks a name.

  It lacks tables; what is imported when it is asked for; and what is hidden by
  a module of the same name from those who read the sources.
  """
  path = pathlib.Path(room.__file__)
  is_hidden = (
    path.name == "__init__.py" and path.with_name(f"{name}.py").exists()
  )
  return name not in vars(room) or is_table(getattr(room, name)) or is_hidden


def test_every_public_name_has_a_docstring():
  for room in rooms():
    for name in public_names(room):
      value = getattr(room, name)
      assert is_table(value) or inspect.getdoc(value), f"{room.__name__}.{name}"


def test_the_pages_show_every_public_name():
  for room in rooms():
    whole, names = shown(room)
    for name in public_names(room):
      if not whole or must_be_singled_out(room, name):
        assert name in names, f"{room.__name__}.{name} is on no page"


def test_the_pages_single_out_nothing_else():
  for room in rooms():
    _, names = shown(room)
    assert names <= set(public_names(room))
