"""What users import from ``crynux_async.training``: lazy, and the same for type checkers."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from crynux_async import training


def homes_for_type_checkers() -> dict[str, str]:
    """Return name -> module of the imports that only type checkers see."""
    tree = ast.parse(Path(training.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_names_are_sorted_and_those_that_type_checkers_see() -> None:
    assert training.__all__ == sorted(training.__all__)
    assert set(training.__all__) == set(homes_for_type_checkers())
    assert set(training.__all__) <= set(dir(training))


@pytest.mark.parametrize("name", training.__all__)
def test_name_is_the_object_of_its_module(name: str) -> None:
    assert getattr(training, name) is getattr(importlib.import_module(homes_for_type_checkers()[name]), name)


def test_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = training.simulat


def test_import_of_the_folder_loads_none_of_it() -> None:
    code = (
        "import sys, crynux_async.training; "
        "print(*[name for name in sys.modules if name.startswith('crynux_async.training.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
