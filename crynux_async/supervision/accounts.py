"""What the tasks of a service may cost, what they did cost and why they ended, as far as the service tells.

Nothing here decides anything, and no trouble with it ever keeps a job from its end: what cannot be asked is not known.
"""

import logging
from collections.abc import Awaitable

from crynux_async.backends.base import Backend, HasPrices, Look, RefundsLate, Seen, Task, TellsReasons
from crynux_async.clock import utc_now
from crynux_async.errors import BackendError, JobAbandonedError, JobError, JobExpiredError, JobFailedError
from crynux_async.states import JobState, Signal
from crynux_async.supervision.record import Record
from crynux_async.supervision.rows import TaskEnd
from crynux_async.training.config import FineTuneConfig

CANCELLED = "cancelled"
"""The reason of a job whose task was cancelled, by whomever."""

_log = logging.getLogger("crynux_async.supervision.accounts")


class Accounts:
    """Knows prices, costs and reasons.

    Args:
        backend: The service.
        price: What one try costs at most, in wei, where the service does not know what is paid; or None.
    """

    def __init__(self, backend: Backend, price: int | None = None) -> None:
        self._given_price = price
        self._habits = backend.habits
        self._prices = backend if isinstance(backend, HasPrices) else None
        self._is_said_by_user = price is not None and not self._habits.knows_fee
        self._reasons = backend if isinstance(backend, TellsReasons) else None
        self._refunds = backend if isinstance(backend, RefundsLate) else None
        self._last_price: int | None = None

    def price(self, config: FineTuneConfig | None) -> int | None:
        """Return what one try of a config may cost at most, in wei, or None where that is not known."""
        price = None
        if config is not None and self._prices is not None and not self._is_said_by_user:
            try:
                price = self._prices.price(config)
            except Exception:  # asked while an answer is being stored, from which nothing may keep the caller
                _log.exception("the price of %s", config.model_name)
        price = self._given_price if price is None and config is not None else price
        if price != self._last_price:
            self._last_price = price
        return self._last_price  # one number for all tasks of a price: a hundred thousand of them are 4 MB

    def price_of(self, record: Record) -> int | None:
        """Return what one try of a job may cost at most, in wei, or None where that is not known."""
        is_known = self._prices is not None or self._given_price is not None
        return self.price(record.config) if is_known else None

    async def balance(self) -> int | None:
        """Return what the account has, in wei, or None where that cannot be asked."""
        return None if self._prices is None else await self._prices.balance()

    async def end(self, task: Task, look: Look) -> TaskEnd:
        """Return how a task ended that was seen at its end."""
        reason = look.reason
        # One request more for each failure, and for nothing else: an end that is good needs no reason.
        if look.seen is Seen.FAILED and not reason:
            reason = await self._reason(task)
        if look.seen is Seen.CANCELLED:
            reason = f"{CANCELLED}: {reason}" if reason else CANCELLED
        if look.seen is Seen.CANCELLED and self._refunds is not None:
            # Of a group, what a node has already runs on, and is given back later.
            spent = await self._told(task, self._refunds.final_cost(task))
            is_open = spent is None
        else:
            spent, is_open = await self._spent(task, look), False
        word = look.seen.value
        return TaskEnd(task_id=task.task_id, at=utc_now(), word=word, reason=reason, spent=spent, is_open=is_open)

    def given_up(self, task_id: str) -> TaskEnd:
        """Return how a task ended that nobody follows any more, because its user has given it up."""
        is_open = self._refunds is not None
        return TaskEnd(task_id=task_id, at=utc_now(), word=str(JobState.ABANDONED), is_open=is_open)

    def deleted(self, task_id: str) -> TaskEnd:
        """Return how a task ended that the service does not know any more: nobody can tell what it did cost."""
        return TaskEnd(task_id=task_id, at=utc_now(), word="deleted")

    def error(self, signal: Signal, end: TaskEnd) -> JobError | None:
        """Return what to tell whoever waits for a job whose task ended so, or None where it has a model."""
        if signal is Signal.SAID_FAILED:
            told = f"the service gave up on the task: {end.reason}" if end.reason else self._habits.failure
            return JobFailedError(told, reason=end.reason)
        if signal is Signal.SAID_CANCELLED:
            return JobAbandonedError(f"the task was {end.reason}", reason=end.reason)
        return JobExpiredError(self._habits.deletion) if signal is Signal.NOT_FOUND else None

    async def _reason(self, task: Task) -> str:
        try:
            return "" if self._reasons is None else await self._reasons.reason(task)
        except BackendError as error:
            _log.info("why task %s failed cannot be asked: %s", task.task_id, error)
        except Exception:
            _log.exception("why task %s failed", task.task_id)
        return ""

    async def _spent(self, task: Task, look: Look) -> int | None:
        spent = None if self._prices is None else await self._told(task, self._prices.spent(task, look))
        # What was not given back is known; how much that is, the user knows better.
        return self._given_price if spent and self._is_said_by_user else spent

    @staticmethod
    async def _told(task: Task, asked: Awaitable[int | None]) -> int | None:
        try:
            return await asked
        except BackendError as error:
            _log.info("what task %s cost cannot be asked: %s", task.task_id, error)
        except Exception:
            _log.exception("what task %s cost", task.task_id)
        return None
