"""Checks of what a ledger remembers: jobs, what was learned, and writes by many at once."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs

from crynux_async.ledgers.base import AttemptOutcome, Ledger
from crynux_async.ledgers.conformance.support import (
    BACKEND,
    LedgerCheck,
    LedgerFactory,
    accept,
    at,
    attempt,
    job,
    opened,
    require,
    require_equal,
    require_error,
)
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

_OTHER = "https://other.example"
_AWKWARD = "ünï\n\"quotes\" 'single' % {} 😀 \u2028 ;--"


async def new_ledger_is_empty(make: LedgerFactory) -> None:
    """A new ledger remembers nothing and is well."""
    async with opened(make) as ledger:
        require_equal(await ledger.jobs(), [], "the jobs of a new ledger")
        require_equal(await ledger.attempts(), [], "the attempts of a new ledger")
        require_equal(await ledger.get("nobody"), None, "a job that was never added")
        require_equal(await ledger.load_hazards(BACKEND), {}, "what a new ledger has learned")
        require_equal(ledger.failure, None, "the failure of a new ledger")


async def job_comes_back_equal_in_every_attribute(make: LedgerFactory) -> None:
    """Every attribute of a job survives, to the microsecond and to the last bit of the config."""
    config = FineTuneConfig(
        model_name="base/model",
        dataset_url="https://data.example/a.zip",
        target_modules=("to_k", _AWKWARD),
        learning_rate=1 / 3,
        validation_prompt=_AWKWARD,
        init_lora_weights=False,
        max_train_steps=2**52,
        snr_gamma=5,
    )
    full = job(
        "full",
        config=config,
        digest=config.digest(),
        label=_AWKWARD,
        task_id=2**53 + 1,
        state=JobState.DOWNLOADED,
        submitted_at=at(1.000001),
        ended_at=at(2.999999),
        error=_AWKWARD,
        folder="/models",
        file_name="{label}.zip",
        path="/models/a.zip",
        total_bytes=2**40,
        resubmitted_as="another",
    )
    bare = job("bare", config=None, digest="", key_id="")
    async with opened(make) as ledger:
        await ledger.add([full, bare])
        require_equal(await ledger.get("full"), full, "a job with every attribute")
        require_equal(await ledger.get("bare"), bare, "a job with as little as possible")
        require_equal(await ledger.jobs(), [full, bare], "all jobs")


async def times_come_back_in_utc(make: LedgerFactory) -> None:
    """A time in another zone is the same moment, in UTC."""
    east = datetime(2026, 7, 1, 3, 0, tzinfo=timezone(timedelta(hours=9)))
    async with opened(make) as ledger:
        await ledger.add([job("a")])
        await ledger.update({"a": {"submitted_at": east}})
        row = await ledger.get("a")
        require(row is not None and row.submitted_at == east, "a time in another zone became another moment")
        require(row is not None and row.planned_at.tzinfo is UTC, "a time did not come back in UTC")


async def jobs_come_in_the_order_of_adding(make: LedgerFactory) -> None:
    """The order is that of adding, whatever names and times say."""
    rows = [job(name, planned_at=at(-index)) for index, name in enumerate("dbacef")]
    async with opened(make) as ledger:
        await ledger.add(rows[:2])
        await ledger.add(rows[2:])
        await ledger.update({"b": {"state": JobState.RUNNING}})
        found = [row.job_id for row in await ledger.jobs()]
        require_equal(found, list("dbacef"), "the order of jobs")


async def jobs_are_selected_by_every_condition(make: LedgerFactory) -> None:
    """States, backend, label and limit narrow the list, each alone and together."""
    rows = [
        job("a", label="one"),
        job("b", label="one", state=JobState.RUNNING),
        job("c", backend=_OTHER, state=JobState.RUNNING),
        job("d", state=JobState.FAILED),
    ]
    followed = {JobState.RUNNING, JobState.PLANNED}
    async with opened(make) as ledger:
        await ledger.add(rows)
        selections: list[tuple[dict[str, Any], str]] = [
            ({"states": followed}, "abc"),
            ({"states": []}, ""),
            ({"backend": _OTHER}, "c"),
            ({"label": "one"}, "ab"),
            ({"label": ""}, "cd"),
            ({"limit": 2}, "ab"),
            ({"limit": 0}, ""),
            ({"states": [JobState.RUNNING], "backend": BACKEND, "label": "one", "limit": 9}, "b"),
        ]
        for selection, wanted in selections:
            found = [row.job_id for row in await ledger.jobs(**selection)]
            require_equal(found, list(wanted), f"jobs({selection})")


async def job_id_is_unique(make: LedgerFactory) -> None:
    """A name that is there already is refused, with everything that came with it."""
    async with opened(make) as ledger:
        await ledger.add([job("a", label="first")])
        await require_error(ledger.add([job("b"), job("a")]), "a name was added twice")
        await require_error(ledger.add([job("c"), job("c")]), "a name was added twice at once")
        require_equal(await ledger.jobs(), [job("a", label="first")], "the jobs after two refused additions")


async def task_id_is_unique_for_a_backend(make: LedgerFactory) -> None:
    """Two jobs of one backend never have one task; jobs without a task are no twins."""
    async with opened(make) as ledger:
        await ledger.add([job("a", task_id=7), job("b"), job("c"), job("d", task_id=7, backend=_OTHER)])
        await require_error(ledger.add([job("e", task_id=7)]), "a task was added twice")
        await require_error(ledger.update({"b": {"task_id": 7}}), "a task was given to a second job")
        await ledger.update({"a": {"task_id": None}})
        await ledger.update({"b": {"task_id": 7}})
        found = [(row.job_id, row.task_id) for row in await ledger.jobs()]
        require_equal(found, [("a", None), ("b", 7), ("c", None), ("d", 7)], "tasks")


async def update_changes_what_it_names_and_nothing_else(make: LedgerFactory) -> None:
    """Different jobs may change in different columns in one step."""
    rows = [job(name) for name in "abcd"]
    changes: dict[str, dict[str, Any]] = {
        "a": {"state": JobState.RUNNING, "task_id": 1, "submitted_at": at(5)},
        "b": {"error": "no luck", "ended_at": at(9)},
        "c": {"label": "third", "state": JobState.FAILED},
        "d": {},
    }
    async with opened(make) as ledger:
        await ledger.add(rows)
        await ledger.update(changes)
        wanted = [attrs.evolve(row, **changes[row.job_id]) for row in rows]
        require_equal(await ledger.jobs(), wanted, "jobs after an update")


async def update_is_done_whole_or_not_at_all(make: LedgerFactory) -> None:
    """What cannot be stored takes the rest of its update with it."""
    async with opened(make) as ledger:
        await ledger.add([job("a"), job("b", task_id=1)])
        good = {"label": "changed"}
        refused: list[tuple[str, dict[str, dict[str, Any]]]] = [
            ("a job that is not there", {"a": good, "nobody": good}),
            ("a job that is not there, without any change", {"a": good, "nobody": {}}),
            ("a column that is not there", {"a": good, "b": {"colour": "red"}}),
            ("another name for a job", {"a": good, "b": {"job_id": "c"}}),
            ("another config for a job", {"a": good, "b": {"config": None}}),
            ("another digest for a job", {"a": good, "b": {"digest": "0"}}),
            ("a task of another job", {"a": {"task_id": 1, **good}}),
            ("a time without a zone", {"a": good, "b": {"ended_at": datetime(2026, 1, 1)}}),  # noqa: DTZ001
            ("a state that is none", {"a": good, "b": {"state": "bored"}}),
            ("a task that is no number", {"a": good, "b": {"task_id": "7"}}),
            ("a job without a state", {"a": good, "b": {"state": None}}),
        ]
        for what, changes in refused:
            await require_error(ledger.update(changes), what)
            require_equal(await ledger.jobs(), [job("a"), job("b", task_id=1)], f"jobs after {what}")


async def hazards_are_replaced_kind_by_kind(make: LedgerFactory) -> None:
    """What is saved for a kind replaces what was there; other kinds and backends stay."""
    async with opened(make) as ledger:
        await ledger.save_hazards(BACKEND, {"one": {"bins": [1, 2.5, None]}, "two": [1]})
        await ledger.save_hazards(_OTHER, {"one": "elsewhere"})
        await ledger.save_hazards(BACKEND, {"two": {"deep": [{"é": True}]}, "three": 0.1})
        await ledger.save_hazards(BACKEND, {})
        wanted = {"one": {"bins": [1, 2.5, None]}, "two": {"deep": [{"é": True}]}, "three": 0.1}
        require_equal(await ledger.load_hazards(BACKEND), wanted, "what was learned")
        require_equal(await ledger.load_hazards(_OTHER), {"one": "elsewhere"}, "what was learned elsewhere")


async def many_writes_at_once_fail_alone(make: LedgerFactory) -> None:
    """Writes that run at once do not share their fate."""
    async with opened(make) as ledger:
        await ledger.add([job("taken")])
        names = [f"job {index}" for index in range(30)]
        writes = [
            ledger.add([job(name), job("taken" if index % 3 == 0 else f"{name}b")]) for index, name in enumerate(names)
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
        stored = {row.job_id for row in await ledger.jobs()}
        for index, (name, result) in enumerate(zip(names, results, strict=True)):
            require_equal(result is None, index % 3 != 0, f"whether {name} was stored without an error")
            require_equal(name in stored, index % 3 != 0, f"whether {name} is there")


async def many_writes_at_once_all_arrive(make: LedgerFactory) -> None:
    """Jobs added, begun, finished and changed by many callers at once end as each caller left them."""

    async def live(ledger: Ledger, index: int) -> None:
        name = f"job {index}"
        await ledger.add([job(name)])
        await ledger.begin(attempt(name))
        await accept(ledger, attempt(name), index + 1)
        await ledger.update({name: {"label": name, "total_bytes": index}})

    async with opened(make) as ledger:
        await asyncio.gather(*(live(ledger, index) for index in range(40)))
        found = {(row.job_id, row.label, row.task_id, row.total_bytes) for row in await ledger.jobs()}
        require_equal(found, {(f"job {i}", f"job {i}", i + 1, i) for i in range(40)}, "jobs")
        outcomes = {row.outcome for row in await ledger.attempts()}
        require_equal(outcomes, {AttemptOutcome.ACCEPTED}, "outcomes")


async def cancelled_write_is_not_undone(make: LedgerFactory) -> None:
    """A write that was begun is done, all of it, whatever becomes of its caller."""
    async with opened(make) as ledger:
        adding = asyncio.create_task(ledger.add([job("a"), job("b")]))
        await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait([adding])
        await ledger.add([job("c")])
        found = [row.job_id for row in await ledger.jobs()]
        require_equal(found, ["a", "b", "c"], "jobs after a cancelled addition")


async def reopened_ledger_remembers_everything(make: LedgerFactory) -> None:
    """Closing loses nothing, and closing twice is harmless."""
    async with opened(make) as ledger:
        await ledger.add([job("a")])
        await ledger.begin(attempt("a"))
        await ledger.save_hazards(BACKEND, {"kind": [1]})
        await ledger.close()
        await ledger.close()
        await ledger.open()
        require_equal(await ledger.jobs(), [job("a")], "jobs after reopening")
        require_equal(await ledger.attempts(), [attempt("a")], "attempts after reopening")
        require_equal(await ledger.load_hazards(BACKEND), {"kind": [1]}, "what was learned, after reopening")


ROW_CHECKS: tuple[LedgerCheck, ...] = (
    new_ledger_is_empty,
    job_comes_back_equal_in_every_attribute,
    times_come_back_in_utc,
    jobs_come_in_the_order_of_adding,
    jobs_are_selected_by_every_condition,
    job_id_is_unique,
    task_id_is_unique_for_a_backend,
    update_changes_what_it_names_and_nothing_else,
    update_is_done_whole_or_not_at_all,
    hazards_are_replaced_kind_by_kind,
    many_writes_at_once_fail_alone,
    many_writes_at_once_all_arrive,
    cancelled_write_is_not_undone,
    reopened_ledger_remembers_everything,
)
