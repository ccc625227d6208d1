"""Checks of how jobs change: what is named and nothing else, whole or not at all."""

from datetime import datetime
from typing import Any

import attrs

from crynux_async.ledgers.base import JobChange, Settlement
from crynux_async.ledgers.conformance.support import (
    LedgerCheck,
    LedgerFactory,
    at,
    attempt,
    desk,
    event,
    job,
    require_equal,
    require_error,
    step,
    task,
)
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig


async def change_is_of_what_it_names_and_nothing_else(make: LedgerFactory) -> None:
    """Different jobs may change in different columns in one step, and one job more than once."""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("a", {"state": JobState.RUNNING, "task_id": "1", "submitted_at": at(5)}),
        (
            "b",
            {"error": "no luck", "error_facts": {"kind": "QuotaError"}, "reason": "out of memory", "ended_at": at(9)},
        ),
        ("c", {"label": "third", "state": JobState.FAILED, "is_stopped": True}),
        ("a", {"state": JobState.STALLED, "tries": 2}),
        ("d", {}),
        ("a", {"host": "machine", "tags": {"sweep": "cats"}}),
    ]
    async with desk(make, *"abcd") as me:
        lost = await me.ledger.change(me.fence, [JobChange(job_id=name, columns=columns) for name, columns in changes])
        require_equal(lost, [], "lost jobs")
        wanted = {name: job(name) for name in "abcd"}
        for name, columns in changes:
            wanted[name] = attrs.evolve(wanted[name], **columns)
        require_equal(await me.ledger.jobs(), [*wanted.values()], "jobs after changes")


async def change_of_nothing_is_nothing(make: LedgerFactory) -> None:
    """No changes are no error."""
    async with desk(make, "a") as me:
        require_equal(await me.ledger.change(me.fence, []), [], "lost jobs")
        require_equal(await me.ledger.jobs(), [job("a")], "jobs")


async def change_is_made_whole_or_not_at_all(make: LedgerFactory) -> None:
    """What cannot be stored takes the rest of its call with it."""
    good = JobChange(job_id="a", columns={"label": "changed", "last_event": 1}, events=[event("a", 1)])
    refused: list[tuple[str, dict[str, Any]]] = [
        ("a column that is not there", {"columns": {"colour": "red"}}),
        ("another name for a job", {"columns": {"job_id": "c"}}),
        ("a job without its config", {"columns": {"config": None}}),
        ("another digest for a job", {"columns": {"digest": "0"}}),
        ("a task of another job", {"columns": {"task_id": "1"}}),
        ("a time without a zone", {"columns": {"ended_at": datetime(2026, 1, 1)}}),  # noqa: DTZ001
        ("a state that is none", {"columns": {"state": "bored"}}),
        ("a task that is no text", {"columns": {"task_id": 7}}),
        ("a job without a state", {"columns": {"state": None}}),
        ("tags that are no text", {"columns": {"tags": {"rank": 4}}}),
        ("a negative count of tries", {"columns": {"tries": -1}}),
        ("an attempt that was not begun", {"finished": attempt("b", 9)}),
        ("a step that was not planned", {"steps": [step("b", "validate")]}),
        ("a task of another job among all", {"tasks": [task("b", "1")]}),
        ("money of a budget that is not there", {"settlement": Settlement(budget="no", released=1, spent=0)}),
        ("more money spent than released", {"settlement": Settlement(budget="no", released=1, spent=2)}),
        ("parts of another job", {"tasks": [task("a", "2")]}),
        ("an event of another job", {"columns": {"last_event": 2}, "events": [event("a", 2)]}),
    ]
    async with desk(make, *"ab") as me:
        await me.ledger.add([job("c", task_id="1")], fence=me.fence, tasks=[task("c", "1")])
        before = await me.ledger.jobs()
        for what, parts in refused:
            changes = [good, JobChange(job_id="b", **parts)]
            await require_error(me.ledger.change(me.fence, changes), what)
            require_equal(await me.ledger.jobs(), before, f"jobs after {what}")
            require_equal(await me.ledger.events("a"), [], f"events after {what}")
        require_equal(await me.ledger.change(me.fence, [good]), [], "lost jobs of a good change")


async def config_changes_only_in_what_does_not_train(make: LedgerFactory) -> None:
    """A new try may have a longer timeout; what is trained stays what was asked."""
    async with desk(make, "a") as me:
        row = await me.ledger.get("a")
        assert row is not None
        assert isinstance(row.config, FineTuneConfig)
        longer = row.config.evolve(timeout=7200)
        await me.change("a", columns={"config": longer, "tries": 2})
        require_equal(await me.ledger.get("a"), job("a", config=longer, tries=2), "a job with a longer timeout")
        other = me.change("a", columns={"config": row.config.evolve(rank=128)})
        await require_error(other, "a config that trains something else")
        await me.ledger.add([job("bare", config=None, digest="")], fence=me.fence)
        await require_error(me.change("bare", columns={"config": longer}), "a config for a job that had none")


CHANGE_CHECKS: tuple[LedgerCheck, ...] = (
    change_is_of_what_it_names_and_nothing_else,
    change_of_nothing_is_nothing,
    change_is_made_whole_or_not_at_all,
    config_changes_only_in_what_does_not_train,
)
