"""``BridgeAdmin`` on the emulated bridge: keys that are ready, through kills, skew and rotation."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async import FineTuneConfig, Session
from crynux_async.backends.bridge import admin as admin_module
from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.backends.bridge.key_book import BridgeKey, KeyBook
from crynux_async.backends.http.answer import Answer
from crynux_async.backends.http.client import HttpClient, Request
from crynux_async.clock import utc_now
from crynux_async.emulator import Emulator, Owner
from crynux_async.errors import AuthError, CrynuxError, SettingsError, TransportError, UnreachableError, UsageError
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from crynux_async.signing import Wallet
from tests.loopback import RawServer, answer, once, reset, serving
from tests.signing.vectors import ADDRESS, KEY

WALLET = Wallet(Secret(KEY))
STRANGER = Wallet(Secret("1".rjust(64, "0")))
CONFIG = FineTuneConfig(model_name="a/b", dataset_url="https://host.example/data.zip", max_train_steps=20, timeout=1800)


@pytest.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(unet="tiny", owner=Owner(address=ADDRESS, wei=1234 * 10**18 + 5)) as emulator:
        yield emulator


@pytest.fixture
async def admin(bridge: Emulator, tmp_path: Path) -> AsyncIterator[BridgeAdmin]:
    async with opened(bridge, tmp_path) as made:
        yield made


def opened(bridge: Emulator, folder: Path, wallet: Wallet | None = WALLET) -> BridgeAdmin:
    return BridgeAdmin(bridge.url, wallet, keys=folder / "keys.json")


def at_server(server: RawServer, folder: Path) -> BridgeAdmin:
    return BridgeAdmin(f"http://{server.host}", WALLET, keys=folder / "keys.json")


def usable_keys(bridge: Emulator) -> list[Any]:
    """Return the bridge's own rows of keys that open anything."""
    keys = bridge._running.database.keys
    return [key for key in keys if key.roles and key.prefix in keys._by_prefix]


async def test_first_model_of_a_made_key_can_be_downloaded(
    bridge: Emulator, admin: BridgeAdmin, tmp_path: Path
) -> None:
    key = await admin.create_key(rate_limit=30)
    async with Session(
        base_url=bridge.url, api_key=key.api_key, rate_limit=30, prime_key=False, trust_env=False
    ) as session:
        path = await session.run(CONFIG, tmp_path)
    assert path.is_file()
    assert key.is_ready


async def test_made_key_is_what_was_asked_for(bridge: Emulator, admin: BridgeAdmin) -> None:
    key = await admin.create_key(roles=("chat", "admin"), rate_limit=7, use_limit=50)
    (row,) = usable_keys(bridge)
    assert (row.roles, row.rate_limit, row.use_limit) == (("chat", "admin"), 7, 50)
    assert (key.roles, key.rate_limit, key.use_limit, key.is_ready) == (("chat", "admin"), 7, 50, True)
    assert timedelta(days=364) < key.expires_at - utc_now() < timedelta(days=366)
    assert admin.list_keys() == [key]


async def test_one_role_is_named_by_a_text(bridge: Emulator, admin: BridgeAdmin) -> None:
    key = await admin.create_key("admin")
    assert key.roles == ("admin",)
    assert [row.roles for row in usable_keys(bridge)] == [("admin",)]


async def test_each_call_makes_another_key(bridge: Emulator, admin: BridgeAdmin) -> None:
    keys = [await admin.create_key() for _ in range(2)]
    assert keys[0].api_key != keys[1].api_key
    assert admin.list_keys() == keys


