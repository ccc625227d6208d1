"""Asyncio client for fine-tuning Stable Diffusion LoRA models on the Crynux Network.

``Session`` submits, follows and downloads jobs; ``FineTuneConfig`` says what to train; errors are ``CrynuxError``.
Names are loaded when they are first used, so importing the package costs next to nothing.
"""

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crynux_async.errors import (
        ArchiveError,
        AuthError,
        BackendError,
        ConfigError,
        CorruptArchiveError,
        CrynuxError,
        DownloadError,
        IncompleteError,
        JobAbandonedError,
        JobError,
        JobExpiredError,
        JobFailedError,
        JobStalledError,
        LedgerError,
        NotFoundError,
        OwnershipError,
        ProtocolError,
        QuotaError,
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
    from crynux_async.job import Job
    from crynux_async.secret import Secret
    from crynux_async.session import Session
    from crynux_async.settings import Settings, SettingsArguments
    from crynux_async.states import JobState
    from crynux_async.training.config import EffectiveConfig, FineTuneConfig
    from crynux_async.training.effective import Replacement

__version__ = "0.1.0"

_HOME_OF = {
    "EffectiveConfig": "training.config",
    "FineTuneConfig": "training.config",
    "Job": "job",
    "JobState": "states",
    "Replacement": "training.effective",
    "Secret": "secret",
    "Session": "session",
    "Settings": "settings",
    "SettingsArguments": "settings",
}

__all__ = [
    "ArchiveError",
    "AuthError",
    "BackendError",
    "ConfigError",
    "CorruptArchiveError",
    "CrynuxError",
    "DownloadError",
    "EffectiveConfig",
    "FineTuneConfig",
    "IncompleteError",
    "Job",
    "JobAbandonedError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobStalledError",
    "JobState",
    "LedgerError",
    "NotFoundError",
    "OwnershipError",
    "ProtocolError",
    "QuotaError",
    "RateLimitedError",
    "RejectedError",
    "Replacement",
    "Secret",
    "ServerError",
    "Session",
    "Settings",
    "SettingsArguments",
    "SettingsError",
    "SubmissionUnknownError",
    "TransportError",
    "UnreachableError",
    "UsageError",
    "WaitTimeoutError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'crynux_async' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"crynux_async.{_HOME_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


logging.getLogger("crynux_async").addHandler(logging.NullHandler())
if os.environ.get("CRYNUX_LOG"):
    from crynux_async.log import log_to_stderr

    log_to_stderr(os.environ["CRYNUX_LOG"])
