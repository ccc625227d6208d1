"""Checks of what a backend may be able to do besides; each passes where it cannot."""

from crynux_async.backends.base import Cancels, FindsLostCreates, HasImages, HasPrices, LostCreate, Seen, Verdict
from crynux_async.backends.conformance.stage import CONFIG, BackendCheck, Stage, created, error_of, followed, order
from crynux_async.clock import utc_now
from crynux_async.errors import BackendError, SubmissionUnknownError

_PNG = b"\x89PNG\r\n\x1a\n"


async def cancelled_task_is_seen_and_cannot_be_cancelled_twice(stage: Stage) -> None:
    """A cancelled task ends, and what it means for the money is said."""
    backend = stage.backend
    if not isinstance(backend, Cancels):
        return
    task = await created(stage)
    said = await backend.cancel(task)
    assert said, "nothing was said about the money"
    look = await backend.look(task)
    assert look.seen is Seen.CANCELLED, f"a cancelled task is seen as {look.seen}"
    await error_of(BackendError, backend.cancel(task))


async def images_of_a_task_that_succeeded_are_png_files(stage: Stage) -> None:
    """Images are shown on pages, so they must be what they are said to be."""
    backend = stage.backend
    if not isinstance(backend, HasImages):
        return
    task, _ = await followed(stage, await created(stage))
    images = await backend.images(task)
    assert images, "a task that succeeded has no images"
    assert all(image.startswith(_PNG) for image in images), "an image is no PNG file"


async def price_is_whole_wei(stage: Stage) -> None:
    """Money is counted, never rounded."""
    backend = stage.backend
    if not isinstance(backend, HasPrices):
        return
    price = backend.price(CONFIG)
    assert type(price) in (int, type(None)), f"a price is whole wei, not {price!r}"
    assert price is None or price >= 0, f"a price is not below 0, as {price} is"
    balance = await backend.balance()
    assert type(balance) in (int, type(None)), f"a balance is whole wei, not {balance!r}"


async def spent_is_not_more_than_the_price(stage: Stage) -> None:
    """A budget that was reserved must suffice."""
    backend = stage.backend
    if not isinstance(backend, HasPrices):
        return
    task, look = await followed(stage, await created(stage))
    price, spent = backend.price(CONFIG), await backend.spent(task, look)
    assert price is None or spent is None or 0 <= spent <= price, f"{spent} wei were spent of a price of {price}"


async def lost_create_is_found_between_two_others(stage: Stage) -> None:
    """The task of a create whose answer was lost is found, and no other is taken for it."""
    backend = stage.backend
    if not isinstance(backend, FindsLostCreates):
        return
    before, _ = await followed(stage, await created(stage, order(job_id="j1" * 17)))
    lost_order = order(job_id="j2" * 17)
    payload, began_at = backend.intend(lost_order), utc_now()
    await stage.lose_next_answer()
    await error_of(SubmissionUnknownError, backend.create(payload))
    after, _ = await followed(stage, await created(stage, order(job_id="j3" * 17)))
    lost = LostCreate(
        job_id=lost_order.job_id,
        payload=payload,
        began_at=began_at,
        before=[before.task_id],
        after=[after.task_id],
        is_closed=True,
    )
    known = frozenset({before.task_id, after.task_id})
    (finding,) = await backend.find_lost([lost], known=known, at_most=50)
    assert finding.explanation, "nothing was said about what was found"
    # A task that still runs may not be told from others yet: then it is open, and never another one or "not created".
    assert finding.verdict in (Verdict.FOUND, Verdict.OPEN), f"the lost create is {finding.verdict}"
    assert finding.task_id not in known, "another job's task was taken for the lost one"


ABILITY_CHECKS: tuple[BackendCheck, ...] = (
    cancelled_task_is_seen_and_cannot_be_cancelled_twice,
    images_of_a_task_that_succeeded_are_png_files,
    price_is_whole_wei,
    spent_is_not_more_than_the_price,
    lost_create_is_found_between_two_others,
)
