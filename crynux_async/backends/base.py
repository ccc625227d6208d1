"""The seam: what a service must be able to do so that jobs can be trained on it, whoever it is.

Nothing above this folder knows which service is behind it: no HTTP, no numbers, no API keys, no ZIP files. A backend is
told configs and gives task ids, which are opaque text. It keeps no jobs, retries nothing and holds no queue: every
decision to wait or to ask again is the supervisor's.

Theory of operation, the life of one try:

1. ``prepare()`` before the first create of a session: whatever must be done once, such as making a key known.
2. ``intend(order)`` makes the payload of a create. It waits for nothing, and its text is durable in the ledger, with
   the attempt, before ``create`` is called.
3. ``create(payload)`` sends it. ``creates_are_repeatable`` says whether the same payload may be sent again after an
   unknown outcome: a bridge would make, and bill, a second task; a service that knows the payload's own id would not.
4. ``look(task)`` only reads: what is seen of the task, how far it is, and when to look again; with the phases of its
   life, polling learns to know better.
5. A service whose tasks need more than a create is ``Stepped``: ``next_action(rows, seen)`` is a plain function that
   decides from what is stored and what is seen. The supervisor stores the action as a row under the job's fence, and
   only then calls ``act(row)``, in a slot of its own, so that an upload of a minute never holds up a look.
   An owner that lost the job finishes at most the one action that it has begun.
6. ``open_result(task)`` hands out the bytes.

Everything else that a service may be able to do is a small protocol of its own below; ``isinstance`` asks for it. The
values that only those take and give stand in ``ability_values``, and are handed on here.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs

from crynux_async.lazy import loader_of
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.keeping import KeptConfig, as_kept, config_of
from crynux_async.training.service import ServiceFacts
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.backends.ability_values import Action, Finding, LostCreate, OwnTask, Payment

__all__ = [
    "Action",
    "Backend",
    "Cancels",
    "CreatedTask",
    "Finding",
    "FindsLostCreates",
    "Habits",
    "HasImages",
    "HasOutlook",
    "HasPrices",
    "KeepsCredentials",
    "ListsPayments",
    "Look",
    "LostCreate",
    "Order",
    "OwnTask",
    "Payment",
    "Phase",
    "Prepares",
    "RateLimited",
    "RefundsLate",
    "ResultStream",
    "Seen",
    "Stepped",
    "Task",
    "TellsReasons",
    "Turnstile",
    "Validator",
    "Verdict",
]

_OF_ABILITIES = ("Action", "Finding", "LostCreate", "OwnTask", "Payment")

__getattr__ = loader_of(__name__, dict.fromkeys(_OF_ABILITIES, "ability_values"), folder="crynux_async.backends")


class Seen(StrEnum):
    """What a look at a task has shown."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True)
class Phase(Value):
    """A part of a task's life at whose end something is to be done, so that it is worth knowing how long it takes.

    Attributes:
        name: A word of the service; what is learned of it is shared by jobs of one kind.
        late: How late its end may be noticed, on average, in seconds, > 0. Somebody who looks whenever ``again_after``
            is over is about as late.
        age: Seconds since it began, >= 0; 0 where it has not, for then it may begin at any moment.
        took: Seconds from its beginning to its end, or None where it has not ended.
        failed: Whether it ended without what it is for.
        within: Seconds within which to look again as long as it lasts, whatever was learned, or None.
    """

    name: str
    late: float
    age: float = 0.0
    took: float | None = None
    failed: bool = False
    within: float | None = None


@attrs.frozen(kw_only=True)
class Look(Value):
    """What one look at a task has shown.

    Attributes:
        seen: Where the task is.
        stage: The service's own word for how far it is, such as "started", or "".
        again_after: Seconds after which the service wishes to be asked again, or None where polling may choose.
        phases: The phases of the task's life in their order, those to come included, of a service that wishes to be
            asked and can tell when each began: polling learns how long they take, and then places its looks better
            than the wish, which knows nothing of that. None are told of a task that is not like others.
        has_images: Whether validation images can be fetched by now, of a service that ``HasImages``.
        reason: Why it ended without a result, where the look itself has shown that, or ""; a service that must be asked
            in another way is one that ``TellsReasons``.
        facts: What ``next_action`` needs to know of what was seen; the supervisor only hands it on.
    """

    seen: Seen
    stage: str = ""
    again_after: float | None = None
    phases: Sequence[Phase] = ()
    has_images: bool = False
    reason: str = ""
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Order(Value):
    """What is to be created: one try of one job.

    Attributes:
        job_id: The job.
        try_number: Which try, >= 1.
        config: What is trained, as it was asked for.
    """

    job_id: str
    try_number: int
    config: FineTuneConfig


