"""Checks of who follows which job, and until when."""

import asyncio
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from crynux_async.errors import LeaseLostError
from crynux_async.ledgers.base import LEASE_MEMORY, Fence, Holder
from crynux_async.ledgers.conformance.support import (
    BACKEND,
    OTHER_BACKEND,
    Desk,
    LedgerCheck,
    LedgerFactory,
    desk,
    desks,
    job,
    names,
    opened,
    require,
    require_equal,
    require_error,
)
from crynux_async.states import JobState

_FOLLOWED = frozenset({JobState.RUNNING, JobState.PLANNED})
_MANY_KEYS = 70_000  # PostgreSQL takes 65,535 parameters, and SQLite 32,766 where nobody has raised that


async def _claim(me: Desk, backend: str = BACKEND, at_most: int | None = None) -> list[str]:
    return names(await me.ledger.claim(me.fence, backend=backend, states=_FOLLOWED, at_most=at_most))


async def fences_are_never_used_again(make: LedgerFactory) -> None:
    """Every lease has a number of its own, larger than 0, also after others were given back and for the same owner."""
    async with opened(make) as ledger:
        fences = []
        for _ in range(5):
            fences.append(await ledger.enter("me", seconds=60))
            await ledger.leave(fences[-1])
        require(all(fence.number > 0 and fence.owner == "me" for fence in fences), "a fence is not as it was asked for")
        require_equal(len({fence.number for fence in fences}), 5, "how many numbers five leases had")


async def claim_takes_what_is_free_and_asked_for(make: LedgerFactory) -> None:
    """Only jobs of the backend in the states, in the order of adding, as they are."""
    rows = [
        job("d", state=JobState.RUNNING, task_id="3"),
        job("c", state=JobState.FAILED),
        job("b", backend=OTHER_BACKEND),
        job("a"),
    ]
    async with desk(make) as me:
        await me.ledger.add(rows)
        none = await me.ledger.claim(me.fence, backend=BACKEND, states=[])
        require_equal(none, [], "a claim of no state")
        found = await me.ledger.claim(me.fence, backend=BACKEND, states=_FOLLOWED)
        require_equal(found, [rows[0], rows[3]], "claimed jobs")
        require_equal(await me.ledger.held(me.fence), {"a", "d"}, "held jobs")
        require_equal(await _claim(me, OTHER_BACKEND), ["b"], "claimed jobs of the other backend")
        require_equal(await _claim(me), [], "a claim of what one has already")


async def claim_takes_what_is_wanted_of_other_states(make: LedgerFactory) -> None:
    """Of jobs that succeeded only those whose archive is wanted are worth following."""
    rows = [
        job("a", state=JobState.SUCCEEDED),
        job("b", state=JobState.SUCCEEDED, folder="/models", file_name="b.zip"),
        job("c", state=JobState.DOWNLOADED, folder="/models", file_name="c.zip"),
        job("d"),
    ]
    async with desk(make) as me:
        await me.ledger.add(rows)
        found = await me.ledger.claim(me.fence, backend=BACKEND, states=_FOLLOWED, wanted=[JobState.SUCCEEDED])
        require_equal(names(found), ["b", "d"], "claimed jobs")
        await me.ledger.drop(me.fence, ["b", "d"])
        await me.change("d", columns={"folder": None})
        only = await me.ledger.claim(me.fence, backend=BACKEND, states=(), wanted=[JobState.SUCCEEDED])
        require_equal(names(only), ["b"], "claimed jobs whose archive is wanted")


async def claim_takes_only_what_the_credentials_may_follow(make: LedgerFactory) -> None:
    """Where following needs a credential, the jobs of others stay free for whoever has theirs."""
    rows = [
        job("a", key_id="mine"),
        job("b", key_id="theirs"),
        job("c", key_id="", config=None, task_id="7", state=JobState.RUNNING),
        job("d", key_id="theirs", state=JobState.SUCCEEDED, folder="/models", file_name="d.zip"),
    ]
    async with desks(make) as (one, two):
        await one.ledger.add(rows)

        async def claimed(desk: Desk, key_ids: Collection[str] | None) -> list[str]:
            found = await desk.ledger.claim(
                desk.fence,
                backend=BACKEND,
                states=_FOLLOWED,
                wanted=[JobState.SUCCEEDED],
                key_ids=key_ids,
                wanted_key_ids=key_ids,
            )
            return names(found)

        require_equal(await claimed(one, []), [], "a claim for no credential")
        require_equal(await claimed(one, ["mine", ""]), ["a", "c"], "the jobs of one credential")
        require_equal(await claimed(two, None), ["b", "d"], "what is left for all")


