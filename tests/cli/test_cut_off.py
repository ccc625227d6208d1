"""``jobs`` after a process died while it was sending: nobody may read that nothing was sent, and pay again."""

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from crynux_async import Session, SubmissionUnknownError
from crynux_async.cli.job_facts import Detail
from crynux_async.cli.jobs import show_facts
from crynux_async.clock import utc_now
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, Fence, Holder, JobChange, JobFilter, JobRow
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState
from crynux_async.supervision.cut_off import as_left, find_as_left
from crynux_async.supervision.owners import Place, new_owner
from tests.fake_backend import FakeBackend, make_config

# No process has a number above Linux' largest, 2^22 (proc(5), pid_max).
_DEAD = new_owner().replace(f"/{Place.here().pid}/", "/4194305/")


async def begun(place: Path, owner: str, *, key_id: str = "a key") -> str:
    """Leave a ledger as a process does that is killed during a create, and return the job."""
    row = job("j1", backend="https://bridge.example", config=make_config(), state=JobState.PLANNED, key_id=key_id)
    await (ledger := SqliteLedger(place)).open()
    fence = await ledger.enter(owner, seconds=60.0)
    await ledger.add([row], fence=fence)
    attempt = AttemptRow(
        job_id=row.job_id,
        number=1,
        backend=row.backend,
        key_id=key_id,
        payload="{}",
        began_at=utc_now() - timedelta(seconds=1),
    )
    await ledger.begin(fence, attempt)
    await ledger.close()
    return row.job_id


async def shown(place: Path, capsys: pytest.CaptureFixture[str], states: Iterable[str] = ()) -> list[tuple[str, str]]:
    await show_facts(place, list(states), None, [], as_json=True, as_csv=False, detail=Detail())
    return [(row["state"], row["error"]) for row in json.loads(capsys.readouterr().out)]


async def test_create_of_a_dead_process_is_unconfirmed_for_whoever_lists_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "jobs.db"
    await begun(place, _DEAD)
    ((state, error),) = await shown(place, capsys)
    assert (state, "may exist" in error) == ("unconfirmed", True)
    assert len(await shown(place, capsys, ["unconfirmed"])) == 1
    assert await shown(place, capsys, ["planned"]) == []


async def test_create_of_a_dead_process_is_unconfirmed_through_every_handle(tmp_path: Path) -> None:
    place = tmp_path / "jobs.db"
    name = await begun(place, _DEAD)
    backend = FakeBackend()
    backend.name = "https://bridge.example"
    async with Session(backend=backend, ledger=place, api_key="k" * 44, follow=False) as onlooker:
        found = await onlooker.find(name)
        assert found is not None
        assert found.state is JobState.UNCONFIRMED
        assert await onlooker.history(states=[JobState.UNCONFIRMED]) == [found]
        assert await onlooker.history(states=[JobState.PLANNED]) == []
        with pytest.raises(SubmissionUnknownError):
            await found
    assert backend.creates == 0


class Answered(MemoryLedger):
    """A ledger in which a create is answered, and its process ends, while somebody asks who holds the job."""

    fence: Fence

    async def holder(self, job_id: str) -> Holder | None:
        (attempt,) = await self.attempts(job_ids=[job_id])
        done = attrs.evolve(attempt, outcome=AttemptOutcome.ACCEPTED, task_id="7", answered_at=utc_now())
        columns = {"state": JobState.RUNNING, "task_id": "7", "submitted_at": utc_now()}
        await self.change(self.fence, [JobChange(job_id=job_id, columns=columns, finished=done)])
        await self.leave(self.fence)
        return await super().holder(job_id)


async def test_create_that_is_answered_while_its_job_is_looked_at_is_no_lost_one() -> None:
    await (ledger := Answered()).open()
    row = job("j1", config=make_config(), state=JobState.PLANNED)
    ledger.fence = await ledger.enter(new_owner(), seconds=60.0)
    await ledger.add([row], fence=ledger.fence)
    await ledger.begin(
        ledger.fence,
        AttemptRow(job_id="j1", number=1, backend=row.backend, key_id=row.key_id, began_at=utc_now()),
    )
    (shown,) = await as_left(ledger, [row])
    assert shown.state is JobState.PLANNED


async def test_create_of_a_live_process_is_no_lost_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "jobs.db"
    await begun(place, new_owner())
    assert [state for state, _ in await shown(place, capsys)] == ["planned"]
    assert await shown(place, capsys, ["unconfirmed"]) == []


async def test_create_at_a_relay_stays_planned_because_it_is_the_same_one_when_it_is_sent_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "jobs.db"
    await begun(place, _DEAD, key_id="0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf")
    assert [state for state, _ in await shown(place, capsys)] == ["planned"]


class Counting(SqliteLedger):
    """A ledger that counts the jobs that are read from it."""

    read = 0

    async def jobs(
        self, where: JobFilter | None = None, *, limit: int | None = None, newest_first: bool = False
    ) -> list[JobRow]:
        rows = await super().jobs(where, limit=limit, newest_first=newest_first)
        self.read += len(rows)
        return rows


async def test_page_of_many_planned_jobs_reads_no_more_of_them_than_it_shows(tmp_path: Path) -> None:
    place = tmp_path / "jobs.db"
    cut_off = await begun(place, _DEAD)
    await (ledger := Counting(place)).open()
    names = [f"p{number:03}" for number in range(300)]
    await ledger.add([job(name, backend="https://bridge.example", state=JobState.PLANNED) for name in names])
    await ledger.add([job("u", backend="https://bridge.example", state=JobState.UNCONFIRMED)])

    async def page(state: JobState, *, newest_first: bool = False) -> list[str]:
        where = JobFilter(states={state}, backend="https://bridge.example")
        return [row.job_id for row in await find_as_left(ledger, where, limit=5, newest_first=newest_first)]

    assert await page(JobState.PLANNED) == names[:5]
    assert await page(JobState.PLANNED, newest_first=True) == names[:-6:-1]
    assert await page(JobState.UNCONFIRMED) == [cut_off, "u"]
    assert await page(JobState.UNCONFIRMED, newest_first=True) == ["u", cut_off]
    assert ledger.read < 20
    await ledger.close()