@attrs.frozen(kw_only=True)
class CreatedTask(Value):
    """A task that the service has accepted and will bill.

    Attributes:
        task_id: The service's name of it.
        created_at: When the service says it was created, aware UTC, or None where it did not say.
        again_after: Seconds after which the service wishes to be asked about it first, >= 0, or None where polling may
            choose. It does not put off what polling promises (``worst_delay``).
        stage: How far it is already, in the words of ``Look.stage``, or "" where the service does not tell.
        phases: As in ``Look``.
    """

    task_id: str
    created_at: datetime | None = None
    again_after: float | None = None
    stage: str = ""
    phases: Sequence[Phase] = ()


@attrs.frozen(kw_only=True)
class Task(Value):
    """A task as a backend is shown it: made once for each try, not for each look.

    Attributes:
        task_id: The service's name of it.
        job_id: The job that it belongs to.
        try_number: Which try of the job, >= 1.
        kept_config: What it trains as it is kept, or None where that is not known; ``config`` is either.
        payload: What ``intend`` made for it, or "" where it was attached or is not kept (see ``Habits``).
        actions: What was stored of its steps, in the order in which they were planned.
        made_at: When it was accepted, aware UTC, or None where that is not known.
    """

    task_id: str
    job_id: str = ""
    try_number: int = 1
    # Made at every look, of which nearly all ask for no config.
    kept_config: KeptConfig | None = attrs.field(default=None, alias="config", converter=as_kept, eq=False, repr=False)
    payload: str = ""
    actions: "Sequence[Action]" = ()
    made_at: datetime | None = None

    @property
    def config(self) -> FineTuneConfig | None:
        """What it trains, made anew each time; or None where that is not known."""
        return None if self.kept_config is None else config_of(self.kept_config)


@attrs.frozen(kw_only=True)
class Habits(Value):
    """How jobs of a service are held and named.

    Attributes:
        lease: Seconds for which a session holds its jobs: short where somebody must live to go on with a task.
        file_name: Default template of archive names.
        failure: What is to be known of a task that failed where no reason is told, for people.
        deletion: When tasks are deleted, for people.
        needs_credential_to_look: Whether following a task needs the credential that created it.
        needs_payload: Whether steps need the payload of the create, which is kept for as long as the job then.
        knows_fee: Whether prices that it says are those that are paid; else they are usual ones, and what the user says
            counts.
    """

    lease: float = 60.0
    file_name: str = "{task_id}.zip"
    failure: str = "the service gave up on it and does not say why"
    deletion: str = "the service does not know this task (any more)"
    needs_credential_to_look: bool = False
    needs_payload: bool = True
    knows_fee: bool = True


@attrs.frozen(kw_only=True)
class Validator(Value):
    """What tells one version of a result from another.

    Attributes:
        last_modified: The service's own mark of the version word for word, or None where there was none.
        total_bytes: Size of the whole result, or None where it is not known.
    """

    last_modified: str | None
    total_bytes: int | None


