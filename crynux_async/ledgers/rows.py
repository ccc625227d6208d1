"""The rows of a ledger, as values: what is remembered of jobs, and what is asked and said about them.

What a first job needs none of stands in ``seldom_rows``, and is loaded when it is needed. ``base`` hands them all on
together with the protocol; import them from there.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.errors import UsageError
from crynux_async.secret import mask_addresses
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.keeping import KeptConfig, as_config
from crynux_async.values import Value

if TYPE_CHECKING:
    from crynux_async.ledgers.seldom_rows import EventRow, Settlement, StepRow

_PRIVATE = frozenset({"backend", "folder", "file_name", "path", "host", "key_id", "budget", "error"})

MOST_TAGS = 400
"""So many tags can be asked for together: each is two parameters, and before 3.32 SQLite takes 999 in a statement."""

_NOT_SHOWN = frozenset({"digest", "error_facts"})


def _config_of(given: FineTuneConfig | KeptConfig | None) -> FineTuneConfig | None:
    return as_config(given) if isinstance(given, tuple) else given


def shown_config(config: FineTuneConfig | None) -> dict[str, object] | None:
    """Return a config as JSON values for whoever looks at it: what presigned links hold is masked."""
    return None if config is None else mask_addresses(config.to_dict())


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value


class AttemptOutcome(StrEnum):
    """What became of one create that was begun."""

    ACCEPTED = "accepted"
    LIMITED = "refused"  # by the rate limit; stored in the word that version 0.1.0 wrote
    REJECTED = "rejected"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Fence(Value):
    """The proof of a lease: every write about a job carries it.

    Attributes:
        owner: Who holds the lease.
        number: The lease's own number, > 0, never used again.
    """

    owner: str
    number: int


@attrs.frozen(kw_only=True)
class Holder(Value):
    """Somebody who has a lease, ended or not.

    Attributes:
        fence: The lease.
        until: When it ends or ended.
        jobs: How many jobs it holds, >= 0.
    """

    fence: Fence
    until: datetime
    jobs: int


@attrs.frozen(kw_only=True)
class JobRow(Value):
    """A job as it is remembered.

    Attributes:
        job_id: This library's name for it, unique in the ledger.
        backend: Which service it belongs to: the backend's ``name``.
        key_id: Fingerprint of the credential that submits it, or "" for a task that was attached without one.
        given_config: What is trained, as it was asked for: a config, or what is kept of one; or None for a task that
            was attached by its id.
        is_seed_drawn: Whether nobody gave the config's seed, so that it was drawn here.
        asked_digest: ``FineTuneConfig.asked_digest()`` of what an idempotency key stands for, where ``config`` is
            another one since; else "".
        label: The caller's own name for it.
        group: Which set of jobs it belongs to, such as a sweep, or "".
        tags: Free names and values of the caller.
        tenant: On whose behalf it runs, or "" where a program serves nobody else.
        idempotency_key: The caller's name for one intention, unique by backend and tenant; or None.
        budget: The budget that pays for it, or "".
        is_stopped: Whether it is not to be sent by anybody until its user says so.
        is_sent_by_any: Whether a session that stands for it (``send_planned``) sends it after a crash.
        task_id: The service's name of the newest task, or None before it is accepted. Unique for a backend.
        state: What is believed of it.
        tries: How many tries it has had or has, >= 1.
        planned_at: When it was planned (or attached).
        submitted_at: When its newest try was accepted, or None.
        ended_at: When its end was noticed, or None.
        error: Why it ended badly, for people, or "".
        error_facts: The name of that error's class as "kind", and its own attributes, as JSON values; {} where an
            earlier version did not keep them.
        reason: Why it failed as far as the service tells, or "".
        folder: Where its archive is wanted (absolute), or None where no download was asked for.
        file_name: The name (template filled in) that was asked for, or None.
        path: Where its archive is, or None.
        host: The machine on which ``path`` is, or "".
        total_bytes: Size of the archive, or None.
        last_event: The number of its newest event, >= 0, kept when old events are trimmed.
        resubmitted_as: The job that replaces it; only ledgers of version 0.1.0 have any.
    """

    job_id: str
    backend: str
    key_id: str
    given_config: FineTuneConfig | KeptConfig | None = attrs.field(
        alias="config", eq=_config_of, repr=lambda given: repr(_config_of(given))
    )
    label: str = ""
    task_id: str | None = None
    state: JobState
    planned_at: datetime
    is_seed_drawn: bool = False
    asked_digest: str = ""
    group: str = ""
    tags: Mapping[str, str] = MappingProxyType({})  # one for all: a hundred thousand empty tables are 6 MB
    tenant: str = ""
    idempotency_key: str | None = None
    budget: str = ""
    is_stopped: bool = False
    is_sent_by_any: bool = False
    tries: int = 1
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""
    error_facts: Mapping[str, Any] = MappingProxyType({})
    reason: str = ""
    folder: str | None = None
    file_name: str | None = None
    path: str | None = None
    host: str = ""
    total_bytes: int | None = None
    last_event: int = 0
    resubmitted_as: str | None = None
    # Only where there is no config to make it from: a hundred thousand digests are 13 MB.
    _kept_digest: str = attrs.field(default="", alias="digest")

    def __attrs_post_init__(self) -> None:
        if self.given_config is not None and self._kept_digest:
            object.__setattr__(self, "_kept_digest", "")

    def to_dict(self, *, public: bool = False) -> dict[str, Any]:
        """Return the row as JSON values, with its digest; what presigned links hold is masked.

        Args:
            public: Leave out what concerns nobody outside: paths, hosts and addresses, with the words of errors, in
                which they may stand; credential and budget.
        """
        names = [field.alias or field.name for field in attrs.fields(JobRow) if field.alias not in _NOT_SHOWN]
        facts = {name: _as_json(getattr(self, name)) for name in names if not (public and name in _PRIVATE)}
        facts["asked_digest"] = self.first_asked
        facts["error_kind"] = self.error_facts.get("kind", "")
        return {**facts, "config": shown_config(self.config), "digest": self.digest}

    @property
    def config(self) -> FineTuneConfig | None:
        """What is trained; made anew each time of what is kept of it, where it was given so."""
        return _config_of(self.given_config)

    @property
    def first_asked(self) -> str:
        """``FineTuneConfig.asked_digest()`` of what the idempotency key stands for, or "" where there is none."""
        if self.asked_digest or self.idempotency_key is None:
            return self.asked_digest
        config = self.config
        return "" if config is None else config.asked_digest()

    @property
    def digest(self) -> str:
        """``FineTuneConfig.digest()`` of the config, or what was stored with one that cannot be read, or ""."""
        config = self.config
        return self._kept_digest if config is None else config.digest()


@attrs.frozen(kw_only=True, slots=False)  # made twice for every create
class AttemptRow(Value):
    """One create that was begun. It is durable, with its payload, before the first byte of the create is sent.

    Attributes:
        job_id: Whose it is.
        number: Counts from 1 for each job.
        try_number: Which try of the job it is for, >= 1.
        backend: Which service it went to.
        key_id: Fingerprint of the credential it was made with.
        payload: What the backend made of the config, opaque text, or "".
        began_at: When it was begun.
        answered_at: When its outcome was known, or None while it is not.
        outcome: What became of it, or None while that is not known (or was never recorded: the process died).
        task_id: The task that it made, or None.
        wait: Seconds that a refusal said to wait, or None.
        status: Status of the answer (HTTP), or None.
        answer: What was answered where the outcome is unknown, at most 64 KiB, the key masked, or "".
    """

    job_id: str
    number: int
    backend: str
    key_id: str
    began_at: datetime
    try_number: int = 1
    payload: str = ""
    answered_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    task_id: str | None = None
    wait: float | None = None
    status: int | None = None
    answer: str = ""


@attrs.frozen(kw_only=True)
class TaskRow(Value):
    """One task that was ever made for a job. A try may have several members, such as the three of a validated group.

    Attributes:
        job_id: Whose it is.
        try_number: Which try, >= 1.
        member: Which task of the try, >= 0; 0 is the one that the job's ``task_id`` names.
        backend: Which service has it.
        task_id: The service's name of it.
        made_at: When it was accepted (or attached).
        ended_at: When its end was noticed, or None.
        end: How it ended: a word of the backend, or "".
        reason: Why, as far as the service tells, or "".
        fee: What it may cost, in wei, >= 0, or None where the backend knows no price.
        spent: What it did cost, in wei, or None while that is not known.
    """

    job_id: str
    try_number: int
    member: int = 0
    backend: str
    task_id: str
    made_at: datetime
    ended_at: datetime | None = None
    end: str = ""
    reason: str = ""
    fee: int | None = None
    spent: int | None = None


@attrs.frozen(kw_only=True)
class JobChange(Value):
    """Everything that one transaction says about one job.

    Attributes:
        job_id: Which job.
        columns: Names of ``JobRow`` -> new values. Names, tenant, idempotency key and digest of a job never change; its
            config only to one with the same digest (another ``timeout``).
        finished: The attempt that ended, or None. An attempt without an outcome, or of unknown outcome, takes any; any
            other outcome is final.
        tasks: Tasks that are new or changed, by (try, member); each belongs to one job of its backend.
        steps: Steps that were done: their ``done_at`` and ``outcome``; what was frozen when they were planned stays.
        events: What happened, numbered on from the job's ``last_event``, whose new value must be among ``columns``.
        settlement: What becomes of what was reserved, or None.
        granted: Numbers of wishes of this job that were carried out (or refused): they are removed.
    """

    job_id: str
    columns: Mapping[str, Any] = attrs.field(factory=dict)
    finished: AttemptRow | None = None
    tasks: Sequence[TaskRow] = ()
    steps: "Sequence[StepRow]" = ()
    events: "Sequence[EventRow]" = ()
    settlement: "Settlement | None" = None
    granted: Sequence[int] = ()


def _can_be_asked(_: object, __: "attrs.Attribute[Any]", tags: Mapping[str, str]) -> None:
    if len(tags) > MOST_TAGS:
        raise UsageError(f"jobs can be asked for by {MOST_TAGS} tags at most, not by {len(tags):,}", field="tags")


@attrs.frozen(kw_only=True)
class JobFilter(Value):
    """Which jobs; every attribute that is given must fit.

    Attributes:
        job_ids: With one of these names.
        job_id_prefix: Whose name begins so.
        states: In one of these states.
        backend: Of this service.
        tenant: On behalf of this one; "" is a tenant of its own, None is any.
        task_id: With this task, newest or earlier.
        idempotency_key: With this key.
        label: With this label.
        label_prefix: Whose label begins so.
        group: Of this set.
        tags: With all of these tags.
        budget: Paid by this budget.
        has_error: Whether it has an error.
        since: Planned at or after this.
        after: Added after the job with this name: a cursor. None fits where there is no such job.
        before: Added before the job with this name: the cursor where the newest come first.

    Raises:
        UsageError: There are more than ``MOST_TAGS`` tags.
    """

    job_ids: Collection[str] | None = None
    job_id_prefix: str | None = None
    states: Collection[JobState] | None = None
    backend: str | None = None
    tenant: str | None = None
    task_id: str | None = None
    idempotency_key: str | None = None
    label: str | None = None
    label_prefix: str | None = None
    group: str | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict, validator=_can_be_asked)
    budget: str | None = None
    has_error: bool | None = None
    since: datetime | None = None
    after: str | None = None
    before: str | None = None
