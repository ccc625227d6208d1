"""Which gate stands before the creates of a session."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from crynux_async.backends.base import Backend, RateLimited
from crynux_async.clock import monotonic, utc_now
from crynux_async.ledgers.base import AttemptRow, Ledger
from crynux_async.pacing.gate import Gate, LedgerGate, past_attempts, shared_gate
from crynux_async.pacing.open_gate import OpenGate
from crynux_async.pacing.token_bucket import TokenBucket
from crynux_async.settings import Settings
from crynux_async.supervision.owners import is_gone, new_owner

_RATE_LIMIT_MEMORY = timedelta(hours=2)


async def gate_before(backend: Backend, settings: Settings, ledger: Ledger, *, is_shared: bool) -> Gate:
    """Return the gate before a session's key.

    Args:
        backend: Whose creates are limited.
        settings: The limit where it is known.
        ledger: Remembers earlier creates.
        is_shared: Whether other processes may use the ledger, too.
    """
    if not (isinstance(backend, RateLimited) and backend.is_rate_limited):
        return OpenGate()
    key = (backend.name, backend.key_id)

    def fresh(now: float, *, past: Sequence[AttemptRow] = ()) -> TokenBucket:
        return TokenBucket.replay(
            past_attempts(past, now),
            limit_per_minute=settings.rate_limit,
            burst=settings.rate_burst,
            now=now,
        )

    given, lost_after = (settings.rate_limit, settings.rate_burst), settings.connect_timeout + settings.request_timeout
    if not is_shared:
        return shared_gate(*key, lambda: fresh(monotonic()), given=given, lost_after=lost_after)
    past = await ledger.attempts(backend=backend.name, key_id=backend.key_id, since=utc_now() - _RATE_LIMIT_MEMORY)
    return LedgerGate(
        ledger,
        *key,
        fresh=partial(fresh, past=past),
        given=given,
        lost_after=lost_after,
        owner=new_owner(),
        is_gone=is_gone,
    )
