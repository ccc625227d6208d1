"""The Arrow library, which nodes read tables with: imported when a table is looked into, and not before."""

import importlib
from typing import Any

from crynux_async.errors import UsageError


def arrow(part: str = "") -> Any:
    """Import PyArrow.

    Args:
        part: A module of it, such as ``parquet``; the package itself when empty.

    Returns:
        The module.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{part}" if part else "pyarrow")
    except ImportError as error:
        raise UsageError("checking data sets needs PyArrow: pip install 'crynux-async[datasets]'") from error


def plain_type(kind: Any) -> str:
    """An Arrow type as text.

    The same for structures that differ in the order of their fields only, and for values that are kept in a dictionary.
    """
    types = arrow("types")
    for name in ("list", "large_list", "fixed_size_list"):
        if getattr(types, f"is_{name}")(kind):
            return f"{name}<{plain_type(kind.value_type)}>"
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if types.is_struct(kind):
        fields = sorted(f"{field.name!r}: {plain_type(field.type)}" for field in kind)
        return f"struct<{', '.join(fields)}>"
    return str(kind)


def nesting(kind: Any) -> int:
    """How many lists and structures with something inside are around each other in an Arrow type; 0 for a plain one.

    The depth is the data's to choose, so that nothing here calls itself.
    """
    depth, level = 0, _inside(kind)
    while level:
        depth, level = depth + 1, [part for one in level for part in _inside(one)]
    return depth


def _inside(kind: Any) -> list[Any]:
    types = arrow("types")
    if types.is_struct(kind):
        return [field.type for field in kind]
    return [kind.value_type] if types.is_list(kind) else []