async def claim_may_be_for_thousands_of_credentials(make: LedgerFactory) -> None:
    """Of jobs of more credentials than a statement can hold, the first ones are taken, each once."""
    many = ["mine", "", *(f"key {number}" for number in range(_MANY_KEYS))]
    rows = [job(name, key_id=key_id) for name, key_id in (("a", many[-1]), ("b", "theirs"), ("c", "mine"), ("d", ""))]
    async with desks(make) as (one, two):
        await one.ledger.add(rows)

        async def claimed(desk: Desk) -> list[str]:
            found = await desk.ledger.claim(
                desk.fence, backend=BACKEND, states=_FOLLOWED, key_ids=many, wanted_key_ids=many, at_most=2
            )
            return names(found)

        require_equal(await claimed(one), ["a", "c"], "the first two jobs of these credentials")
        require_equal(await claimed(two), ["d"], "what is left of these credentials")


async def claim_tells_who_may_follow_from_who_may_fetch(make: LedgerFactory) -> None:
    """Where following needs no credential and fetching does, what is only wanted stays free for whoever has it."""
    wanted: dict[str, Any] = {"state": JobState.SUCCEEDED, "folder": "/models", "file_name": "a.zip"}
    rows = [
        job("a", key_id="theirs", state=JobState.RUNNING, task_id="1"),
        job("b", key_id="theirs", task_id="2", **wanted),
        job("c", key_id="mine", task_id="3", **wanted),
        job("d", key_id="", config=None, task_id="4", **wanted),
        job("e", key_id="mine", task_id="5", state=JobState.SUCCEEDED),
    ]
    async with desks(make) as (one, two):
        await one.ledger.add(rows)
        asked: dict[str, Any] = {"backend": BACKEND, "states": _FOLLOWED, "wanted": [JobState.SUCCEEDED]}
        mine = await one.ledger.claim(one.fence, **asked, wanted_key_ids=["mine", ""])
        require_equal(names(mine), ["a", "c", "d"], "all that runs, and the models of one credential")
        spared = await two.ledger.claim(two.fence, **asked, spared=["b", "z"])
        require_equal(names(spared), [], "what is left and was to be left alone")
        theirs = await two.ledger.claim(two.fence, **asked, key_ids=["mine"], wanted_key_ids=["theirs"], spared=["z"])
        require_equal(names(theirs), ["b"], "the models of the other credential")


async def claim_takes_no_more_than_it_is_told(make: LedgerFactory) -> None:
    """The first ones are taken, the others stay free."""
    async with desks(make) as (one, two):
        await one.ledger.add([job(name) for name in "abcde"])
        require_equal(await _claim(one, at_most=2), ["a", "b"], "the first share")
        require_equal(await _claim(two, at_most=9), ["c", "d", "e"], "the rest")


async def lease_keeps_others_away_until_it_ends(make: LedgerFactory) -> None:
    """Until it has ended a lease is respected by everybody; then the next one takes over."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b")])
        require_equal(await _claim(one), ["a", "b"], "the first claim")
        one.place.move_clock(59)
        require_equal(await _claim(two), [], "a claim before the end of the lease")
        require_equal(await two.ledger.take(two.fence, ["a"]), [], "jobs taken before the end of the lease")
        one.place.move_clock(2)
        await two.ledger.renew(two.fence, seconds=60)
        require_equal(await _claim(two, at_most=1), ["a"], "a claim after the end of the lease")
        require_equal(await two.ledger.take(two.fence, ["b"]), ["b"], "jobs taken after the end of the lease")
        require_equal(await one.ledger.renew(one.fence, seconds=60), 0, "jobs left after others took them")
        require_equal(await _claim(one), [], "a claim of what others took over")
        require_equal(await two.ledger.renew(two.fence, seconds=60), 2, "jobs of the next one")


async def lease_that_ended_comes_back_by_renewing(make: LedgerFactory) -> None:
    """As long as nobody has taken its jobs, an owner that slept goes on with them."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a")], fence=one.fence)
        one.place.move_clock(100)
        require_equal(await one.change("a", columns={"label": "late"}), [], "jobs lost by a lease that only ended")
        require_equal(await one.ledger.renew(one.fence, seconds=60), 1, "jobs of a lease that ended")
        await two.ledger.renew(two.fence, seconds=60)
        require_equal(await _claim(two), [], "a claim of what was renewed")


