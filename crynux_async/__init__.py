"""Asyncio client for fine-tuning Stable Diffusion LoRA models on the Crynux Network.

``Session`` submits, follows and downloads jobs; ``FineTuneConfig`` says what to train; errors are ``CrynuxError``.
Names are loaded when they are first used, so importing the package costs next to nothing.
"""

import logging
import os
from typing import TYPE_CHECKING

from crynux_async.lazy import loader_of
from crynux_async.version import __version__

if TYPE_CHECKING:
    from crynux_async.backends.base import Backend, Verdict
    from crynux_async.errors import (
        ArchiveError,
        AuthError,
        BackendError,
        BudgetExceededError,
        ConfigError,
        ConflictError,
        CorruptArchiveError,
        CrynuxError,
        DownloadError,
        IncompleteError,
        JobAbandonedError,
        JobError,
        JobExpiredError,
        JobFailedError,
        JobStalledError,
        LeaseLostError,
        LedgerBusyError,
        LedgerError,
        NotFoundError,
        OwnershipError,
        ProtocolError,
        QuotaError,
        RangeError,
        RateLimitedError,
        RejectedError,
        ServerError,
        SettingsError,
        SubmissionUnknownError,
        TransportError,
        UnreachableError,
        UsageError,
        WaitTimeoutError,
    )
    from crynux_async.events import (
        ArchiveReady,
        DownloadFailed,
        DownloadProgressed,
        Event,
        EventsMissed,
        ImagesReady,
        JobProgressed,
        JobQueued,
        JobStateChanged,
        JobSubmitted,
        StepTaken,
    )
    from crynux_async.job import Job
    from crynux_async.job_values import Cost
    from crynux_async.ledgers.base import JobRow, Ledger
    from crynux_async.secret import Secret
    from crynux_async.session import Session
    from crynux_async.session_values import Reconciled, SessionStatistics, Unconfirmed
    from crynux_async.settings import Settings
    from crynux_async.states import JobState
    from crynux_async.training.config import EffectiveConfig, FineTuneConfig


_HOME_OF = {
    "ArchiveReady": "events",
    "Backend": "backends.base",
    "Cost": "job_values",
    "DownloadFailed": "events",
    "DownloadProgressed": "events",
    "EffectiveConfig": "training.config",
    "Event": "events",
    "EventsMissed": "events",
    "FineTuneConfig": "training.config",
    "ImagesReady": "events",
    "Job": "job",
    "JobProgressed": "events",
    "JobQueued": "events",
    "JobRow": "ledgers.base",
    "JobState": "states",
    "JobStateChanged": "events",
    "JobSubmitted": "events",
    "Ledger": "ledgers.base",
    "Reconciled": "session_values",
    "Secret": "secret",
    "Session": "session",
    "SessionStatistics": "session_values",
    "Settings": "settings",
    "StepTaken": "events",
    "Unconfirmed": "session_values",
    "Verdict": "backends.base",
}

__all__ = [
    "ArchiveError",
    "ArchiveReady",
    "AuthError",
    "Backend",
    "BackendError",
    "BudgetExceededError",
    "ConfigError",
    "ConflictError",
    "CorruptArchiveError",
    "Cost",
    "CrynuxError",
    "DownloadError",
    "DownloadFailed",
    "DownloadProgressed",
    "EffectiveConfig",
    "Event",
    "EventsMissed",
    "FineTuneConfig",
    "ImagesReady",
    "IncompleteError",
    "Job",
    "JobAbandonedError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobProgressed",
    "JobQueued",
    "JobRow",
    "JobStalledError",
    "JobState",
    "JobStateChanged",
    "JobSubmitted",
    "LeaseLostError",
    "Ledger",
    "LedgerBusyError",
    "LedgerError",
    "NotFoundError",
    "OwnershipError",
    "ProtocolError",
    "QuotaError",
    "RangeError",
    "RateLimitedError",
    "Reconciled",
    "RejectedError",
    "Secret",
    "ServerError",
    "Session",
    "SessionStatistics",
    "Settings",
    "SettingsError",
    "StepTaken",
    "SubmissionUnknownError",
    "TransportError",
    "Unconfirmed",
    "UnreachableError",
    "UsageError",
    "Verdict",
    "WaitTimeoutError",
    "__version__",
]


__getattr__ = loader_of(__name__, {name: _HOME_OF.get(name, "errors") for name in __all__})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


logging.getLogger("crynux_async").addHandler(logging.NullHandler())
if os.environ.get("CRYNUX_LOG"):
    from crynux_async.log import log_to_stderr

    log_to_stderr(os.environ["CRYNUX_LOG"])
