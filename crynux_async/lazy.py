"""Packages whose names are loaded when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping


def loader_of(package: str, home_of: Mapping[str, str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: Its full name.
        home_of: The module of the package, by the name that users import.
    """

    def load(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        # From now on it is found without us.
        setattr(sys.modules[package], name, value)
        return value

    return load