async def renewing_moves_the_end(make: LedgerFactory) -> None:
    """A lease ends when the last renewal says, be it later or earlier."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b"), job("c", state=JobState.FAILED)])
        await _claim(one)
        require_equal(await one.ledger.renew(one.fence, seconds=1000), 2, "how many jobs a lease holds")
        one.place.move_clock(500)
        require_equal(await _claim(two), [], "a claim of what was renewed")
        await one.ledger.renew(one.fence, seconds=1)
        one.place.move_clock(2)
        require_equal(await _claim(two), ["a", "b"], "a claim of what was renewed for less")


async def given_back_jobs_are_free_at_once(make: LedgerFactory) -> None:
    """Leaving frees every job of that lease and nothing of others; the lease does not come back."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("z", state=JobState.FAILED)], fence=one.fence)
        await two.ledger.add([job("b")], fence=two.fence)
        await one.ledger.leave(one.fence)
        await one.ledger.leave(one.fence)
        require_equal(await one.ledger.renew(one.fence, seconds=60), None, "a lease that was given back")
        require_equal(await one.ledger.held(one.fence), set(), "jobs of a lease that was given back")
        require_equal(await _claim(two), ["a"], "a claim after giving back")
        require_equal(await two.ledger.held(two.fence), {"a", "b"}, "held jobs")


async def lease_of_the_dead_is_given_back_by_others(make: LedgerFactory) -> None:
    """Who knows that a process has ended frees its jobs before their lease ends."""
    async with desks(make) as (dead, heir):
        await dead.ledger.add([job("a")], fence=dead.fence)
        (found,) = [holder for holder in await heir.ledger.holders() if holder.fence.owner == dead.fence.owner]
        await heir.ledger.leave(found.fence)
        require_equal(await _claim(heir), ["a"], "a claim of what the dead held")


async def dropped_jobs_are_free_and_others_stay(make: LedgerFactory) -> None:
    """Only what the fence holds is given back."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b")], fence=one.fence)
        await two.ledger.add([job("c")], fence=two.fence)
        await one.ledger.drop(one.fence, ["a", "c", "nobody"])
        await one.ledger.drop(one.fence, [])
        require_equal(await one.ledger.held(one.fence), {"b"}, "what is left of the first")
        require_equal(await two.ledger.held(two.fence), {"c"}, "what is left of the second")
        require_equal(await _claim(two), ["a"], "a claim of what was dropped")


async def taking_certain_jobs_spares_those_of_others(make: LedgerFactory) -> None:
    """Taking gets those that nobody has (any more), and says which the fence holds now."""
    async with desks(make) as (one, other):
        await one.ledger.add([job("a"), job("b", state=JobState.FAILED)])
        await other.ledger.add([job("c")], fence=other.fence)
        require_equal(await one.ledger.take(one.fence, ["b", "c"]), ["b"], "jobs taken")
        require_equal(await one.ledger.take(one.fence, ["a", "b"]), ["a", "b"], "jobs taken or kept")
        require_equal(await one.ledger.take(one.fence, []), [], "no jobs taken")
        await require_error(one.ledger.take(one.fence, ["a", "nobody"]), "a job that is not there was taken")
        await other.ledger.leave(other.fence)
        require_equal(await one.ledger.take(one.fence, ["c"]), ["c"], "a job that was given back")
        require_equal(await one.ledger.renew(one.fence, seconds=60), 3, "jobs at the end")


async def holders_are_known_until_they_leave(make: LedgerFactory) -> None:
    """Whoever has a lease is listed, ended or not, with how much it holds, so that the dead can be told apart."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b")], fence=one.fence)
        found = {holder.fence: holder.jobs for holder in await two.ledger.holders()}
        require_equal(found, {one.fence: 2, two.fence: 0}, "holders")
        holder = await two.ledger.holder("a")
        require(holder is not None and holder.fence == one.fence and holder.jobs == 2, f"a is held by {holder}")
        (before,) = [each for each in await two.ledger.holders() if each.fence == one.fence]
        await one.ledger.renew(one.fence, seconds=600)
        after = await two.ledger.holder("b")
        require(after is not None, "b is held by nobody")
        assert isinstance(after, Holder)
        require(timedelta(500) > after.until - before.until > timedelta(seconds=500), "the end of a lease did not move")
        require_equal(await two.ledger.holder("nobody"), None, "the holder of a job that is not there")
        one.place.move_clock(700)
        require_equal(await two.ledger.holder("a"), None, "the holder of a job whose lease has ended")
        require_equal({each.fence for each in await two.ledger.holders()}, {one.fence, two.fence}, "ended holders")
        await one.ledger.leave(one.fence)
        require_equal([each.fence for each in await two.ledger.holders()], [two.fence], "holders after one left")


