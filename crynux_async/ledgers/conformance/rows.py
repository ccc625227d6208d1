"""Checks of what a ledger remembers of jobs, and of writes by many at once."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.ledgers.conformance.support import (
    AWKWARD,
    BACKEND,
    OTHER_BACKEND,
    Desk,
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    desk,
    event,
    job,
    names,
    opened,
    require,
    require_equal,
    require_error,
    step,
    task,
)
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig


async def new_ledger_is_empty(make: LedgerFactory) -> None:
    """A new ledger remembers nothing and is well."""
    async with opened(make) as ledger:
        require_equal(await ledger.jobs(), [], "the jobs of a new ledger")
        require_equal(await ledger.count(), {}, "the counted jobs of a new ledger")
        require_equal(await ledger.attempts(), [], "the attempts of a new ledger")
        require_equal(await ledger.get("nobody"), None, "a job that was never added")
        require_equal(await ledger.events("nobody"), [], "the events of a job that was never added")
        require_equal(await ledger.holders(), [], "who has a lease of a new ledger")
        require_equal(await ledger.budget("nobody's"), None, "a budget that was never used")
        require_equal(await ledger.load_hazards(BACKEND), {}, "what a new ledger has learned")
        require_equal(ledger.failure, None, "the failure of a new ledger")


async def job_comes_back_equal_in_every_attribute(make: LedgerFactory) -> None:
    """Every attribute of a job survives, to the microsecond and to the last bit of the config."""
    config = FineTuneConfig(
        model_name="base/model",
        dataset_url="https://data.example/a.zip",
        target_modules=("to_k", AWKWARD),
        learning_rate=1 / 3,
        validation_prompt=AWKWARD,
        init_lora_weights=False,
        max_train_steps=2**52,
        snr_gamma=5,
    )
    full = job(
        "full",
        config=config,
        is_seed_drawn=True,
        asked_digest="0a" * 32,
        label=AWKWARD,
        group=AWKWARD,
        tags={AWKWARD: AWKWARD, "": ""},
        tenant=AWKWARD,
        idempotency_key=AWKWARD,
        budget=AWKWARD,
        is_stopped=True,
        is_sent_by_any=True,
        task_id="0x" + "9f" * 32,
        state=JobState.DOWNLOADED,
        tries=3,
        submitted_at=at(1.000001),
        ended_at=at(2.999999),
        error=AWKWARD,
        error_facts={"kind": "RejectedError", "field": AWKWARD, "status": 400, "is_counted": True, "answer": None},
        reason=AWKWARD,
        folder="/models",
        file_name="{label}.zip",
        path="/models/a.zip",
        host="machine",
        total_bytes=2**40,
        resubmitted_as="another",
    )
    bare = job("bare", config=None, digest="", key_id="")
    async with opened(make) as ledger:
        require_equal(await ledger.add([full, bare]), [full, bare], "what was stored")
        stored = await ledger.get("full")
        require_equal(stored, full, "a job with every attribute")
        # It is no part of what makes two configs equal, and decides whether the same is asked again.
        is_drawn = stored is not None and stored.config is not None and stored.config.seed_was_drawn
        require_equal(is_drawn, True, "whether nobody gave the seed")
        require_equal(await ledger.get("bare"), bare, "a job with as little as possible")
        require_equal(await ledger.jobs(), [full, bare], "all jobs")


async def times_come_back_in_utc(make: LedgerFactory) -> None:
    """A time in another zone is the same moment, in UTC."""
    east = datetime(2026, 7, 1, 3, 0, tzinfo=timezone(timedelta(hours=9)))
    async with desk(make, "a") as me:
        await me.change("a", columns={"submitted_at": east})
        row = await me.ledger.get("a")
        require(row is not None and row.submitted_at == east, "a time in another zone became another moment")
        require(row is not None and row.planned_at.tzinfo is UTC, "a time did not come back in UTC")


async def jobs_come_in_the_order_of_adding(make: LedgerFactory) -> None:
    """The order is that of adding, whatever names and times say."""
    rows = [job(name, planned_at=at(-index)) for index, name in enumerate("dbacef")]
    async with desk(make) as me:
        await me.ledger.add(rows[:2], fence=me.fence)
        await me.ledger.add(rows[2:])
        await me.change("b", columns={"state": JobState.RUNNING})
        require_equal(names(await me.ledger.jobs()), list("dbacef"), "the order of jobs")


async def job_id_is_unique(make: LedgerFactory) -> None:
    """A name that is there already is refused, with everything that came with it."""
    async with opened(make) as ledger:
        first = job("a", label="first")
        await ledger.add([first])
        rows = [job("b", last_event=1), job("a")]
        refused = ledger.add(rows, events=[event("b", 1)], tasks=[task("b", "7")])
        await require_error(refused, "a name was added twice")
        await require_error(ledger.add([job("c"), job("c")]), "a name was added twice at once")
        require_equal(await ledger.jobs(), [first], "the jobs after two refused additions")
        await ledger.add([job("b", last_event=1)], events=[event("b", 1)], tasks=[task("b", "7")])


async def task_is_one_jobs_for_a_backend(make: LedgerFactory) -> None:
    """Two jobs of one backend never share a task, be it the newest or an earlier one; jobs without one are no twins."""
    async with desk(make, "b", "c") as me:
        await me.ledger.add([job("a", task_id="7")], fence=me.fence, tasks=[task("a", "7")])
        await me.ledger.add([job("d", task_id="7", backend=OTHER_BACKEND)], fence=me.fence)
        await require_error(me.ledger.add([job("e", task_id="7")]), "a task was added twice")
        await require_error(me.ledger.add([job("e")], tasks=[task("e", "7")]), "an earlier task was added twice")
        await require_error(me.change("b", columns={"task_id": "7"}), "a task was given to a second job")
        await require_error(me.change("b", tasks=[task("b", "7")]), "a task was told of a second job")
        await me.change("a", columns={"task_id": None, "tries": 2})
        await require_error(me.change("b", tasks=[task("b", "7")]), "an earlier task was given to a second job")
        await me.change("a", tasks=[task("a", "8")])
        await me.change("b", columns={"task_id": "7"}, tasks=[task("b", "7")])
        found = [(row.job_id, row.task_id) for row in await me.ledger.jobs()]
        require_equal(found, [("b", "7"), ("c", None), ("a", None), ("d", "7")], "tasks")


async def new_rows_that_do_not_fit_are_refused(make: LedgerFactory) -> None:
    """Events are numbered from 1 to the job's last one; events and tasks belong to jobs of the same call."""
    async with opened(make) as ledger:
        await ledger.add([job("old")])
        for what, events, last in (
            ("a job with too few events", [1], 2),
            ("a job with too many events", [1, 2], 1),
            ("a job with a gap between its events", [1, 3], 3),
            ("a job whose events begin late", [2], 2),
        ):
            rows = [event("a", number) for number in events]
            await require_error(ledger.add([job("a", last_event=last)], events=rows), what)
        await require_error(ledger.add([job("a")], events=[event("old", 1)]), "an event of another job")
        await require_error(ledger.add([job("a")], tasks=[task("old", "7")]), "a task of another job")
        require_equal(names(await ledger.jobs()), ["old"], "jobs after refused additions")


