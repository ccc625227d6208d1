"""A Crynux relay on this machine, to develop and test against.

It answers word for word as the real relay does, checks signatures and proofs, takes fees and gives them back, and has
nodes that deliver real archives and images. It needs the extra ``crynux-async[wallet]``.

Begin with ``relay`` (what happens to tasks, nodes and money as time goes by, without a socket) and what it is made of:
``tasks``, ``groups``, ``accounts``, ``nodes``, ``agenda``. ``inputs`` says what each call takes, the ``..._calls``
answer, ``routes`` finds them, ``serving`` spoils them, and ``server`` puts all of it together.
"""

from crynux_async.emulator.relay.automatic import Conduct
from crynux_async.emulator.relay.journal import JournalEntry
from crynux_async.emulator.relay.seeds import Sampling
from crynux_async.emulator.relay.server import CNX, RelayEmulator
from crynux_async.emulator.relay.tasks import AbortReason, Status, Task

__all__ = ["CNX", "AbortReason", "Conduct", "JournalEntry", "RelayEmulator", "Sampling", "Status", "Task"]
