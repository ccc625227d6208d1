"""``BridgeAdmin``: makes, changes and deletes the API keys of one's own bridge, and tells how it is.

Theory of operation: a usable key takes five calls (create, roles, rate limit, use limit, priming), and only the first
one cannot be repeated. Its answer is in the key file before anything else is done with it; everything after that may
be done twice. So ``create_key`` first finishes what an earlier call left unfinished; calls at the same time, of other
processes too, wait for each other, so that none takes the key of another. A key whose answer was lost is never known
to anybody: it has no role, opens nothing, and needs no care.

Priming is a create that the bridge's schema refuses. Without it the first model that a key makes can never be
downloaded: the bridge files the key under two clients at its first use (crynux-bridge api/v1/image/finetune.go).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import attrs

from crynux_async.backends.bridge import admin_wire as wire
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.bridge.key_book import BridgeKey, KeyBook, usual_book
from crynux_async.backends.http.answer import Answer
from crynux_async.backends.http.client import HttpClient, Request
from crynux_async.clock import utc_now
from crynux_async.errors import AuthError, RateLimitedError, UsageError
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from crynux_async.signing import Wallet

NeededBy = Callable[[str], Awaitable[Collection[str]]]
"""Takes ``Settings.key_id`` of a key and returns the jobs that still need it: unfinished, or not fetched."""

# Whoever else sends creates with the key may take its tokens first.
_PRIMINGS = 10
_TOKEN_SECONDS = 60.0  # for a token at one create a minute, the limit of a key that was never changed


class HearsOfLimits(Protocol):
    """Somebody who sends creates with a key and wants to know how many a minute it may make."""

    def limit_changed(self, key_id: str, limit_per_minute: float) -> None:
        """Note that a key's limit is another one now; its burst stays what it was until the bridge restarts."""


@attrs.frozen(kw_only=True)
class Rotation:
    """What came of replacing a key.

    Attributes:
        key: The new key, ready.
        is_deleted: Whether the old one is gone.
        needed_by: Jobs for whose results the old one is kept: results belong to the key that made the job.
    """

    key: BridgeKey
    is_deleted: bool
    needed_by: tuple[str, ...] = ()


