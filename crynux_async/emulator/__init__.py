"""A Crynux bridge and a relay on this machine, to develop and test against.

They answer word for word as the real ones do, have their limits and their known faults, and deliver real archives.
They share no code with the rest of the library, because they are there to judge it.

``Emulator`` (the bridge), ``relay.RelayEmulator`` (which needs the extra ``wallet``) and the names below are for
everybody; the folders are not. Begin with ``bridge`` and ``relay`` (the services), then ``nodes`` (what becomes of a
job and what it delivers) and ``http`` (sockets, answers, faults, the control plane); ``go_json`` and ``go_text`` write
as Go does, ``signatures`` tells who signed a request, ``clock`` and ``line_log`` keep time and lines.
"""

from crynux_async.emulator.bridge.admin import Owner
from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.bridge.journal import JournalEntry
from crynux_async.emulator.bridge.server import Emulator, SessionSettings
from crynux_async.emulator.http.faults import KINDS, Fault
from crynux_async.emulator.http.request_log import RequestRecord
from crynux_async.emulator.nodes.node import Progress
from crynux_async.emulator.nodes.task_args import TaskArgs

__all__ = [
    "KINDS",
    "Emulator",
    "Fault",
    "Job",
    "JournalEntry",
    "Owner",
    "Progress",
    "RequestRecord",
    "SessionSettings",
    "TaskArgs",
]
