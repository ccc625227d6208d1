"""What tests of this library, and of programs that use it, need. Public.

``virtual_time`` has the loop whose clock jumps, ``emulators`` a bridge and a relay for a test; ``fixtures`` is what the
pytest plugin starts. ``LEDGER_CHECKS`` and ``BACKEND_CHECKS`` hold a ledger or a backend of one's own to what the
library needs of them.
"""

from crynux_async.backends.conformance import BACKEND_CHECKS, BackendCheck, Stage
from crynux_async.ledgers.conformance import LEDGER_CHECKS, LedgerCheck, LedgerFactory, LedgerPlace
from crynux_async.testing.emulators import emulated_session, running_emulator, running_relay
from crynux_async.testing.virtual_time import VirtualTimeLoop, loop_factories, virtual_time_run

__all__ = [
    "BACKEND_CHECKS",
    "LEDGER_CHECKS",
    "BackendCheck",
    "LedgerCheck",
    "LedgerFactory",
    "LedgerPlace",
    "Stage",
    "VirtualTimeLoop",
    "emulated_session",
    "loop_factories",
    "running_emulator",
    "running_relay",
    "virtual_time_run",
]
