"""A ledger whose writes wait for a test, which sees how many jobs come in each."""

import asyncio
from collections.abc import Sequence
from typing import Any

from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import JobRow
from crynux_async.ledgers.memory import MemoryLedger


class HeldLedger(MemoryLedger):
    """A ledger that adds jobs when a test lets it, and refuses those of one label."""

    def __init__(self) -> None:
        super().__init__()
        self.adds: list[int] = []
        self.is_free = asyncio.Event()

    async def add(self, rows: Sequence[JobRow], **options: Any) -> list[JobRow]:
        self.adds.append(len(rows))
        await self.is_free.wait()
        if any(row.label == "bad" for row in rows):
            raise LedgerError("a row that no ledger keeps")
        return await super().add(rows, **options)
