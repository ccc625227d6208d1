"""Every exception of the library.

::

    CrynuxError
    ├── ConfigError (ValueError)          what to train cannot be sent; .problems lists all of it
    ├── SettingsError (ValueError)        how the client is set up cannot work; .problems lists all of it
    ├── UsageError (RuntimeError)         the library was called in a way that cannot work
    ├── BackendError                      a request to the service did not give what it should
    │   ├── UnreachableError              no connection; nothing was sent, so trying again is safe
    │   ├── TransportError                the connection broke while a repeatable request was under way
    │   ├── AuthError                     the key is missing, unknown, expired or lacks its role
    │   ├── QuotaError                    the key is used up
    │   ├── OwnershipError                the task belongs to another key (or is a fresh key's first one)
    │   ├── RateLimitedError              too many creates; .wait says what the service asked for
    │   ├── RangeError                    the result does not reach that far; .total_bytes says how far
    │   ├── NotFoundError                 the service has no such task, or not any more
    │   ├── RejectedError                 the service names what it does not accept
    │   ├── ServerError                   5xx
    │   └── ProtocolError                 an answer that no such service gives (a proxy's page, wrong types, too large)
    ├── SubmissionUnknownError            a create was sent and its outcome is not known; never sent again by itself
    ├── JobError
    │   ├── JobFailedError                the network gave up on the task
    │   ├── JobStalledError               the task runs longer than it possibly can
    │   ├── JobExpiredError               the service has deleted the task
    │   └── JobAbandonedError             given up here, before or after it was sent
    ├── ConflictError                     an idempotency key stands for something else already
    ├── BudgetExceededError               a budget does not allow what a create may cost; nothing was sent
    ├── WaitTimeoutError (TimeoutError)   waiting ended, the job goes on
    ├── DownloadError
    │   ├── IncompleteError               fewer bytes than the service announced
    │   └── CorruptArchiveError           all bytes arrived, and they are not a good archive
    ├── ArchiveError                      a file on disk is not an archive that can be read safely
    └── LedgerError                       jobs cannot be remembered: damaged, read-only, or of a newer version
        ├── LedgerBusyError               nothing was written this time; the same may work later
        └── LeaseLostError                another process has the job by now; nothing of it was written

Every message says what happened, what is known and what to do. The facts behind it are attributes: ``job_id``,
``task_id``, ``url`` and ``field`` are on every error and None where they do not apply. Errors survive pickling and
never hold a key.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from crynux_async.values import Value


class CrynuxError(Exception):
    """Base of everything this library raises on purpose.

    Attributes:
        job_id: The job of this session that it is about, or None.
        task_id: The service's name of the task, or None.
        url: The address that was asked, without any secret, or None.
        field: The field of the config, settings or answer that is at fault, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        task_id: str | None = None,
        url: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.task_id = task_id
        self.url = url
        self.field = field

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # An exception is pickled by its ``args``, and what is known only by keyword is not among them.
        return rebuilt, (type(self), self.args, self.__dict__)


def rebuilt(cls: type[CrynuxError], args: tuple[Any, ...], state: Mapping[str, Any]) -> CrynuxError:
    """Return an error with these arguments and attributes, as after pickling.

    Args:
        cls: Its class.
        args: Its ``args``: the message.
        state: Every attribute.
    """
    # Not through the constructor: each class has other arguments.
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


@attrs.frozen(kw_only=True)
class Problem(Value):
    """One thing wrong with one field.

    Attributes:
        field: The field's name as the user wrote it.
        message: What is wrong and what would be right, in one sentence.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class _ProblemsError(CrynuxError, ValueError):
    """A ValueError that lists every problem at once."""

    def __init__(self, problems: Sequence[Problem], *, what: str) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{what}: {count}{lines}", field=self.problems[0].field if self.problems else None)


class ConfigError(_ProblemsError):
    """A fine-tuning config that cannot be sent.

    Attributes:
        problems: Every problem found, in the order of the fields.
    """

    def __init__(self, problems: Sequence[Problem], *, what: str = "this config cannot be sent") -> None:
        super().__init__(problems, what=what)


class SettingsError(_ProblemsError):
    """Settings that cannot work.

    Attributes:
        problems: Every problem found, each with the name of its setting.
    """

    def __init__(self, problems: Sequence[Problem], *, what: str = "these settings cannot work") -> None:
        super().__init__(problems, what=what)


class UsageError(CrynuxError, RuntimeError):
    """The library was called in a way that cannot work, such as submitting through a closed session."""


class BackendError(CrynuxError):
    """A request to the service did not give what it should.

    Attributes:
        status: The HTTP status of the answer, or None when there was no answer.
        answer: The beginning of the answer's text (at most 64 KiB, the key masked), or "".
        is_lasting: Whether waiting cannot mend it, so that asking again is pointless until somebody does something.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        answer: str = "",
        is_lasting: bool = False,
        job_id: str | None = None,
        task_id: str | None = None,
        url: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, task_id=task_id, url=url, field=field)
        self.status = status
        self.answer = answer
        self.is_lasting = is_lasting


class UnreachableError(BackendError):
    """No connection could be made, so nothing was sent: trying again is always safe."""


class TransportError(BackendError):
    """The connection broke or timed out while a request that can be repeated was under way."""


class AuthError(BackendError):
    """The service does not accept the key: missing, unknown, expired, or without the role it needs."""


