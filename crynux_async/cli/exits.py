"""What the command's exit codes mean, and the one place that turns errors into them."""

import contextlib
import errno
import sys
import traceback
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any

from crynux_async.cli import signals, streams
from crynux_async.errors import (
    ArchiveError,
    BackendError,
    BudgetExceededError,
    ConfigError,
    ConflictError,
    CrynuxError,
    DownloadError,
    JobError,
    LedgerError,
    SettingsError,
    SubmissionUnknownError,
    UsageError,
    WaitTimeoutError,
)


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    JOB_ENDED_BADLY = 1
    USAGE = 2
    BRIDGE = 3
    OUTCOME_UNKNOWN = 4
    DOWNLOAD = 5
    TIMED_OUT = 6
    LEDGER = 7
    MACHINE = 8
    # sysexits.h: EX_SOFTWARE.
    OUR_FAULT = 70
    INTERRUPTED = 130


_CODES: tuple[tuple[type[CrynuxError], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (SettingsError, Exit.USAGE),
    (UsageError, Exit.USAGE),
    # Refused before anything was sent, by what the user has said himself.
    (ConflictError, Exit.USAGE),
    (BudgetExceededError, Exit.USAGE),
    (SubmissionUnknownError, Exit.OUTCOME_UNKNOWN),
    (WaitTimeoutError, Exit.TIMED_OUT),
    (JobError, Exit.JOB_ENDED_BADLY),
    (DownloadError, Exit.DOWNLOAD),
    (ArchiveError, Exit.DOWNLOAD),
    (BackendError, Exit.BRIDGE),
    (LedgerError, Exit.LEDGER),
)


def exit_code(error: CrynuxError) -> Exit:
    """Return the exit code for an error."""
    return next((code for cls, code in _CODES if isinstance(error, cls)), Exit.JOB_ENDED_BADLY)


def execute(work: Coroutine[Any, Any, int], *, as_json: bool = False) -> int:
    """Run a command that waits and return its exit code; see :func:`guard`."""
    import asyncio

    return guard(lambda: asyncio.run(_stoppable(work)), as_json=as_json)


async def _stoppable(work: Coroutine[Any, Any, int]) -> int:
    import asyncio

    with signals.cancelled_by_signals() as came:
        try:
            return await work
        except asyncio.CancelledError:
            # Not ours: a fault inside that cancelled it must not look like a signal.
            if not came:
                raise
            return signals.exit_code(came[0])


def guard(work: Callable[[], int], *, as_json: bool = False) -> int:
    """Run a command and return its exit code; what goes wrong is one sentence, a fault of ours a traceback.

    Args:
        work: The command.
        as_json: Whether errors go to standard output as one JSON object, too.
    """
    code = int(Exit.DONE)
    try:
        code = _outcome(work, as_json=as_json)
        # Here, where an error can still become an exit code: at Python's own end it would only be printed.
        sys.stdout.flush()
    except OSError as error:
        streams.discard_output()
        return code or _failed_output(error)
    return code


def _outcome(work: Callable[[], int], *, as_json: bool) -> int:
    try:
        code = int(work())
    except KeyboardInterrupt:
        code = int(Exit.INTERRUPTED)
    except CrynuxError as error:
        show_error(error, as_json=as_json)
        return int(exit_code(error))
    # Of standard output alone; guard() knows what to do about it.
    except (BrokenPipeError, streams.OutputError):
        raise
    except OSError as error:
        _show(type(error).__name__, str(error), as_json=as_json)
        return int(Exit.MACHINE)
    except Exception as error:
        traceback.print_exc()
        if as_json:
            print_error_facts(type(error).__name__, str(error))
        return int(Exit.OUR_FAULT)
    if code > signals.BASE and as_json:
        print_error_facts("Interrupted", f"ended by signal {code - signals.BASE}")
    return code


def _failed_output(error: OSError) -> int:
    """Return the exit code where standard output takes no more: what went wrong before that comes first."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, CrynuxError):
        cause = cause.__context__
    if cause is not None:
        show_error(cause)
        return int(exit_code(cause))
    if error.errno == errno.EPIPE:  # whoever reads our output has seen enough, as in "| head"
        return int(Exit.DONE)
    _show(type(error).__name__, f"standard output cannot be written: {error.strerror}", as_json=False)
    return int(Exit.MACHINE)


def show_error(error: CrynuxError, *, as_json: bool = False) -> None:
    """Print an error for a person on standard error, and for a program on standard output."""
    _show(type(error).__name__, str(error), as_json=as_json, task_id=error.task_id, field=error.field)


def _show(name: str, message: str, *, as_json: bool, task_id: str | None = None, field: str | None = None) -> None:
    # Imported late: most commands that end well, and all that print JSON, need neither.
    from rich.text import Text

    from crynux_async.cli.console import open_console

    with contextlib.suppress(OSError):  # nobody may read that either, and the exit code still tells
        open_console(stderr=True).print(Text.assemble((name, "bold red"), "  ", message))
    if as_json:
        print_error_facts(name, message, task_id=task_id, field=field)


def print_error_facts(name: str, message: str, *, task_id: str | None = None, field: str | None = None) -> None:
    """Print on standard output what a program wants to know of an error."""
    import json  # here: help is there sooner without it

    facts = {"error": name, "message": message, "task_id": task_id, "field": field}
    print(json.dumps(facts))  # noqa: T201  # the command's output
