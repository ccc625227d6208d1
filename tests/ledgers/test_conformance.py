"""Every ledger passes the checks, and the checks find what is wrong."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from benchmarks.postgres_server import PostgresServer
from crynux_async.ledgers.base import Fence, JobChange
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.testing import LEDGER_CHECKS, LedgerCheck
from tests.ledger_places import MemoryPlace, PostgresPlace, SqlitePlace

CHECKS = pytest.mark.parametrize(
    "check", [check for _, check in LEDGER_CHECKS], ids=[name for name, _ in LEDGER_CHECKS]
)


@CHECKS
async def test_memory_ledger_conforms(check: LedgerCheck) -> None:
    await check(MemoryPlace)


@pytest.mark.real_time
@CHECKS
async def test_sqlite_ledger_conforms(check: LedgerCheck, tmp_path: Path) -> None:
    await check(lambda: SqlitePlace(tmp_path))


@pytest.mark.real_time
@CHECKS
async def test_postgres_ledger_conforms(check: LedgerCheck, postgres: PostgresServer) -> None:
    await check(lambda: PostgresPlace(postgres))


async def test_conformance_check_on_a_forgetful_ledger_says_what_is_wrong() -> None:
    class Forgetful(MemoryLedger):
        async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
            return await super().change(fence, [attrs.evolve(change, events=(), columns={}) for change in changes])

    class ForgetfulPlace(MemoryPlace):
        kind = Forgetful

    with pytest.raises(AssertionError, match="became another moment"):
        await dict(LEDGER_CHECKS)["times_come_back_in_utc"](ForgetfulPlace)


async def test_conformance_check_on_a_ledger_without_fences_says_what_is_wrong() -> None:
    class Unfenced(MemoryLedger):
        async def change(self, fence: Fence, changes: Sequence[JobChange]) -> list[str]:
            for change in changes:
                holder = await self.holder(change.job_id)
                if holder is not None:
                    await super().change(holder.fence, [change])
            return []

    class UnfencedPlace(MemoryPlace):
        kind = Unfenced

    with pytest.raises(AssertionError, match="lost jobs: found \\[\\], not \\['a'\\]"):
        await dict(LEDGER_CHECKS)["loser_changes_nothing_of_a_lost_job"](UnfencedPlace)
