"""The page of public names is that of the code; run this file to renew it.

python tests/api_test.py
"""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import re
import types

import geomem

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "api.md"
HEAD = """# Public names

What each room offers: signatures, the fields of what is returned, and a line
each; `help(name)` says the rest. Deeper modules are private. The page is made
from the docstrings: `python tests/api_test.py`.
"""


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
    and not inspect.ismodule(value)
    and getattr(value, "__module__", None) in (room.__name__, None)
  )


def first_line(value) -> str:
  """Of the docstring; of a constant or a union what is in it."""
  if isinstance(value, types.UnionType):
    return " or ".join(f"`{kind.__name__}`" for kind in value.__args__)
  if isinstance(value, dict | tuple):
    return ", ".join(f"`{key}`" for key in value)
  return (inspect.getdoc(value) or "").partition("\n")[0]


def signature(value) -> str:
  """The arguments of a function, without their types."""
  if not inspect.isfunction(value):
    return ""
  parameters = [
    p.replace(annotation=p.empty)
    for p in inspect.signature(value).parameters.values()
  ]
  text = str(inspect.Signature(parameters))
  return re.sub(r"<(?:\w+ )?(\w+) at 0x\w+>", r"\1", text)


def fields_of(value) -> str:
  """The names of the fields of a record."""
  if not inspect.isclass(value):
    return ""
  names = getattr(value, "_fields", ())
  if dataclasses.is_dataclass(value):
    names = [field.name for field in dataclasses.fields(value)]
  listed = ", ".join(f"`{name}`" for name in names)
  return f" Fields: {listed}." if listed else ""


def page() -> str:
  text = HEAD
  for room in rooms():
    names = public_names(room)
    if names:
      text += f"\n## `{room.__name__}`\n\n{first_line(room)}\n\n"
    for name in names:
      line = first_line(getattr(room, name))
      assert line, f"{room.__name__}.{name} has no docstring"
      value = getattr(room, name)
      text += f"- `{name}{signature(value)}`: {line}{fields_of(value)}\n"
  return text


def test_the_page_lists_the_public_names():
  assert PAGE.read_text() == page(), "run: python tests/api_test.py"


def test_every_public_name_is_there():
  for room in rooms():
    for name in public_names(room):
      assert hasattr(room, name), f"{room.__name__} has no {name}"


if __name__ == "__main__":
  PAGE.parent.mkdir(exist_ok=True)
  PAGE.write_text(page())