async def many_writes_at_once_fail_alone(make: LedgerFactory) -> None:
    """Writes that run at once do not share their fate."""
    async with opened(make) as ledger:
        await ledger.add([job("taken")])
        some = [f"job {index}" for index in range(30)]
        writes = [
            ledger.add([job(name), job("taken" if index % 3 == 0 else f"{name}b")]) for index, name in enumerate(some)
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
        stored = {row.job_id for row in await ledger.jobs()}
        for index, (name, result) in enumerate(zip(some, results, strict=True)):
            require_equal(not isinstance(result, Exception), index % 3 != 0, f"whether {name} gave no error")
            require_equal(name in stored, index % 3 != 0, f"whether {name} is there")


async def many_writes_at_once_all_arrive(make: LedgerFactory) -> None:
    """Jobs added, begun, finished and changed by many callers at once end as each caller left them."""

    async def live(me: Desk, index: int) -> None:
        name = f"job {index}"
        await me.ledger.add([job(name, last_event=1)], fence=me.fence, events=[event(name, 1)])
        await me.ledger.begin(me.fence, attempt(name))
        await me.accept(attempt(name), str(index))
        columns = {"label": name, "total_bytes": index, "last_event": 2}
        await me.change(name, columns=columns, events=[event(name, 2)], tasks=[task(name, str(index))])

    async with desk(make) as me:
        await asyncio.gather(*(live(me, index) for index in range(40)))
        found = {(row.job_id, row.label, row.task_id, row.total_bytes) for row in await me.ledger.jobs()}
        require_equal(found, {(f"job {i}", f"job {i}", str(i), i) for i in range(40)}, "jobs")
        outcomes = {row.outcome for row in await me.ledger.attempts()}
        require_equal(outcomes, {AttemptOutcome.ACCEPTED}, "outcomes")
        events = await me.ledger.events("job 7")
        require_equal(events, [event("job 7", 1), event("job 7", 2)], "the events of one of many jobs")


async def cancelled_write_is_not_undone(make: LedgerFactory) -> None:
    """A write that was begun is done, all of it, whatever becomes of its caller."""
    async with opened(make) as ledger:
        adding = asyncio.create_task(ledger.add([job("a"), job("b")]))
        await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait([adding])
        await ledger.add([job("c")])
        require_equal(names(await ledger.jobs()), ["a", "b", "c"], "jobs after a cancelled addition")


async def reopened_ledger_remembers_everything(make: LedgerFactory) -> None:
    """Closing loses nothing, and closing twice is harmless."""
    async with desk(make) as me:
        ledger = me.ledger
        await ledger.add([job("a", last_event=1)], fence=me.fence, events=[event("a", 1)], tasks=[task("a", "7")])
        await ledger.begin(me.fence, attempt("a"))
        await ledger.plan_step(me.fence, step("a", "validate"))
        await ledger.save_hazards(BACKEND, {"kind": [1]})
        await ledger.put_note("sweep", "cats", {"points": 3})
        await ledger.close()
        await ledger.close()
        await ledger.open()
        require_equal(await ledger.jobs(), [job("a", last_event=1)], "jobs after reopening")
        require_equal(await ledger.attempts(), [attempt("a")], "attempts after reopening")
        require_equal(await ledger.events("a"), [event("a", 1)], "events after reopening")
        require_equal(await ledger.tasks(["a"]), [task("a", "7")], "tasks after reopening")
        require_equal(await ledger.steps(["a"]), [step("a", "validate")], "steps after reopening")
        require_equal(await ledger.load_hazards(BACKEND), {"kind": [1]}, "what was learned, after reopening")
        require_equal(await ledger.note("sweep", "cats"), {"points": 3}, "a note after reopening")
        require_equal(await ledger.held(me.fence), {"a"}, "what a lease holds after reopening")


async def text_from_outside_never_keeps_a_task_from_being_stored(make: LedgerFactory) -> None:
    """An answer that no database can store as it is comes back readable, and what came with it is stored."""
    async with desk(make, "a") as me:
        await me.ledger.begin(me.fence, attempt("a"))
        odd = attempt("a", outcome=AttemptOutcome.UNKNOWN, answered_at=at(1), answer="half \ud800 a\0 page")
        lost = await me.change("a", columns={"task_id": "7", "error": "no \udfff luck"}, finished=odd)
        require_equal(lost, [], "lost jobs")
        row = await me.ledger.get("a")
        require(row is not None and row.task_id == "7", "a task was not stored because of the text beside it")
        require(row is not None and "luck" in row.error, "an error with half a character is gone")
        (known,) = await me.ledger.attempts()
        require("page" in known.answer, "an answer with half a character is gone")


ROW_CHECKS: tuple[LedgerCheck, ...] = (
    new_ledger_is_empty,
    job_comes_back_equal_in_every_attribute,
    times_come_back_in_utc,
    jobs_come_in_the_order_of_adding,
    job_id_is_unique,
    task_is_one_jobs_for_a_backend,
    new_rows_that_do_not_fit_are_refused,
    many_writes_at_once_fail_alone,
    many_writes_at_once_all_arrive,
    cancelled_write_is_not_undone,
    reopened_ledger_remembers_everything,
    text_from_outside_never_keeps_a_task_from_being_stored,
)
