"""The emulator judges the library, so it must not use it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import crynux_async.emulator

FOLDER = Path(crynux_async.emulator.__file__).parent
ALLOWED = {"aiohttp", "attrs", "Crypto", "btclib_secp256k1", "yaml"}
OWN = "crynux_async.emulator"


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("**/*.py")), ids=lambda path: path.stem)
def test_module_imports_nothing_that_the_emulator_judges(path: Path) -> None:
    foreign = {
        name
        for name in imported(path)
        if name.partition(".")[0] not in ALLOWED | sys.stdlib_module_names
        and name != OWN
        and not name.startswith(OWN + ".")
    }
    assert not foreign