class ResultStream(Protocol):
    """An answer with (a part of) a result whose body has not been read yet."""

    @property
    def start(self) -> int:
        """Offset in bytes of the first byte of the body, >= 0: 0 when the whole result is coming."""

    @property
    def validator(self) -> Validator:
        """Which version of the result the body belongs to."""

    def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most ``chunk_bytes`` bytes.

        Raises:
            TransportError: The connection broke before the announced end.
        """


class Backend(Protocol):
    """A service as the supervisor sees it."""

    @property
    def name(self) -> str:
        """What identifies the service in a ledger, for people and for ever, such as "https://bridge.crynux.io".

        Version 0.1.0 stored the jobs of any backend under its session's ``base_url``, without the slash at its end: a
        backend with just that name finds them again.
        """

    @property
    def key_id(self) -> str:
        """Fingerprint of the credential; never the credential."""

    @property
    def facts(self) -> ServiceFacts:
        """What it adds to a training: what it cannot be sent, what a round costs, how long one may take."""

    @property
    def habits(self) -> Habits:
        """How its jobs are held and named."""

    @property
    def creates_are_repeatable(self) -> bool:
        """Whether one payload may be created again after an unknown outcome, because it can only be billed once."""

    def normal_task_id(self, given: str | int) -> str:
        """Return a task id that a user gave as the service writes it.

        Raises:
            UsageError: No task of this service can be called so.
        """

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        """Return what the service and its nodes make of a config."""

    def stall_after(self, config: FineTuneConfig) -> float:
        """Return after how many seconds a healthy task of a config has certainly ended."""

    def intend(self, order: Order) -> str:
        """Return the payload of a create: text that is durable before anything is sent.

        Raises:
            ConfigError: The service cannot express this config.
        """

    async def create(self, payload: str) -> CreatedTask:
        """Send one create, exactly once, and return the task that it made.

        Raises:
            UnreachableError: No connection; nothing was sent.
            RateLimitedError: Refused for now; its ``wait`` says how long, and the gate understands it.
            AuthError, QuotaError, RejectedError: Refused; nothing was created. ``is_counted`` says whether the refusal
                counts against the rate limit all the same.
            SubmissionUnknownError: Everything else: the task may exist.
        """

    async def look(self, task: Task) -> Look:
        """Look at a task without changing anything.

        Raises:
            NotFoundError: The service has no such task, or not any more.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """

    def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the result from byte ``start`` on, provided it is still the version of ``validator``.

        Where the version changed, or the service ignores ranges, the stream begins at 0: look at ``stream.start``.

        Raises:
            RangeError: ``start`` is not inside the result; ``.total_bytes`` says how long it is where known.
            NotFoundError: There is no result (not finished, failed, or deleted).
            OwnershipError, AuthError, QuotaError: The credential may not have it.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """

    async def close(self) -> None:
        """Release every connection."""


class Turnstile(Protocol):
    """How ``prepare`` gets a token of the rate limit for a request that counts against it."""

    def __call__(self) -> AbstractAsyncContextManager[None]:
        """Wait for a token on entering; in the block one request is sent, and its error tells the gate how it ended."""


@runtime_checkable
class Prepares(Protocol):
    """A service for which something must be done once before the first create with a credential."""

    async def prepare(self, turnstile: Turnstile) -> float | None:
        """Do it, or return at once where it was done before, by anybody.

        Returns:
            How many creates a minute the credential may make, as far as this has shown, or None.

        Raises:
            AuthError, QuotaError: The credential is not accepted.
            RateLimitedError, UnreachableError, TransportError, ServerError, ProtocolError: Not now; call it again.
        """


@runtime_checkable
class KeepsCredentials(Protocol):
    """A service at which results of earlier credentials can be opened, too, such as those of keys that were replaced.

    Without this, a session takes it that the service hands out results to the credential alone that created the task.
    """

    async def kept_key_ids(self) -> Collection[str]:
        """Return the fingerprints of the other credentials whose results ``open_result`` can open now."""


@runtime_checkable
class RateLimited(Protocol):
    """A service whose creates pass a token bucket, so that they must pass the gate."""

    @property
    def is_rate_limited(self) -> bool:
        """Whether creates with this credential are limited."""


@runtime_checkable
class Stepped(Protocol):
    """A service whose tasks need more than a create."""

    def next_action(self, task: Task, look: Look) -> "Action | None":
        """Return what the task needs next, from what is stored and what is seen alone; None where it needs nothing.

        An action whose row is stored and not done is returned again: doing it twice is safe, or ``act`` looks first.
        """

    async def act(self, task: Task, action: "Action") -> str:
        """Do a stored action, and return what became of it: a word that is stored with the row.

        Raises:
            BackendError: No outcome that counts; it is done again after the next look.
        """


