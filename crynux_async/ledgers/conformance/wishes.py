"""Checks of wishes: what somebody who does not hold a job asks of whoever does."""

import attrs

from crynux_async.ledgers.base import JobChange, Settlement, WishRow
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    LedgerCheck,
    LedgerFactory,
    at,
    desks,
    job,
    require,
    require_equal,
    require_error,
)


def _wish(name: str, kind: str = "abandon", **arguments: object) -> WishRow:
    return WishRow(job_id=name, kind=kind, arguments=arguments, at=at(1.000001))


async def wishes_reach_whoever_holds_the_job(make: LedgerFactory) -> None:
    """They need no lease, come in the order of making, and go with the job from one holder to the next."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b")], fence=one.fence)
        await one.ledger.add([job("free")])
        made = [
            await two.ledger.wish(row) for row in (_wish("b"), _wish("free"), _wish("a", "retry", why=[AWKWARD, None]))
        ]
        require_equal(
            [attrs.evolve(row, number=0) for row in made][2], _wish("a", "retry", why=[AWKWARD, None]), "a wish"
        )
        numbers = [row.number for row in made]
        require(0 < numbers[0] < numbers[1] < numbers[2], f"the numbers of wishes do not grow: {numbers}")
        require_equal(await one.ledger.wishes(one.fence), [made[0], made[2]], "wishes of held jobs")
        require_equal(await two.ledger.wishes(two.fence), [], "wishes of somebody without jobs")
        await two.ledger.take(two.fence, ["free"])
        require_equal(await two.ledger.wishes(two.fence), [made[1]], "wishes of a job that was taken")
        await require_error(two.ledger.wish(_wish("nobody")), "a wish about a job that is not there")


async def granted_wishes_are_gone(make: LedgerFactory) -> None:
    """A wish is removed by the change that carries it out, once and only for its own job."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b")], fence=one.fence)
        first, second = await two.ledger.wish(_wish("a")), await two.ledger.wish(_wish("b"))
        await one.change("a", columns={"label": "granted"}, granted=[first.number, second.number, 99])
        require_equal(await one.ledger.wishes(one.fence), [second], "wishes that are left")
        await one.change("a", granted=[first.number])
        third = await two.ledger.wish(_wish("a"))
        require(third.number > second.number, "the number of a wish was used again")
        require_equal(await one.ledger.wishes(one.fence), [second, third], "wishes at the end")


async def wishes_keep_their_order_when_a_write_is_undone(make: LedgerFactory) -> None:
    """A wish that a refused write would have removed is heard before later ones, as it was."""
    async with desks(make) as (one, two):
        await one.ledger.add([job("a"), job("b")], fence=one.fence)
        made = [await two.ledger.wish(_wish("a")), await two.ledger.wish(_wish("b"))]
        granting = JobChange(job_id="a", granted=(made[0].number,))
        refused = JobChange(job_id="b", settlement=Settlement(budget="nobody's", released=1, spent=0))
        await require_error(one.ledger.change(one.fence, [granting, refused]), "money that no budget holds")
        require_equal(await one.ledger.wishes(one.fence), made, "wishes after a write that was refused")


WISH_CHECKS: tuple[LedgerCheck, ...] = (
    wishes_reach_whoever_holds_the_job,
    granted_wishes_are_gone,
    wishes_keep_their_order_when_a_write_is_undone,
)
