"""Which jobs are meant on a command line."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.cli.job_names import find_jobs, shortest
from crynux_async.errors import UsageError
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.memory.ledger import MemoryLedger
from crynux_async.session import Session
from crynux_async.states import JobState
from tests.fake_backend import FakeBackend, make_config

HERE = FakeBackend.name


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    ledger = MemoryLedger()
    await ledger.open()
    rows = [
        job("jaaaa1111aa", backend=HERE, task_id="17", config=make_config(), state=JobState.FAILED),
        job("jaaaa2222aa", backend=HERE, task_id="18", config=make_config(), state=JobState.DOWNLOADED),
        job("jcccc", backend="https://elsewhere.example", task_id="17", config=make_config(), state=JobState.FAILED),
    ]
    await ledger.add(rows)
    async with Session(ledger=ledger, backend=FakeBackend(), api_key=None) as session:
        yield session


@pytest.mark.parametrize("name", ["jaaaa1111aa", "jaaaa1", "17"])
async def test_ended_job_is_found_by_name_beginning_or_task(session: Session, name: str) -> None:
    (found,) = await find_jobs(session, [name])
    assert (found.job_id, found.state) == ("jaaaa1111aa", JobState.FAILED)


async def test_job_that_is_named_twice_is_one(session: Session) -> None:
    assert len(await find_jobs(session, ["jaaaa1", "17", "18"])) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jaaaa", "2 jobs begin with 'jaaaa': jaaaa1111aa, jaaaa2222aa"),
        ("jaa", "no job is called jaa"),
        ("jcccc", "jcccc is a job of https://elsewhere.example and not of"),
        ("99", "no job is called 99"),
        ("", "no job is called"),
    ],
)
async def test_name_of_no_job_or_of_several_is_refused(session: Session, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        await find_jobs(session, [name])


NAMES = st.sets(st.text("ab", min_size=12, max_size=16), max_size=20)


@given(NAMES)
def test_shortest_beginnings_tell_names_apart_unless_one_begins_with_all_of_another(names: set[str]) -> None:
    found = shortest(names)
    assert set(found) == names
    for name, beginning in found.items():
        assert name.startswith(beginning)
        if beginning != name:
            assert len(beginning) >= 9
            assert [other for other in names if other.startswith(beginning)] == [name]
            assert len(beginning) == 9 or [other for other in names if other.startswith(beginning[:-1])] != [name]