class Verdict(StrEnum):
    """What looking for a lost create has shown."""

    FOUND = "found"
    AMBIGUOUS = "ambiguous"
    NOT_CREATED = "not created"
    OPEN = "open"
    ORPHAN = "orphan"


@runtime_checkable
class FindsLostCreates(Protocol):
    """A service on which the task of a create of unknown outcome can be found."""

    def candidates(self, create: "LostCreate", *, at_most: int) -> Iterable[str]:
        """Yield the ids that the task of a lost create can have by its place alone, whoever has them.

        ``known`` of the other methods need name no other tasks than these. It may be many: they are not asked for
        beyond the first that leave more than ``at_most`` without a job.
        """

    def search_requests(self, lost: "Sequence[LostCreate]", *, known: frozenset[str], at_most: int) -> int:
        """Return how many requests looking takes at most with the same arguments.

        That is ``find_lost``, and one request for the archive of each task that it may leave to choose from.
        """

    async def find_lost(self, lost: "Sequence[LostCreate]", *, known: frozenset[str], at_most: int) -> "list[Finding]":
        """Look for the tasks of lost creates, and return what was found of each that is wanted, in the same order.

        Args:
            lost: All that are lost with this credential, so that no task is given to two of them.
            known: Those of ``candidates`` that belong to other jobs; of more than can be looked at, the first ones.
            at_most: Tasks to look at for each lost create, >= 0.
        """


@runtime_checkable
class Cancels(Protocol):
    """A service that can cancel tasks."""

    async def cancel(self, task: Task) -> str:
        """Cancel a task, and return what that means for the money, for people. The next look sees it cancelled.

        Raises:
            BackendError: It cannot be cancelled (any more); the message says what happens now.
        """


@runtime_checkable
class HasImages(Protocol):
    """A service that hands out validation images."""

    async def images(self, task: Task) -> Sequence[bytes]:
        """Return the validation images of a task as PNG files, in order."""


@runtime_checkable
class TellsReasons(Protocol):
    """A service that can be asked why a task failed; it is, where the look has not shown it."""

    async def reason(self, task: Task) -> str:
        """Return why, for people, or "" where it does not know. Asked once, when a failure was seen."""


@runtime_checkable
class HasPrices(Protocol):
    """A service that knows what tasks cost."""

    def price(self, config: FineTuneConfig) -> int | None:
        """Return what one try of a config may cost at most, in wei, or None where that is not known."""

    async def balance(self) -> int | None:
        """Return what the account has, in wei, or None where that cannot be asked."""

    async def spent(self, task: Task, look: Look) -> int | None:
        """Return what an ended task did cost, in wei, or None where that is not known.

        Raises:
            BackendError: It could not be asked; its cost stays unknown.
        """


@runtime_checkable
class RefundsLate(Protocol):
    """A service that gives money back by itself for what its owner has given up, once it notices."""

    async def final_cost(self, task: Task) -> int | None:
        """Return what a try that nobody follows any more has cost, in wei, or None while some may still come back.

        Raises:
            NotFoundError: The service does not have it (any more), so that nobody can tell.
            BackendError: It could not be asked; ask again later.
        """


@runtime_checkable
class HasOutlook(Protocol):
    """A service that can tell before a create what will keep it waiting."""

    async def outlook(self, config: FineTuneConfig) -> Sequence[str]:
        """Return what will keep a training waiting, for people; nothing where all is well or it cannot be asked."""


@runtime_checkable
class ListsPayments(Protocol):
    """A service that lists everything that was ever paid from an account."""

    async def payments(self) -> "Sequence[Payment]":
        """Return every payment with its refund, the newest first.

        Raises:
            BackendError: They could not be asked.
        """

    def task_ids(self, task: Task) -> Sequence[str]:
        """Return what all tasks of a try are called, as far as its stored steps tell."""

    def first_task_id(self, job_id: str, try_number: int) -> str:
        """Return what the first task of a try is called, whether it was ever made or not."""

    async def recognise(self, task_id: str) -> "OwnTask | None":
        """Return what a task is that this library has made with this account, whatever a ledger knows of it.

        None for one of another program.

        Raises:
            NotFoundError: The service does not have it (any more), so that nobody can tell.
            BackendError: It could not be asked.
        """