async def test_calls_at_the_same_time_make_a_key_each(
    bridge: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[asyncio.Task[BridgeKey]] = []
    async with opened(bridge, tmp_path) as first, opened(bridge, tmp_path) as second:
        put = KeyBook.put

        def put_and_look(book: KeyBook, key: BridgeKey) -> None:
            put(book, key)
            if len(keys) == 1:  # the first key is in the file, and not ready
                loop.call_soon_threadsafe(lambda: keys.append(loop.create_task(second.create_key())))

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(KeyBook, "put", put_and_look)
        keys.append(asyncio.create_task(first.create_key()))
        made = [await keys[0]]
        made.append(await keys[1])
        assert first.list_keys() == made
    assert made[0].api_key != made[1].api_key
    assert len(usable_keys(bridge)) == 2


async def test_key_that_others_are_making_is_waited_for(bridge: Emulator, admin: BridgeAdmin, tmp_path: Path) -> None:
    async with KeyBook(tmp_path / "keys.json").sole_maker():
        waiting = asyncio.create_task(admin.create_key())
        await asyncio.wait([waiting], timeout=60.0)
        assert not waiting.done()
        assert bridge.requests == []
    assert (await waiting).is_ready


async def test_keys_that_could_be_put_nowhere_are_not_made(bridge: Emulator, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with opened(bridge, tmp_path / "file") as admin:
        with pytest.raises(SettingsError, match="cannot be written"):
            await admin.create_key()
    assert bridge.requests == []


async def test_key_is_in_the_file_before_it_is_used_for_anything(
    bridge: Emulator, admin: BridgeAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    send = HttpClient.send

    async def watched(self: HttpClient, request: Request) -> Answer:
        if "/api_key" in request.path:
            seen.append(len(admin.list_keys()))
        return await send(self, request)

    monkeypatch.setattr(HttpClient, "send", watched)
    await admin.create_key()
    assert seen == [0, 1, 1, 1]  # create, role, rate limit, use limit


class Killed(BaseException):
    """The process dies here."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Die before or after the ``step``-th write or call; return how many there were."""
    count = 0

    def pass_by() -> None:
        nonlocal count
        count += 1
        if count == step:
            raise Killed

    for name in ("send", "send_once"):
        monkeypatch.setattr(HttpClient, name, _mortal_call(getattr(HttpClient, name), pass_by))
    for name in ("put", "remove"):
        monkeypatch.setattr(KeyBook, name, _mortal_write(getattr(KeyBook, name), pass_by))
    return lambda: count


def _mortal_call(call: Any, pass_by: Callable[[], None]) -> Any:
    async def mortal(*args: Any, **more: Any) -> Any:
        pass_by()
        result = await call(*args, **more)
        pass_by()
        return result

    return mortal


def _mortal_write(write: Any, pass_by: Callable[[], None]) -> Any:
    def mortal(*args: Any) -> Any:
        pass_by()
        write(*args)
        pass_by()

    return mortal


STEPS = 2 * (4 + 1 + 1 + 1 + 1 + 1)
"""Before and after: create and three changes, the write, asked whether fresh, primed, asked again, the last write."""


@pytest.mark.parametrize("step", range(1, STEPS + 1))
async def test_key_whose_making_was_killed_is_finished_by_the_next_call(
    bridge: Emulator, tmp_path: Path, step: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(step, monkeypatch)
        async with opened(bridge, tmp_path) as admin:
            with pytest.raises(Killed):
                await admin.create_key(rate_limit=20)
    async with opened(bridge, tmp_path) as admin:
        was_made = [key for key in admin.list_keys() if key.is_ready]
        key = await admin.create_key(rate_limit=20)
        rows = usable_keys(bridge)
        assert [row.prefix for row in rows] == [known.prefix for known in admin.list_keys()]  # no usable key is lost
        assert all(row.client is not None for row in rows)  # none is left without priming
        assert all(known.is_ready for known in admin.list_keys())
        assert key in admin.list_keys()
        assert len(rows) == 1 + len(was_made)


async def test_kills_are_at_every_step(bridge: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = kill_at(0, monkeypatch)
    async with opened(bridge, tmp_path) as admin:
        await admin.create_key()
    assert counted() == STEPS


@pytest.mark.parametrize("request_number", range(1, 8))
async def test_key_whose_making_was_cancelled_is_finished_by_the_next_call(
    bridge: Emulator, tmp_path: Path, request_number: int
) -> None:
    async with opened(bridge, tmp_path) as admin:
        making = asyncio.create_task(admin.create_key())
        while len(bridge.requests) < request_number and not making.done():
            await asyncio.sleep(0)
        making.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await making
    async with opened(bridge, tmp_path) as admin:
        await admin.create_key()
        rows = usable_keys(bridge)
        assert [row.prefix for row in rows] == [known.prefix for known in admin.list_keys()]
        assert all(row.client is not None for row in rows)


async def test_unfinished_key_of_another_kind_is_finished_and_another_one_made(
    bridge: Emulator, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(5, monkeypatch)
        async with opened(bridge, tmp_path) as admin:
            with pytest.raises(Killed):
                await admin.create_key(rate_limit=20)
    async with opened(bridge, tmp_path) as admin:
        key = await admin.create_key(rate_limit=30)
        assert [(known.rate_limit, known.is_ready) for known in admin.list_keys()] == [(20, True), (30, True)]
        assert key.rate_limit == 30


async def test_unfinished_key_that_the_bridge_forgot_is_dropped(bridge: Emulator, tmp_path: Path) -> None:
    stale = BridgeKey(
        api_key=Secret("z" * 42 + "A="), bridge=bridge.url, made_at=utc_now(), expires_at=utc_now(), roles=("chat",),
        rate_limit=60, use_limit=-1,
    )  # fmt: skip
    KeyBook(tmp_path / "keys.json").put(stale)
    async with opened(bridge, tmp_path) as admin:
        key = await admin.create_key()
        assert admin.list_keys() == [key]


async def test_priming_that_the_rate_limiter_refuses_is_waited_for(bridge: Emulator, tmp_path: Path) -> None:
    """A key of one create a minute whose token is gone: its bucket is full again after a minute."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(STEPS // 2, monkeypatch)
        async with opened(bridge, tmp_path) as admin:
            with pytest.raises(Killed):
                await admin.create_key(rate_limit=1)
            (key,) = admin.list_keys()
    row = usable_keys(bridge)[0]
    row.client = None
    bridge._running.buckets.check(row.index, 1, bridge._clock.now())
    began = utc_now()
    async with opened(bridge, tmp_path) as admin:
        finished = await admin.create_key(rate_limit=1)
    assert finished.api_key == key.api_key
    assert utc_now() - began >= timedelta(seconds=60)
    assert row.client is not None


@pytest.mark.parametrize("seconds", [-300, 300, 90_000])
async def test_clock_that_is_off_is_measured_and_mended(
    bridge: Emulator, admin: BridgeAdmin, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setattr(admin_module, "utc_now", lambda: utc_now() + timedelta(seconds=seconds))
    key = await admin.create_key()
    assert abs(admin.skew + seconds) <= 1
    assert key.is_ready
    assert len(usable_keys(bridge)) == 1


async def test_clock_is_blamed_where_the_bridge_does_not_tell_its_time(tmp_path: Path) -> None:
    body = '{"message":"validation_error","data":{"field_name":"signature","message":"Invalid signature"}}'
    async with serving(once(answer(400, body))) as server, at_server(server, tmp_path) as admin:
        with pytest.raises(AuthError, match="set this machine's clock"):
            await admin.create_key()
    assert len(server.requests) == 1


async def test_another_wallet_is_named_and_nothing_is_made(bridge: Emulator, tmp_path: Path) -> None:
    async with opened(bridge, tmp_path, STRANGER) as admin:
        with pytest.raises(AuthError, match=f"belongs to another wallet than {STRANGER.address}"):
            await admin.create_key()
        assert admin.list_keys() == []
    assert len(bridge._running.database.keys) == 0


@pytest.mark.parametrize(
    "plan", [{"roles": ()}, {"roles": ("image",)}, {"rate_limit": 0}, {"rate_limit": -5}, {"use_limit": 0}]
)
async def test_plan_that_cannot_work_is_refused_before_anything_is_sent(
    bridge: Emulator, admin: BridgeAdmin, plan: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        await admin.create_key(**plan)
    assert bridge.requests == []


async def test_changed_limits_are_set_and_remembered_and_told(bridge: Emulator, admin: BridgeAdmin) -> None:
    heard: list[tuple[str, float]] = []

    class Listener:
        def limit_changed(self, key_id: str, limit_per_minute: float) -> None:
            heard.append((key_id, limit_per_minute))

    key = await admin.create_key()
    listener = Listener()
    await admin.set_rate_limit(key.api_key, 120, listeners=[listener])
    await admin.set_use_limit(key.api_key.reveal(), 9)
    (row,) = usable_keys(bridge)
    assert (row.rate_limit, row.use_limit) == (120, 9)
    assert [(known.rate_limit, known.use_limit) for known in admin.list_keys()] == [(120, 9)]
    assert heard == [(Settings(api_key=key.api_key).key_id, 120.0)]


async def test_deleted_key_is_gone_here_and_there(bridge: Emulator, admin: BridgeAdmin) -> None:
    key = await admin.create_key()
    await admin.delete_key(key.api_key)
    assert admin.list_keys() == []
    with pytest.raises(AuthError, match="does not know this key"):
        await admin.set_rate_limit(key.api_key, 5)


def needs(jobs: dict[str, Collection[str]]) -> Any:
    async def needed_by(key_id: str) -> Collection[str]:
        return jobs.get(key_id, ())

    return needed_by


class _Everything(dict[str, Collection[str]]):
    def get(self, key: str, default: Any = None) -> Any:
        return ["job-1"]


KEEP_ALL = _Everything()
ROTATION_STEPS = 24  # those of a new key, the old one's mark, and the deletion with its write


async def test_rotated_key_that_no_job_needs_is_deleted(admin: BridgeAdmin) -> None:
    old = await admin.create_key(roles=("admin",), rate_limit=9)
    rotation = await admin.rotate_key(old.api_key, needs({}))
    assert (rotation.is_deleted, rotation.needed_by) == (True, ())
    assert (rotation.key.roles, rotation.key.rate_limit) == (("admin",), 9)
    assert admin.list_keys() == [rotation.key]


async def test_rotated_key_is_kept_while_a_job_needs_it(bridge: Emulator, admin: BridgeAdmin) -> None:
    old = await admin.create_key()
    jobs: dict[str, Collection[str]] = {Settings(api_key=old.api_key).key_id: ["job-1", "job-2"]}
    rotation = await admin.rotate_key(old.api_key, needs(jobs))
    assert (rotation.is_deleted, rotation.needed_by) == (False, ("job-1", "job-2"))
    assert len(usable_keys(bridge)) == 2
    assert admin.list_keys() == [attrs.evolve(old, is_retiring=True), rotation.key]
    jobs.clear()
    assert await admin.retire_keys(needs(jobs)) == {}
    assert admin.list_keys() == [rotation.key]


async def test_session_tells_for_which_jobs_a_replaced_key_is_kept(
    bridge: Emulator, admin: BridgeAdmin, tmp_path: Path
) -> None:
    old = await admin.create_key(rate_limit=30)
    async with Session(base_url=bridge.url, api_key=old.api_key, rate_limit=30, trust_env=False) as session:
        job = await session.submit(CONFIG)
        rotation = await admin.rotate_key(old.api_key, session.jobs_that_need)
        assert (rotation.is_deleted, rotation.needed_by) == (False, (job.job_id,))
        await job.wait()
        assert list(await admin.retire_keys(session.jobs_that_need)) == [old.prefix]  # its model is not fetched
        await job.download(tmp_path)
        assert await admin.retire_keys(session.jobs_that_need) == {}
    assert admin.list_keys() == [rotation.key]
    with pytest.raises(UsageError, match="not open"):
        await session.jobs_that_need("")


async def test_rotation_may_be_repeated_and_makes_one_successor(admin: BridgeAdmin) -> None:
    old = await admin.create_key()
    jobs: dict[str, Collection[str]] = {Settings(api_key=old.api_key).key_id: ["job-1"]}
    first = await admin.rotate_key(old.api_key, needs(jobs))
    again = await admin.rotate_key(old.api_key, needs(jobs))
    assert (again.key, again.is_deleted) == (first.key, False)
    last = await admin.rotate_key(old.api_key, needs({}))
    assert (last.key, last.is_deleted) == (first.key, True)
    assert admin.list_keys() == [first.key]


async def test_rotation_of_a_key_whose_successor_was_replaced_names_the_last_one(admin: BridgeAdmin) -> None:
    old = await admin.create_key()
    jobs: dict[str, Collection[str]] = {}
    for key in (old, (first := await admin.rotate_key(old.api_key, needs(KEEP_ALL))).key):
        jobs[Settings(api_key=key.api_key).key_id] = ["job-1"]
    second = await admin.rotate_key(first.key.api_key, needs(jobs))
    assert (await admin.rotate_key(old.api_key, needs(jobs))).key == second.key
    await admin.delete_key(second.key.api_key)
    with pytest.raises(UsageError, match="the key in its place is gone"):
        await admin.rotate_key(old.api_key, needs(jobs))


@pytest.mark.parametrize("step", range(1, ROTATION_STEPS + 1))
async def test_rotation_that_is_killed_anywhere_is_finished_by_the_next_one(
    bridge: Emulator, tmp_path: Path, step: int
) -> None:
    async with opened(bridge, tmp_path) as admin:
        old = await admin.create_key()
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(step, monkeypatch)
        async with opened(bridge, tmp_path) as admin:
            with pytest.raises(Killed):
                await admin.rotate_key(old.api_key, needs({}))
    async with opened(bridge, tmp_path) as admin:
        if old.prefix in [key.prefix for key in admin.list_keys()]:
            await admin.rotate_key(old.api_key, needs({}))
        (key,) = admin.list_keys()
        assert key.is_ready
        assert key.api_key != old.api_key
        assert [row.prefix for row in usable_keys(bridge)] == [key.prefix]


async def test_rotation_has_no_other_steps(bridge: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(bridge, tmp_path) as admin:
        old = await admin.create_key()
        counted = kill_at(0, monkeypatch)
        await admin.rotate_key(old.api_key, needs({}))
    assert counted() == ROTATION_STEPS


async def test_deletion_whose_answer_was_lost_may_be_repeated(bridge: Emulator, admin: BridgeAdmin) -> None:
    key = await admin.create_key()
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_at(2, monkeypatch)
        with pytest.raises(Killed):
            await admin.delete_key(key.api_key)
    assert (usable_keys(bridge), admin.list_keys()) == ([], [key])
    await admin.delete_key(key.api_key)
    assert admin.list_keys() == []


async def test_key_that_nobody_knows_cannot_be_deleted(admin: BridgeAdmin) -> None:
    with pytest.raises(AuthError, match="does not know this key"):
        await admin.delete_key("z" * 42 + "A=")


async def test_key_that_is_not_in_the_file_cannot_be_rotated(bridge: Emulator, admin: BridgeAdmin) -> None:
    with pytest.raises(UsageError, match="is not in"):
        await admin.rotate_key(bridge.new_key(), needs({}))


async def test_readings_need_no_wallet(bridge: Emulator, tmp_path: Path) -> None:
    async with opened(bridge, tmp_path, None) as admin:
        assert await admin.balance() == 1234 * 10**18 + 5
        assert (await admin.account()).address == ADDRESS
        assert (await admin.nodes()).available == 5
        assert (await admin.counts()).total == 0
        assert await admin.models() == ("crynux-network/stable-diffusion-v1-5",)
        with pytest.raises(UsageError, match="give wallet="):
            await admin.create_key()


async def test_admin_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="async with BridgeAdmin"):
        await BridgeAdmin("http://127.0.0.1:1", WALLET, keys=tmp_path / "keys.json").balance()


async def test_bridge_that_is_away_is_unreachable_and_nothing_is_written(tmp_path: Path) -> None:
    async with BridgeAdmin("http://127.0.0.1:1", WALLET, keys=tmp_path / "keys.json") as admin:
        with pytest.raises(UnreachableError):
            await admin.create_key()
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("call", ["delete", "limit"])
async def test_no_error_shows_a_key(tmp_path: Path, call: str) -> None:
    key = "qI_ZWTFcCsn91oEe66Pfpp1Mnw0f4UwfFLofftTMPBk="
    async with serving(once(end=reset)) as server, at_server(server, tmp_path) as admin:
        with pytest.raises(TransportError) as caught:
            await (admin.delete_key(key) if call == "delete" else admin.set_rate_limit(key, 5))
    error: CrynuxError = caught.value
    assert key[:20] not in f"{error!r} {error} {error.url} {error.__cause__!r} {error.__context__!r}"
    assert "***" in str(error.url)


async def test_page_that_repeats_the_request_is_shown_without_the_key(tmp_path: Path) -> None:
    key = "qI_ZWTFcCsn91oEe66Pfpp1Mnw0f4UwfFLofftTMPBk="
    async with (
        serving(once(answer(502, f"<html>DELETE /v1/api_key/{key}", "text/html"))) as server,
        at_server(server, tmp_path) as admin,
    ):
        with pytest.raises(CrynuxError) as caught:
            await admin.delete_key(key)
    assert key[:20] not in f"{caught.value} {getattr(caught.value, 'answer', '')}"


@pytest.mark.parametrize("in_ledger", [False, True])
async def test_raised_limit_is_used_at_once_by_a_session_that_is_told(
    bridge: Emulator, admin: BridgeAdmin, tmp_path: Path, in_ledger: bool
) -> None:
    """Ten jobs at one a minute take nine minutes; told of 60 a minute after the second, they take seconds."""
    key = await admin.create_key(rate_limit=1)
    await asyncio.sleep(61)  # the token that priming cost, whatever the rounding of clocks
    settings = Settings(base_url=bridge.url, api_key=key.api_key, rate_limit=1, trust_env=False)
    async with Session(settings, ledger=tmp_path / "jobs.db" if in_ledger else None) as session:
        jobs = [session.submit_nowait(CONFIG.evolve(rank=rank)) for rank in range(1, 11)]
        await jobs[1].submitted()
        began = utc_now()
        await admin.set_rate_limit(key.api_key, 60, listeners=[session])
        await asyncio.gather(*(job.submitted() for job in jobs))
        assert utc_now() - began < timedelta(seconds=90)
        assert session.statistics().refusals == 0
        assert session.statistics().limit_per_minute == 60


async def test_session_of_another_key_is_not_changed(bridge: Emulator, admin: BridgeAdmin) -> None:
    key = await admin.create_key(rate_limit=5)
    async with Session(base_url=bridge.url, api_key=bridge.new_key(), rate_limit=7, trust_env=False) as session:
        await admin.set_rate_limit(key.api_key, 60, listeners=[session])
        assert session.statistics().limit_per_minute == 7