async def leases_that_mean_nothing_are_forgotten(make: LedgerFactory) -> None:
    """Entering removes leases that ended and hold nothing, and gives back what was held by one that ended a day ago."""
    async with desk(make, "a") as me:
        ledger = me.ledger
        empty = await ledger.enter("empty", seconds=10)
        live = await ledger.enter("live", seconds=3 * LEASE_MEMORY)
        me.place.move_clock(100)
        await ledger.enter("new", seconds=4 * LEASE_MEMORY)
        owners = {holder.fence.owner for holder in await ledger.holders()}
        require_equal(owners, {me.fence.owner, "live", "new"}, "owners after one ended with nothing")
        require_equal(await ledger.renew(empty, seconds=60), None, "a lease that was forgotten")
        require_equal(await ledger.held(me.fence), {"a"}, "what a lease holds that has just ended")
        me.place.move_clock(LEASE_MEMORY)
        await ledger.enter("newest", seconds=60)
        owners = {holder.fence.owner for holder in await ledger.holders()}
        require_equal(owners, {"live", "new", "newest"}, "owners after one ended long ago")
        require_equal(
            await me.change("a", columns={"label": "late"}), ["a"], "jobs lost by a lease that ended long ago"
        )
        require_equal(await ledger.take(live, ["a"]), ["a"], "a job whose lease ended long ago")


async def lease_that_is_gone_takes_nothing(make: LedgerFactory) -> None:
    """Who has no lease any more gets no jobs, and is told so."""
    async with desk(make) as me:
        ledger = me.ledger
        await ledger.add([job("a")])
        for gone in (await _left(me), Fence(owner="me", number=2**40)):
            claiming = ledger.claim(gone, backend=BACKEND, states=_FOLLOWED)
            await require_error(claiming, "a claim without a lease", LeaseLostError)
            await require_error(ledger.take(gone, ["a"]), "jobs were taken without a lease", LeaseLostError)
            await require_error(ledger.add([job("b")], fence=gone), "a job without a lease", LeaseLostError)
            await ledger.drop(gone, ["a"])
        require_equal(names(await ledger.jobs()), ["a"], "jobs")
        require_equal(await _claim(me), ["a"], "jobs that stayed free")


async def _left(me: Desk) -> Fence:
    fence = await me.ledger.enter("gone", seconds=60)
    await me.ledger.leave(fence)
    return fence


async def job_added_with_a_fence_is_never_free(make: LedgerFactory) -> None:
    """Between adding and following nobody else can take a job."""
    async with desks(make) as (one, two):
        ledger, fence = one.ledger, one.fence
        await asyncio.gather(
            ledger.add([job("c")]), ledger.add([job("a"), job("b")], fence=fence), ledger.add([job("e")])
        )
        require_equal(sorted(await _claim(two)), ["c", "e"], "a claim by another")
        require_equal(await ledger.renew(fence, seconds=60), 2, "how many jobs came with their lease")


async def claims_at_once_never_share_a_job(make: LedgerFactory) -> None:
    """Of many who claim at once, from several instances, each job goes to one."""
    some = [f"job {index}" for index in range(20)]
    async with desks(make, 4) as many:
        await many[0].ledger.add([job(name) for name in some])
        claims = await asyncio.gather(*(_claim(one, at_most=3) for one in [*many] * 3))
        require_equal(sorted(name for claim in claims for name in claim), sorted(some), "all claimed jobs")


async def claim_that_is_cancelled_takes_nothing(make: LedgerFactory) -> None:
    """What a cancelled caller was about to take stays free, or is its own: it is never lost."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a")])
        claiming = asyncio.create_task(_claim(one))
        await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait([claiming])
        taken = await _claim(two)
        require_equal(taken if claiming.cancelled() else claiming.result(), ["a"], "the job of a cancelled claim")


LEASE_CHECKS: tuple[LedgerCheck, ...] = (
    fences_are_never_used_again,
    claim_takes_what_is_free_and_asked_for,
    claim_takes_what_is_wanted_of_other_states,
    claim_takes_only_what_the_credentials_may_follow,
    claim_may_be_for_thousands_of_credentials,
    claim_tells_who_may_follow_from_who_may_fetch,
    claim_takes_no_more_than_it_is_told,
    lease_keeps_others_away_until_it_ends,
    lease_that_ended_comes_back_by_renewing,
    renewing_moves_the_end,
    given_back_jobs_are_free_at_once,
    lease_of_the_dead_is_given_back_by_others,
    dropped_jobs_are_free_and_others_stay,
    taking_certain_jobs_spares_those_of_others,
    holders_are_known_until_they_leave,
    leases_that_mean_nothing_are_forgotten,
    lease_that_is_gone_takes_nothing,
    job_added_with_a_fence_is_never_free,
    claims_at_once_never_share_a_job,
    claim_that_is_cancelled_takes_nothing,
)
