"""How long commands wait: for as long as the service answers, and not much longer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from crynux_async.errors import UnreachableError
from crynux_async.report.units import duration
from crynux_async.session import Session
from crynux_async.session_values import SessionStatistics
from crynux_async.states import FOLLOWED

T = TypeVar("T")

_LOOK_EVERY = 1.0


async def while_answered(session: Session, work: Coroutine[Any, Any, T], again: str) -> T:
    """Do something that waits for tasks, and give up when their service has not answered for ``unreachable_timeout``.

    A program may wait for a service for days; whoever has typed a command wants to know that nothing comes any more.

    Args:
        session: Where the tasks are followed.
        work: What waits for them.
        again: What a command that goes on with them must be given, with a space before it, or "".

    Raises:
        UnreachableError: The service does not answer; tasks go on there.
    """
    waiting = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait((waiting,), timeout=_LOOK_EVERY))[0]:
            check_answers(session, again)
        return await waiting
    finally:
        waiting.cancel()
        # Its end is awaited: what it holds open is closed before the session is.
        await asyncio.gather(waiting, return_exceptions=True)


def check_answers(session: Session, again: str) -> None:
    """Raise UnreachableError where tasks are followed whose service has not answered for too long."""
    statistics = session.statistics()
    is_following = any(state in FOLLOWED for state in statistics.jobs)  # what is not sent yet has a limit of its own
    silent = statistics.silent_for
    if is_following and silent is not None and silent >= session.settings.unreachable_timeout:
        raise UnreachableError(
            f"no answer for {duration(silent)} (unreachable_timeout): {said(statistics)}; what was sent goes on there, "
            f"and 'crynux-async resume{again}' goes on with it"
        )


def said(statistics: SessionStatistics) -> str:
    """Return what is wrong with a service that does not answer."""
    return statistics.trouble.removesuffix("; nothing was sent")  # true of a request that only asks, and no news
