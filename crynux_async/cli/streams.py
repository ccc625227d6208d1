"""Standard input, output and error as the caller left them: closed, full, gone, or of a narrow encoding."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator

_STREAMS = range(3)


class OutputError(OSError):
    """Standard output takes no more: the disk is full, or its reader has gone."""


class _Output(io.TextIOWrapper):
    """Standard output whose errors can be told from those of other files."""

    def write(self, text: str) -> int:
        with _told_apart():
            return super().write(text)

    def flush(self) -> None:
        with _told_apart():
            super().flush()


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from error


def prepare_streams() -> None:
    """Make every standard stream one that can be used."""
    for number in _STREAMS:
        _reopen(number)
    # Python leaves them as None where the number was closed when it began.
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _told_of(sys.stdout)


def _told_of(old: io.TextIOWrapper) -> _Output:
    # What cannot be encoded is spelt out, as standard error does.
    errors = "backslashreplace" if old.errors == "strict" else old.errors
    old.flush()
    # Opened anew: what the old file has noted of its descriptor is wrong where that was redirected since.
    raw = open(old.fileno(), "wb", closefd=False)  # noqa: SIM115  # for good
    return _Output(raw, encoding=old.encoding, errors=errors, line_buffering=old.line_buffering)


def _reopen(number: int) -> None:
    """Give a closed number to nowhere: the next file would get it otherwise, and a ledger what is printed."""
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def discard_output() -> None:
    """Let what standard output did not take go nowhere, or Python complains of it when it ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
