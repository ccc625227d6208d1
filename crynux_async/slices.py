"""Work on many items in slices, so that the event loop has turns for everybody else in between."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")

SLICE = 50
"""Items between two turns of the event loop: to check, digest or encode a config takes about 0.1 ms."""


async def in_slices(convert: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """Convert many items, in their order.

    Args:
        convert: Makes one of another; what it raises ends the conversion.
        items: What to convert; must not change meanwhile.
    """
    converted: list[_Out] = []
    for index, item in enumerate(items):
        if index % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        converted.append(convert(item))
    return converted