class BridgeAdmin:
    """The admin side of one's own bridge; ``async with`` opens and closes it.

    Args:
        base_url: Address of the bridge.
        wallet: The bridge's own wallet, which signs; None can only read.
        keys: The file in which keys are kept, of mode 0600; by default that of the
            settings, or ``~/.local/share/crynux-async/keys.json``.
        settings: Timeouts, proxy, certificates and the key file; address and key in it are not used.

    Raises:
        SettingsError: The address is none, or the user has no home for a key file.
    """

    def __init__(
        self,
        base_url: str,
        wallet: Wallet | None,
        *,
        keys: Path | str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._settings = attrs.evolve(settings or Settings(), base_url=base_url, api_key=None)
        self._wallet = wallet
        self._book = KeyBook(keys or self._settings.keys or usual_book())
        self._skew = 0
        self._http: HttpClient | None = None

    async def __aenter__(self) -> Self:
        self._http = HttpClient(self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    @property
    def skew(self) -> int:
        """By how many seconds the bridge's clock is ahead of this machine's, as far as a refusal has shown; else 0."""
        return self._skew

    @property
    def base_url(self) -> str:
        """Address of the bridge."""
        return self._settings.base_url

    def key_id(self, api_key: str | Secret) -> str:
        """Return the fingerprint by which ledgers know a key."""
        return attrs.evolve(self._settings, api_key=_secret(api_key)).key_id

    def list_keys(self) -> list[BridgeKey]:
        """Return every key of this bridge that is known here, in the order in which they were made.

        Raises:
            SettingsError: The key file cannot be read.
        """
        return self._book.keys(self._settings.base_url)

    async def create_key(
        self, roles: str | Iterable[str] = ("chat",), rate_limit: int = 60, use_limit: int = wire.UNLIMITED
    ) -> BridgeKey:
        """Make a key that is ready for use: with its roles and limits, and primed.

        May be cut off anywhere and called again: a key that was made and not finished is finished first, and returned
        if it is what is asked for now. Calls at the same time make a key each, one after the other.

        Args:
            roles: "chat", "admin", or a sequence of them.
            rate_limit: Creates a minute, >= 1.
            use_limit: LLM calls in all, >= 1, or -1 for no limit.

        Raises:
            UsageError: A role or limit that cannot work; nothing was made.
            AuthError: The bridge belongs to another wallet.
            SettingsError: The key file cannot be written.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; call it again.
        """
        asked = (roles,) if isinstance(roles, str) else tuple(roles)
        return await self._created(_Plan(roles=asked, rate_limit=rate_limit, use_limit=use_limit))

    async def set_rate_limit(
        self, api_key: str | Secret, limit: int, *, listeners: Iterable[HearsOfLimits] = ()
    ) -> None:
        """Set the creates a minute of a key.

        A key that has created something since the bridge started keeps its burst until the bridge restarts.

        Args:
            api_key: The key.
            limit: Creates a minute, >= 1.
            listeners: Sessions that use the key, to be told.

        Raises:
            UsageError: The limit would refuse everything.
            AuthError: The bridge belongs to another wallet, or does not know the key.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; call it again.
        """
        key = _secret(api_key)
        await self._signed(wire.set_rate_limit(key, limit), key)
        await self._note(key, rate_limit=limit)
        for listener in listeners:
            listener.limit_changed(self.key_id(key), float(limit))

    async def set_use_limit(self, api_key: str | Secret, limit: int) -> None:
        """Set how many LLM calls a key may make in all, >= 1, or -1 for no limit; what it has used stays counted.

        Raises:
            UsageError: The limit is 0, which cannot be set.
            AuthError: The bridge belongs to another wallet, or does not know the key.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; call it again.
        """
        key = _secret(api_key)
        await self._signed(wire.set_use_limit(key, limit), key)
        await self._note(key, use_limit=limit)

    async def delete_key(self, api_key: str | Secret) -> None:
        """Delete a key at once; results of its jobs can be fetched by nobody after that.

        May be called again where its answer was lost: a key of the key file that the bridge does not know (any more)
        is deleted.

        Raises:
            AuthError: The bridge belongs to another wallet, or knows as little of the key as the key file.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; call it again.
        """
        key = _secret(api_key)
        is_known = any(known.api_key == key for known in self.list_keys())
        try:
            await self._signed(wire.delete_key(key), key)
        except AuthError as error:
            if not is_known or error.field != "api_key":
                raise
        await asyncio.to_thread(self._book.remove, key)

    async def rotate_key(self, api_key: str | Secret, needed_by: NeededBy) -> Rotation:
        """Make a key like another one and delete that one, unless jobs still need it; then it is kept, and says so.

        May be cut off anywhere and called again: each key gets one successor, and no more.

        Args:
            api_key: The key to be replaced.
            needed_by: Tells which jobs still need it, as ``Session.jobs_that_need`` does.

        Raises:
            UsageError: The key is not in the key file, so that nobody knows what it may do; or it was replaced, and the
                key that took its place is gone.
            AuthError, SettingsError, UnreachableError, TransportError, ServerError, ProtocolError: As ``create_key``.
        """
        old = self._known(_secret(api_key))
        key = (
            self._successor(old) if old.is_retiring else await self._created(_plan_like(old, self.key_id(old.api_key)))
        )
        # Only now: a crash before this leaves the old key in use, and the next call finds its successor.
        await asyncio.to_thread(self._book.put, attrs.evolve(old, is_retiring=True))
        kept = await self.retire_keys(needed_by)
        jobs = kept.get(old.prefix, ())
        return Rotation(key=key, is_deleted=old.prefix not in kept, needed_by=jobs)

    async def retire_keys(self, needed_by: NeededBy) -> dict[str, tuple[str, ...]]:
        """Delete the replaced keys that no job needs any more.

        Args:
            needed_by: Tells which jobs still need a key, as ``Session.jobs_that_need`` does.

        Returns:
            The prefix of each replaced key that is kept, and the jobs that need it.

        Raises:
            AuthError, UnreachableError, TransportError, ServerError, ProtocolError: As ``delete_key``.
        """
        kept: dict[str, tuple[str, ...]] = {}
        for key in self.list_keys():
            if not key.is_retiring:
                continue
            jobs = tuple(await needed_by(self.key_id(key.api_key)))
            if jobs:
                kept[key.prefix] = jobs
            else:
                await self.delete_key(key.api_key)
        return kept

    async def account(self) -> wire.RelayAccount:
        """Return the relay account from which the bridge pays, as the bridge tells it to everybody.

        Raises:
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return wire.read_account(await self._read("/v1/application/wallet/balance"))

    async def balance(self) -> int:
        """Return what the relay account of the bridge holds, in wei.

        Raises:
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return (await self.account()).wei

    async def nodes(self) -> wire.NodeCount:
        """Return how many nodes the network has, of any size.

        Raises:
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return wire.read_nodes(await self._read("/v1/network/nodes"))

    async def counts(self, hours: int = 24) -> wire.TaskCount:
        """Return how many tasks the bridge had in the last ``hours``, >= 1.

        Raises:
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return wire.read_counts(await self._read("/v1/count/task", {"duration": str(hours)}))

    async def models(self) -> tuple[str, ...]:
        """Return the base models that the bridge lists; it takes others as well.

        Raises:
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return wire.read_models(await self._read("/v1/models/base"))

    async def _created(self, plan: "_Plan") -> BridgeKey:
        """Return a key of a plan, ready: one left unfinished, the one that has replaced it, or a new one."""
        _check_plan(plan)
        async with self._book.sole_maker():
            return await self._created_alone(plan)

    async def _created_alone(self, plan: "_Plan") -> BridgeKey:
        for key in self.list_keys():
            if plan.replaces and key.is_ready and key.replaces == plan.replaces:
                return key
            if key.is_ready:
                continue
            finished = await self._finish(key)
            if finished is not None and _plan_of(finished) == plan:
                return finished
        finished = await self._finish(await self._make(plan))
        if finished is None:
            raise AuthError("the bridge forgot a key that it had just made; is another bridge behind this address?")
        return finished

    def _successor(self, old: BridgeKey) -> BridgeKey:
        """Return the key that serves in the place of a replaced one, which may have been replaced itself."""
        heirs = {key.replaces: key for key in self.list_keys() if key.replaces and key.is_ready}
        key = old
        while key.is_retiring:
            # Taken out, so that a key file that was edited into a circle ends.
            heir = heirs.pop(self.key_id(key.api_key), None)
            if heir is None:
                raise UsageError(f"{old.prefix}... was replaced, and the key in its place is gone; make a new one")
            key = heir
        return key

    async def _make(self, plan: "_Plan") -> BridgeKey:
        """Make a key and write it down, without any point in between at which it could be lost here."""
        made = wire.read_made_key(await self._signed(wire.create_key()))
        key = BridgeKey(
            api_key=made.api_key,
            bridge=self._settings.base_url,
            made_at=utc_now(),
            expires_at=made.expires_at,
            roles=plan.roles,
            rate_limit=plan.rate_limit,
            use_limit=plan.use_limit,
            replaces=plan.replaces,
        )
        # The thread goes on when this task is cancelled.
        await asyncio.to_thread(self._book.put, key)
        return key

    async def _finish(self, key: BridgeKey) -> BridgeKey | None:
        """Do all that makes a key ready, from the start; None where the bridge does not know it any more."""
        # Whatever was done before a cut is done again: each of these calls may be repeated.
        calls = [wire.add_role(key.api_key, role) for role in key.roles]
        calls += [wire.set_rate_limit(key.api_key, key.rate_limit), wire.set_use_limit(key.api_key, key.use_limit)]
        try:
            for call in calls:
                await self._signed(call, key.api_key)
        except AuthError as error:
            if error.field != "api_key":
                raise
            # Deleted by somebody else, or the bridge lost its database: no call brings the key back.
            await asyncio.to_thread(self._book.remove, key.api_key)
            return None
        await self._prime(key)
        ready = attrs.evolve(key, is_ready=True)
        await asyncio.to_thread(self._book.put, ready)
        return ready

    async def _prime(self, key: BridgeKey) -> None:
        """Make a key known to the bridge, unless it is already; a refusal by the rate limiter is waited for."""
        client = BridgeClient(attrs.evolve(self._settings, api_key=key.api_key))
        try:
            for _ in range(_PRIMINGS):
                if not await client.key_is_fresh():
                    return
                try:
                    await client.prime_key()
                except RateLimitedError as error:
                    # The refused create has spent a token, too: after the stated wait alone it would be refused again.
                    await asyncio.sleep((error.wait or 0.0) + _TOKEN_SECONDS)
        finally:
            await client.close()
        raise AuthError("the bridge does not file the key although it was used; call create_key again")

    async def _signed(self, call: wire.AdminCall, *secrets: Secret) -> Answer:
        """Sign a call and send it; where the clocks disagree, measure by how much and send it once more."""
        answer = await self._send_signed(call, secrets)
        server_time = answer.server_time
        # A signature is good for 60 s around the bridge's clock, and the Date header of the refusal shows that.
        if wire.is_bad_signature(answer) and server_time is not None:
            skew = round((server_time - utc_now()).total_seconds())
            # Sent with this very skew already: then the clock is not what is wrong.
            if skew != self._skew:
                self._skew = skew
                answer = await self._send_signed(call, secrets)
        wire.check_done(answer, self._signer.address, clock_is_known=server_time is not None)
        return answer

    async def _send_signed(self, call: wire.AdminCall, secrets: tuple[Secret, ...]) -> Answer:
        timestamp = int(utc_now().timestamp()) + self._skew
        signature = self._signer.sign(call.fields, timestamp)
        return await self._client.send(wire.request(call, timestamp, signature, secrets))

    async def _read(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        return await self._client.send(Request(path=path, query=query))

    async def _note(self, key: Secret, **changes: Any) -> None:
        for known in self.list_keys():
            if known.api_key == key:
                await asyncio.to_thread(self._book.put, attrs.evolve(known, **changes))

    def _known(self, key: Secret) -> BridgeKey:
        known = next((known for known in self.list_keys() if known.api_key == key), None)
        if known is None:
            raise UsageError(f"this key is not in {self._book.path}, so nobody knows its roles and limits; make one")
        return known

    @property
    def _client(self) -> HttpClient:
        if self._http is None:
            raise UsageError("this admin is not open: use 'async with BridgeAdmin(...)'")
        return self._http

    @property
    def _signer(self) -> Wallet:
        if self._wallet is None:
            raise UsageError("keys are made and changed by the bridge's wallet: give wallet=")
        return self._wallet


@attrs.frozen(kw_only=True)
class _Plan:
    """What a key is to be."""

    roles: tuple[str, ...]
    rate_limit: int
    use_limit: int
    replaces: str = ""


def _plan_of(key: BridgeKey) -> _Plan:
    return _Plan(roles=key.roles, rate_limit=key.rate_limit, use_limit=key.use_limit, replaces=key.replaces)


def _plan_like(key: BridgeKey, key_id: str) -> _Plan:
    return attrs.evolve(_plan_of(key), replaces=key_id)


def _check_plan(plan: _Plan) -> None:
    """Raise what is wrong with a plan before anything is made."""
    probe = Secret("A" * 43 + "=")
    if not plan.roles:
        raise UsageError("a key without a role opens nothing; give chat or admin", field="roles")
    for role in plan.roles:
        wire.add_role(probe, role)
    wire.set_rate_limit(probe, plan.rate_limit)
    wire.set_use_limit(probe, plan.use_limit)


def _secret(api_key: str | Secret) -> Secret:
    return Secret(api_key) if isinstance(api_key, str) else api_key