class QuotaError(BackendError):
    """The key is used up. Finished models of a used-up key cannot be downloaded either."""


class OwnershipError(BackendError):
    """The task belongs to another key, or it is the first task that a fresh key ever made."""


class RateLimitedError(BackendError):
    """A create was refused because too many were sent. Nothing was created, and the refusal itself cost a token.

    Attributes:
        wait: Seconds that the bridge says to wait, >= 0, or None when its wording is not known. Waiting exactly this
            long is refused again: the next create passes after ``wait + 60 / limit`` seconds.
    """

    def __init__(self, message: str, *, wait: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.wait = wait


class RangeError(BackendError):
    """The result was asked for from a byte that it does not have.

    Attributes:
        total_bytes: Size of the whole result, or None where the service did not say.
    """

    def __init__(self, message: str, *, total_bytes: int | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.total_bytes = total_bytes


class NotFoundError(BackendError):
    """The service has no such task, or has deleted it."""


class RejectedError(BackendError):
    """The service names a field that it does not accept. Nothing was created and nothing is paid.

    Attributes:
        is_counted: Whether the refused create counts against the rate limit all the same.
    """

    def __init__(self, message: str, *, is_counted: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.is_counted = is_counted


class ServerError(BackendError):
    """The service, or a proxy before it, answered 5xx."""


class ProtocolError(BackendError):
    """An answer that no such service gives: a proxy's page, a redirect, wrong types, too large."""


class SubmissionUnknownError(CrynuxError):
    """A create was sent and its outcome is not known: the task may exist and be paid for.

    It is never sent again by itself, because that could pay twice.

    Attributes:
        status: The HTTP status of the answer, or None when there was none.
        answer: The beginning of the answer's text (at most 64 KiB, the key masked), or "".
    """

    def __init__(self, message: str, *, status: int | None = None, answer: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.status = status
        self.answer = answer


class JobError(CrynuxError):
    """A job did not end with a model.

    Attributes:
        reason: Why, as far as the service tells, or "".
    """

    def __init__(self, message: str, *, reason: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.reason = reason


class JobFailedError(JobError):
    """The network gave up on the task. A bridge says why to its owner alone, who has its admin token."""


class JobStalledError(JobError):
    """The task has been running for longer than any healthy task can; it is still watched, slowly."""


class JobExpiredError(JobError):
    """The service has deleted the task (a bridge does so 7 days after its end by default), or never had it."""


class JobAbandonedError(JobError):
    """The job was given up: its task was cancelled, it was withdrawn before it was sent, or abandoned afterwards."""


class ConflictError(CrynuxError):
    """An idempotency key stands for another intention already. Nothing was planned and nothing was sent.

    Attributes:
        differences: Field -> what was asked under this key before, and what is asked now.
    """

    def __init__(
        self, message: str, *, differences: Mapping[str, tuple[Any, Any]] = MappingProxyType({}), **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.differences = dict(differences)


class BudgetExceededError(CrynuxError):
    """A create could cost more than its budget has left. Nothing was sent, and nothing is held for it.

    Attributes:
        budget: The budget's name.
        amount: What the create may cost, in wei, >= 0.
        limit: What the budget may hold and spend together, in wei.
        held: What it holds for tasks that have not ended, in wei.
        spent: What it has spent, in wei.
    """

    def __init__(
        self, message: str, *, budget: str, amount: int, limit: int, held: int, spent: int, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.budget = budget
        self.amount = amount
        self.limit = limit
        self.held = held
        self.spent = spent


class WaitTimeoutError(CrynuxError, TimeoutError):
    """Waiting ended before the job did. The job goes on and can be waited for again."""


class DownloadError(CrynuxError):
    """An archive could not be brought to disk. What arrived is kept in the part file and continued next time."""


class IncompleteError(DownloadError):
    """Fewer bytes arrived than the service announced, or it did not announce a size.

    Attributes:
        received: Bytes on disk.
        expected: Bytes announced, or None when no size was.
    """

    def __init__(self, message: str, *, received: int, expected: int | None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.received = received
        self.expected = expected


class CorruptArchiveError(DownloadError):
    """Every byte arrived, and they are not a good archive. The file is not given its final name."""


class ArchiveError(CrynuxError):
    """A file is not a result archive that can be read safely.

    Attributes:
        is_undamaged: Whether every byte is as it was packed, so that fetching it again cannot help: what is inside is
            no LoRA, or not one that is read.
    """

    def __init__(self, message: str, *, is_undamaged: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.is_undamaged = is_undamaged


class LedgerError(CrynuxError):
    """The ledger cannot be read or written: damaged, read-only, written by a newer version, on a disk that fails.

    Attributes:
        path: The file or database, without any secret.
    """

    def __init__(self, message: str, *, path: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.path = path


class LedgerBusyError(LedgerError):
    """The ledger could not be written this time: another's lock, a full disk, a server that is away.

    Nothing was written, and the same call may work later; the ledger goes on.
    """


class LeaseLostError(LedgerError):
    """Jobs are held by another process by now, or the lease was given back. Nothing about them was written.

    Attributes:
        job_ids: Which jobs.
    """

    def __init__(self, message: str, *, job_ids: Sequence[str], **facts: Any) -> None:
        super().__init__(message, **facts)
        self.job_ids = tuple(job_ids)


def only_error(error: BaseException) -> BaseException:
    """Return the one error in an exception group, or the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
