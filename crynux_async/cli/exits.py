"""What the command's exit codes mean, and the one place that turns errors into them."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.markup import escape

from crynux_async.cli import signals
from crynux_async.errors import (
    ArchiveError,
    BackendError,
    ConfigError,
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
    INTERRUPTED = 130


_CODES: tuple[tuple[type[CrynuxError], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (SettingsError, Exit.USAGE),
    (UsageError, Exit.USAGE),
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
    return guard(lambda: asyncio.run(_stoppable(work)), as_json=as_json)


async def _stoppable(work: Coroutine[Any, Any, int]) -> int:
    with signals.cancelled_by_signals() as came:
        try:
            return await work
        except asyncio.CancelledError:
            if not came:
                raise
            return signals.exit_code(came[0])


def guard(work: Callable[[], int], *, as_json: bool = False) -> int:
    """Run a command and return its exit code; errors are printed, never a traceback.

    Args:
        work: The command.
        as_json: Whether errors go to standard output as one JSON object, too.
    """
    try:
        code = int(work())
        sys.stdout.flush()
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:  # whoever reads our output has seen enough, as in "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        return int(Exit.DONE)
    except CrynuxError as error:
        show_error(error, as_json=as_json)
        return int(exit_code(error))
    return code


def show_error(error: CrynuxError, *, as_json: bool = False) -> None:
    """Print an error for a person on standard error, and for a program on standard output."""
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]{type(error).__name__}[/]  {escape(str(error))}")
    if as_json:
        facts = {"error": type(error).__name__, "message": str(error), "task_id": error.task_id, "field": error.field}
        print(json.dumps(facts))  # noqa: T201  # the command's output
