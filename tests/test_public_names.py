"""The names of the package: few, sorted, lazy, and the same for type checkers."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import crynux_async
from crynux_async import errors, events
from crynux_async.events import Event

NAMES = [name for name in crynux_async.__all__ if name != "__version__"]


def names_for_type_checkers() -> dict[str, str]:
    """Return name -> module of the imports that only type checkers see."""
    tree = ast.parse(Path(crynux_async.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_names_are_sorted_and_fewer_than_60() -> None:
    assert crynux_async.__all__ == sorted(crynux_async.__all__)
    assert len(set(crynux_async.__all__)) == len(crynux_async.__all__) < 60


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_object_that_type_checkers_see(name: str) -> None:
    home = importlib.import_module(names_for_type_checkers()[name])
    assert getattr(crynux_async, name) is getattr(home, name)


@pytest.mark.parametrize("name", NAMES)
def test_name_has_a_docstring_of_its_own(name: str) -> None:
    thing = getattr(crynux_async, name)
    assert inspect.getdoc(thing)
    assert inspect.getdoc(thing) != inspect.getdoc(thing.__base__)


def test_names_for_type_checkers_are_those_of_the_package() -> None:
    assert set(names_for_type_checkers()) == set(NAMES)


def test_errors_that_calls_raise_are_all_public() -> None:
    classes = {name for name, thing in vars(errors).items() if inspect.isclass(thing) and name.endswith("Error")}
    assert {name for name in classes if not name.startswith("_")} <= set(NAMES)


def test_events_and_what_a_session_returns_are_all_public() -> None:
    assert {
        name for name, thing in vars(events).items() if isinstance(thing, type) and issubclass(thing, Event)
    } <= set(NAMES)
    returned = {"Job", "JobRow", "Reconciled", "SessionStatistics", "Settings", "Unconfirmed"}
    assert returned | {"Backend", "Ledger"} <= set(NAMES)


def test_dir_lists_every_name() -> None:
    assert set(crynux_async.__all__) <= set(dir(crynux_async))


def test_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        _ = crynux_async.Sesion


def test_import_of_the_package_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import crynux_async; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - sys.stdlib_module_names)); assert 'asyncio' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["crynux_async"]
