"""A ledger in memory: as good as a file for as long as the process lives, and as small as it can be.

Read ``ledger`` first, which is the protocol method by method; ``undo`` is its transaction. Behind it stand ``jobs``
(the jobs, who holds them, and what is unique), ``attempts`` (every create in one log) and ``selection`` (which jobs a
filter means).
"""

from crynux_async.ledgers.memory.ledger import MemoryLedger

__all__ = ["MemoryLedger"]
