"""Logging: everything is under ``crynux_async`` and silent, unless the program or ``CRYNUX_LOG`` asks for it."""

import logging

_HANDLER = "crynux_async stderr"
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def log_to_stderr(level: str) -> None:
    """Write this library's log to standard error, for a quick look; ``CRYNUX_LOG=debug`` does it.

    Called again, it only sets the level.

    Args:
        level: debug, info, warning or error, in any case; anything else counts as info.
    """
    logger = logging.getLogger("crynux_async")
    known = logging.getLevelNamesMapping()
    logger.setLevel(known.get(level.strip().upper(), logging.INFO))
    if any(handler.get_name() == _HANDLER for handler in logger.handlers):
        return
    handler = logging.StreamHandler()
    handler.set_name(_HANDLER)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
