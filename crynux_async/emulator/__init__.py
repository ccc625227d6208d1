"""A Crynux bridge on this machine, to develop and test against.

It answers word for word as the real bridge does, has its rate limiter and its known faults, and delivers real archives.
It shares no code with the rest of the library, because it is there to judge it.
"""

from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.bridge.journal import JournalEntry
from crynux_async.emulator.bridge.server import Emulator, RequestRecord
from crynux_async.emulator.http.faults import KINDS, Fault
from crynux_async.emulator.nodes.node import Progress
from crynux_async.emulator.nodes.task_args import TaskArgs

__all__ = ["KINDS", "Emulator", "Fault", "Job", "JournalEntry", "Progress", "RequestRecord", "TaskArgs"]
