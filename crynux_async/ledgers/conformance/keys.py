"""Checks of idempotency keys: one intention is one job, whoever asks and however often."""

import asyncio

from crynux_async.ledgers.base import JobFilter, JobRow
from crynux_async.ledgers.conformance.support import (
    OTHER_BACKEND,
    LedgerCheck,
    LedgerFactory,
    desk,
    desks,
    event,
    job,
    names,
    opened,
    require_equal,
    require_error,
    task,
)
from crynux_async.states import JobState


def _keyed(name: str, key: str = "key", **changes: object) -> JobRow:
    return job(name, idempotency_key=key, **changes)


async def key_that_is_there_gives_the_earlier_job(make: LedgerFactory) -> None:
    """The earlier job comes back as it is by now, in the place of the new one; nothing of the new one is stored."""
    async with desk(make) as me:
        ledger = me.ledger
        await ledger.add([_keyed("a")], fence=me.fence)
        await me.change("a", columns={"state": JobState.RUNNING, "task_id": "7"}, tasks=[task("a", "7")])
        earlier = _keyed("a", state=JobState.RUNNING, task_id="7")
        rows = [job("b"), _keyed("c", last_event=1), job("d")]
        stored = await ledger.add(rows, events=[event("c", 1)], tasks=[task("c", "8")])
        require_equal(stored, [rows[0], earlier, rows[2]], "what is stored")
        require_equal(names(await ledger.jobs()), ["a", "b", "d"], "jobs")
        require_equal(await ledger.events("c"), [], "events of a job that was not added")
        require_equal(await ledger.tasks(["c"]), [], "tasks of a job that was not added")


async def key_is_unique_for_backend_and_tenant_alone(make: LedgerFactory) -> None:
    """Other backends and tenants have keys of their own, and jobs without a key are no twins."""
    rows = [
        _keyed("a"),
        _keyed("b", backend=OTHER_BACKEND),
        _keyed("c", tenant="somebody"),
        _keyed("d", "other"),
        job("e"),
        job("f"),
        _keyed("g", ""),
        _keyed("h", "", tenant="somebody"),
    ]
    async with opened(make) as ledger:
        require_equal(await ledger.add(rows), rows, "what was stored")
        require_equal(names(await ledger.jobs(JobFilter(idempotency_key="key"))), ["a", "b", "c"], "jobs with a key")


async def key_that_is_given_twice_at_once_is_one_job(make: LedgerFactory) -> None:
    """Within one call the first row wins."""
    async with opened(make) as ledger:
        stored = await ledger.add([_keyed("a"), _keyed("b"), _keyed("c", "other")])
        require_equal(stored, [_keyed("a"), _keyed("a"), _keyed("c", "other")], "what is stored")
        require_equal(names(await ledger.jobs()), ["a", "c"], "jobs")


async def refused_job_leaves_its_key_free(make: LedgerFactory) -> None:
    """What was not stored stands for nothing."""
    async with opened(make) as ledger:
        await ledger.add([job("taken")])
        await require_error(ledger.add([_keyed("a"), job("taken")]), "a name was added twice")
        require_equal(await ledger.add([_keyed("b")]), [_keyed("b")], "what is stored under a key that was free")


async def key_cannot_change(make: LedgerFactory) -> None:
    """Neither the key of a job nor its tenant changes, so that an intention cannot be given away."""
    async with desk(make, "a") as me:
        await require_error(me.change("a", columns={"idempotency_key": "new"}), "another key for a job")
        await require_error(me.change("a", columns={"tenant": "new"}), "another tenant for a job")


async def many_who_ask_with_one_key_get_one_job(make: LedgerFactory) -> None:
    """From two instances and many callers at once, each key becomes one job, and everybody is told the same one."""
    async with desks(make) as both:

        async def ask(number: int) -> tuple[str, str]:
            key, me = f"key {number % 5}", both[number % 2]
            (row,) = await me.ledger.add([_keyed(f"job {number}", key)], fence=me.fence)
            return key, row.job_id

        told = set(await asyncio.gather(*(ask(number) for number in range(40))))
        stored = {(row.idempotency_key, row.job_id) for row in await both[0].ledger.jobs()}
        require_equal(len(stored), 5, "how many jobs five keys became")
        require_equal(told, stored, "which jobs the callers were told")
        held = [await one.ledger.held(one.fence) for one in both]
        require_equal(sorted(held[0] | held[1]), sorted(name for _, name in stored), "who holds the jobs")


KEY_CHECKS: tuple[LedgerCheck, ...] = (
    key_that_is_there_gives_the_earlier_job,
    key_is_unique_for_backend_and_tenant_alone,
    key_that_is_given_twice_at_once_is_one_job,
    refused_job_leaves_its_key_free,
    key_cannot_change,
    many_who_ask_with_one_key_get_one_job,
)
