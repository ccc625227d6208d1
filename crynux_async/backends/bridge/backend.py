"""A Crynux bridge as a ``Backend``: text in, text out, and the bridge's own rules behind it."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

from crynux_async.backends.base import CreatedTask, Habits, Look, Order, ResultStream, Seen, Task, Turnstile, Validator
from crynux_async.backends.bridge import wire
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.bridge.kept_keys import KeptKeys
from crynux_async.backends.bridge.keys import prepare_key
from crynux_async.errors import AuthError, ConfigError, OwnershipError, Problem, QuotaError, RejectedError, UsageError
from crynux_async.money import WEI
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.lengths import most_rounds, stall_seconds
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts

if TYPE_CHECKING:
    from crynux_async.backends.base import Finding, LostCreate
    from crynux_async.backends.bridge.reasons import ReasonDesk

_log = logging.getLogger("crynux_async.backends.bridge")

_SEEN: Mapping[str, Look] = MappingProxyType(
    {
        wire.RemoteStatus.RUNNING: Look(seen=Seen.RUNNING),
        wire.RemoteStatus.SUCCESS: Look(seen=Seen.SUCCEEDED),
        wire.RemoteStatus.FAILED: Look(seen=Seen.FAILED),
    }
)

_HABITS = Habits(
    failure=(
        "the network gave up after four attempts. A bridge gives the reason to its owner alone; the usual ones are a "
        "data set that nodes cannot load, a wrong column name, too little memory and a timeout that is too short"
    ),
    deletion="the bridge does not know this task (any more): it deletes tasks 7 days after their end by default",
    knows_fee=False,
)


class BridgeBackend:
    """The Crynux bridge at ``settings.base_url``. Must be made inside a running event loop.

    It can prepare keys (``Prepares``), find lost creates (``FindsLostCreates``), say prices (``HasPrices``) and, on
    one's own bridge, open results of keys that were replaced (``KeepsCredentials``) and tell why a task failed
    (``TellsReasons``).

    Args:
        settings: Address, key, timeouts, proxy and limits.
    """

    is_rate_limited = True
    creates_are_repeatable = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = BridgeClient(settings)
        self._kept_keys = KeptKeys(settings)
        self._reasons = _reason_desk(settings, settings.admin_token) if settings.admin_token else None

    @property
    def name(self) -> str:
        """The bridge's address, word for word as the settings give it."""
        return self._settings.base_url

    @property
    def key_id(self) -> str:
        """Fingerprint of the API key."""
        return self._settings.key_id

    @property
    def facts(self) -> ServiceFacts:
        """What bridges are known to add to a training."""
        return BRIDGE_FACTS

    @property
    def habits(self) -> Habits:
        """How jobs of a bridge are held and named."""
        return _HABITS

    def normal_task_id(self, given: str | int) -> str:
        """Return the bridge's number of a task as text, without leading zeros.

        Raises:
            UsageError: It is no whole number above 0 that a bridge can have given.
        """
        text = str(given).strip()
        # True is 1 to Python, and digits of other scripts are decimal: neither is a number that a bridge gave.
        is_number = not isinstance(given, bool) and text.isascii() and text.isdecimal()
        # Cut before ``int``, which refuses texts of thousands of digits.
        if not is_number or not 0 < int(text[:40]) <= wire.MAX_TASK_ID:
            raise UsageError(f"a task id of a bridge is a whole number above 0, not {given!r:.60}", field="task_id")
        return str(int(text))

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        """Return what the bridge and its nodes make of a config."""
        return config.effective()

    def stall_after(self, config: FineTuneConfig) -> float:
        """Return after how many seconds a healthy task of a config has certainly ended."""
        return stall_seconds(config)

    def intend(self, order: Order) -> str:
        """Return the JSON of a create, with every field that is not None.

        Raises:
            ConfigError: It is larger than the bridge takes.
        """
        try:
            return wire.create_body(order.config).decode()
        except RejectedError as error:
            raise ConfigError([Problem(field=error.field or "", message=str(error))]) from error

    async def create(self, payload: str) -> CreatedTask:
        """Send one create, exactly once, and return the task that it made.

        Raises:
            UnreachableError: No connection; nothing was sent.
            RateLimitedError, AuthError, QuotaError, RejectedError, ProtocolError: Refused; nothing was created.
            SubmissionUnknownError: Everything else: the task may exist.
        """
        return await self._client.create(payload.encode())

    async def look(self, task: Task) -> Look:
        """Look at a task. A status word that is not known is taken for running, and is the look's ``stage``.

        Raises:
            NotFoundError: The bridge has no such task, or not any more.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        word = await self._client.status(task.task_id)
        known = _SEEN.get(word)
        # A newer bridge may have new words. Taken for an end, one would give up a job that is paid for.
        if known is None:
            _log.warning("task %s has the status %r, which is not known; it is taken for running", task.task_id, word)
        return known or Look(seen=Seen.RUNNING, stage=word)

    async def reason(self, task: Task) -> str:
        """Return why a task failed, for people, or "" without the bridge's admin token: it tells nobody else."""
        return "" if self._reasons is None else await self._reasons.reason(task.task_id)

    @asynccontextmanager
    async def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AsyncIterator[ResultStream]:
        """Open the result from byte ``start`` on, provided it is still the version of ``validator``.

        On one's own bridge a result of a key that another one has replaced is opened with that.

        Raises:
            RangeError, NotFoundError, OwnershipError, AuthError, QuotaError: As the bridge says.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        async with AsyncExitStack() as stack:

            def opened(client: BridgeClient) -> Awaitable[ResultStream]:
                return stack.enter_async_context(client.open_result(task.task_id, start=start, validator=validator))

            yield await self._opened(opened)

    async def _opened(self, opened: Callable[[BridgeClient], Awaitable[ResultStream]]) -> ResultStream:
        """Return what the first key opens that may open it."""
        try:
            return await opened(self._client)
        except (OwnershipError, AuthError, QuotaError) as error:
            refusal = error
        async for client in self._kept_keys.clients():
            with suppress(OwnershipError, AuthError, QuotaError):
                return await opened(client)
        raise refusal

    async def kept_key_ids(self) -> Collection[str]:
        """Return the fingerprints of the other keys of this bridge that the key file has."""
        return await self._kept_keys.key_ids()

    async def prepare(self, turnstile: Turnstile) -> float | None:
        """Make a key that was never used known to the bridge, unless the settings forbid it."""
        return await prepare_key(self._client, turnstile) if self._settings.prime_key else None

    def candidates(self, create: "LostCreate", *, at_most: int) -> Iterable[str]:
        """Yield the numbers between those around a lost create."""
        from crynux_async.backends.bridge.brackets import candidates

        return candidates(create, at_most=at_most)

    def search_requests(self, lost: "Sequence[LostCreate]", *, known: frozenset[str], at_most: int) -> int:
        """Return how many requests ``find_lost`` will make at most with the same arguments."""
        from crynux_async.backends.bridge.brackets import search_requests

        return search_requests(lost, known=known, at_most=at_most)

    async def find_lost(self, lost: "Sequence[LostCreate]", *, known: frozenset[str], at_most: int) -> "list[Finding]":
        """Look for the tasks of lost creates between the numbers around them."""
        from crynux_async.backends.bridge.brackets import find_lost

        return await find_lost(self._client, lost, known=known, at_most=at_most)

    def price(self, config: FineTuneConfig) -> int | None:
        """Return the fee of every round, in wei, by the example config; None where epochs decide how many there are."""
        rounds = most_rounds(config)
        return None if rounds is None else round(rounds * BRIDGE_FACTS.fee_cnx * WEI)

    async def balance(self) -> int | None:
        """Return None: who has an API key has no account."""
        return None

    async def spent(self, task: Task, look: Look) -> int | None:
        """Return what an ended task did cost, in wei: rounds that fail are refunded to the bridge.

        None where some of several rounds may have been paid before one failed.
        """
        price = self.price(task.config) if task.config is not None else None
        if look.seen is Seen.SUCCEEDED or price is None:
            return price
        return 0 if task.config is not None and most_rounds(task.config) == 1 else None

    async def close(self) -> None:
        """Release every connection."""
        await self._client.close()
        await self._kept_keys.close()
        if self._reasons is not None:
            await self._reasons.close()


def _reason_desk(settings: Settings, token: Secret) -> "ReasonDesk":
    from crynux_async.backends.bridge.reasons import ReasonDesk

    return ReasonDesk(settings, token)
