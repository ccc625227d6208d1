"""Packages and modules whose names are loaded when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping


def loader_of(module: str, home_of: Mapping[str, str], *, folder: str = "") -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package, or of a module that hands on names of others beside it.

    Args:
        module: Its full name.
        home_of: The module where it stands, by the name that users import.
        folder: The package of those modules, or "" where ``module`` is that.
    """

    def load(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{folder or module}.{home_of[name]}"), name)
        # From now on it is found without us.
        setattr(sys.modules[module], name, value)
        return value

    return load
