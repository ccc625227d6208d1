"""No question that is asked all the time goes through a large table as a whole, however old a ledger is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crynux_async.ledgers.base import Fence, JobFilter
from crynux_async.ledgers.conformance.support import BACKEND, KEY_ID, at
from crynux_async.ledgers.sql import queries, statements
from crynux_async.ledgers.sql.text import Sql
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.ledgers.sqlite.rendering import render
from crynux_async.states import JobState
from tests.ledger_files import opened

pytestmark = pytest.mark.real_time

FENCE = Fence(owner="me", number=1)
NOW = Sql(":now", {"now": 0})
# Tables that stay small, and what was looked up just before; and indexes that leave most rows out.
SMALL = {"leases", "wishes", "chosen"}
PARTS = ("events_many", "attempts_open", "CONSTANT ROWS")  # the last stand in the statement


async def plan(ledger: SqliteLedger, statement: Sql) -> list[str]:
    """Return how SQLite would go about a statement (sqlite.org/eqp.html)."""
    assert ledger._database is not None
    reads: Any = ledger._database.reads
    rendered = render(statement.text)
    found = await reads._do(
        lambda: reads._raw.execute(f"EXPLAIN QUERY PLAN {rendered.sql}", [None] * len(rendered.names)).fetchall()
    )
    return [row[3] for row in found]


def free(*, is_wanted: bool, key_ids: Sequence[str] | None = None) -> list[Sql]:
    states = [JobState.PLANNED.value, JobState.RUNNING.value]
    asked = queries.select_free(
        FENCE, NOW, backend=BACKEND, states=states, is_wanted=is_wanted, key_ids=key_ids, at_most=5
    )
    return [*asked]


def jobs(limit: int | None = None, newest_first: bool = False, **where: Any) -> Sql:
    return queries.select_jobs(JobFilter(**where), limit=limit, newest_first=newest_first)


def attempts(**asked: Any) -> Sql:
    names = ("backend", "key_id", "job_ids", "since", "unfinished")
    return queries.select_attempts({**dict.fromkeys(names), **asked})


ASKED_ALL_THE_TIME: dict[str, Sql] = {
    "claim what nobody holds": free(is_wanted=False)[0],
    "claim what has ended": free(is_wanted=False)[1],
    "claim wanted archives that nobody holds": free(is_wanted=True)[0],
    "claim wanted archives of leases that ended": free(is_wanted=True)[1],
    "claim what nobody holds of a credential": free(is_wanted=False, key_ids=["", "key"])[0],
    "claim what has ended of a credential": free(is_wanted=False, key_ids=["", "key"])[1],
    "claim wanted archives of a credential that nobody holds": free(is_wanted=True, key_ids=["", "key"])[0],
    "claim wanted archives of a credential, of leases that ended": free(is_wanted=True, key_ids=["", "key"])[1],
    "tasks that jobs have": queries.select_newest_tasks(BACKEND, ["1", "2"]),
    "tasks that jobs have or had": queries.select_all_tasks(BACKEND, ["1", "2"]),
    "read what was claimed": queries.SELECT_SPAN,
    "give what was claimed": statements.TAKE_JOBS,
    "take certain jobs": queries.select_takable(["a", "b"], NOW),
    "drop a job": statements.DROP_JOB,
    "leave": statements.FREE_JOBS,
    "end a lease": statements.REMOVE_LEASE,
    "count what a lease holds": queries.COUNT_HELD,
    "names of what a lease holds": queries.SELECT_HELD,
    "everybody who has a lease": queries.SELECT_HOLDERS,
    "who holds a job": queries.select_holder("a", NOW),
    "leases to forget": queries.select_forgotten(NOW, NOW),
    "wishes of a lease": queries.SELECT_WISHES,
    "whose a job is": queries.SELECT_HOLD,
    "change a job": statements.change_job(("state",), is_numbered=True),
    "change a config": statements.CHANGE_CONFIG,
    "begin an attempt": statements.BEGIN_ATTEMPT,
    "finish an attempt": statements.FINISH_ATTEMPT,
    "plan a step": statements.PLAN_STEP,
    "finish a step": statements.FINISH_STEP,
    "a job": queries.SELECT_JOB,
    "a job by its key": queries.SELECT_BY_KEY,
    "jobs by a key": jobs(idempotency_key="k"),
    "jobs by a task": jobs(task_id="7"),
    "jobs by a task of a backend": jobs(task_id="7", backend=BACKEND),
    "jobs by name": jobs(job_ids=["a", "b"]),
    "jobs by the beginning of a name": jobs(job_id_prefix="a"),
    "jobs by label": jobs(label="grid/1"),
    "jobs by the beginning of a label": jobs(label_prefix="grid/"),
    "jobs of a group": jobs(group="grid"),
    "jobs of a tenant": jobs(tenant="somebody"),
    "jobs of a budget": jobs(budget="spring"),
    "jobs with tags": jobs(tags={"sweep": "cats", "rank": "4"}),
    "jobs with many tags": jobs(tags=dict(zip("abcdef", "abcdef", strict=True))),
    "jobs since a time": jobs(since=at(0)),
    "jobs in a state": jobs(states=[JobState.RUNNING]),
    "jobs behind a cursor": jobs(after="a", limit=50),
    "jobs before a cursor": jobs(before="a", limit=50, newest_first=True),
    "count in a state": queries.count_jobs(JobFilter(states=[JobState.RUNNING], backend=BACKEND)),
    "what a group has spent": queries.sum_money(JobFilter(group="grid")),
    "attempts of jobs": attempts(job_ids=["a"]),
    "attempts of a key since a time": attempts(backend=BACKEND, key_id=KEY_ID, since=at(0)),
    "attempts without an outcome": attempts(unfinished=True),
    "attempts of a service without an outcome": attempts(backend=BACKEND, unfinished=True),
    "where an attempt is": queries.SELECT_PLACE,
    "what was answered before": queries.SELECT_BEFORE,
    "what was begun after": queries.SELECT_AFTER,
    "what is under way beside": queries.select_under_way(7, 9, BACKEND),
    "tasks of jobs": queries.select_tasks(["a"]),
    "steps of jobs": queries.select_steps(["a"]),
    "a step": queries.SELECT_STEP,
    "events behind a number": queries.SELECT_EVENTS,
    "trim old events": statements.trim_old_events(0, 100),
    "trim many events": statements.trim_many_events(1000, 100),
}


@pytest.mark.parametrize("statement", ASKED_ALL_THE_TIME.values(), ids=ASKED_ALL_THE_TIME)
async def test_question_that_is_asked_all_the_time_looks_up_what_it_wants(statement: Sql, tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        lines = await plan(ledger, statement)
    walked = [line.split()[1] for line in lines if line.startswith("SCAN") and not line.endswith(PARTS)]
    assert set(walked) <= SMALL, lines


async def test_newest_jobs_are_read_from_the_end_without_sorting(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        lines = await plan(ledger, jobs(limit=50, newest_first=True))
    assert lines[0] == "SCAN jobs"  # from its end, and no further than the limit
    assert not [line for line in lines if "TEMP B-TREE" in line]
