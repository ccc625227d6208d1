"""Statements as SQLite gets them."""

import functools

from crynux_async.ledgers.sql.text import KEPT, PARAMETER, Rendered


# Python binds values by their order at half the time that it takes by names.
@functools.lru_cache(KEPT)
def render(text: str) -> Rendered:
    """Return a statement with its parameters in order."""
    return Rendered(PARAMETER.sub("?", text), PARAMETER.findall(text))
