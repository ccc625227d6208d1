"""The tables of a ledger in a database, the same in SQLite and PostgreSQL.

Theory of operation. Only text, whole numbers and floats: no type here means something else in another database, and
text compares byte by byte in both. ``jobs`` is narrow, because a claim writes every row of it; the configs, written
once and four times as large, have a table of their own.

A lease is a row, so that renewing ten thousand jobs writes one row; a job names its lease by number, or none. What
hangs on a job names it by its ``job_id``. Every index stands for a question that is asked while a ledger holds a
million jobs that ended: what is free, what a lease holds, what a task, key, label, group or tag belongs to, which
attempts are open. Where most jobs have no value, the index leaves them out; a query must then say so too
(``filters``, sqlite.org/partialindex.html section 3).

Money is two columns, whole CNX and the wei beyond (``money``): exact, and comparable inside one statement.

A column is added with a new ``VERSION`` and a step in ``migrations``.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from crynux_async.ledgers.base import AttemptOutcome

VERSION = 3
"""Version of the schema that this file describes; ``migrations`` leads up to it."""

APPLICATION_ID = 0x43727578
"""What tells a SQLite file of ours from any other ("Crux"), in the header of the file."""

MOVED = "moved"
"""The row of ``meta`` that says where a ledger was moved: from then on it opens no more."""

MANY_EVENTS = 100
"""Jobs with more events stand in an index of their own."""

metadata = MetaData()

_BIG = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER PRIMARY KEY is SQLite's own row number
_TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")


def _number(name: str = "id") -> Column[int]:
    return Column(name, _BIG, primary_key=True, autoincrement=True)


def _text(name: str) -> Column[str]:
    return Column(name, _TEXT, nullable=False)


def _maybe_text(name: str) -> Column[str]:
    return Column(name, _TEXT)


def _whole(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _maybe_whole(name: str) -> Column[int]:
    return Column(name, BigInteger)


def _job(*, primary_key: bool = False) -> Column[str]:
    return Column("job_id", _TEXT, ForeignKey("jobs.job_id"), primary_key=primary_key, nullable=False)


def _index(name: str, *columns: str, where: str = "") -> Index:
    # Not as PostgreSQL's option, too: it would load that dialect in every process. Its rendering takes it from here.
    return Index(name, *columns, sqlite_where=text(where) if where else None)


meta = Table(
    "meta",
    metadata,
    Column("name", _TEXT, primary_key=True),
    _text("value"),
)

leases = Table(
    "leases",
    metadata,
    _number(),
    _text("owner"),
    _whole("until"),
    # What the newest transaction of its owner left here, where a commit's answer can get lost.
    _whole("mark"),
    # A number is never used again: who slept through the end of a lease must not come under the next one.
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    _number(),
    _text("job_id"),
    _text("backend"),
    _text("key_id"),
    _text("digest"),
    _text("label"),
    _maybe_text("task_id"),
    _text("state"),
    _whole("planned_at"),
    _whole("is_seed_drawn"),
    _text("asked_digest"),
    _text("group"),
    _text("tags"),
    _text("tenant"),
    _maybe_text("idempotency_key"),
    _text("budget"),
    _whole("is_stopped"),
    _whole("is_sent_by_any"),
    _whole("tries"),
    _maybe_whole("submitted_at"),
    _maybe_whole("ended_at"),
    _text("error"),
    _text("reason"),
    _maybe_text("folder"),
    _maybe_text("file_name"),
    _maybe_text("path"),
    _text("host"),
    _maybe_whole("total_bytes"),
    _whole("last_event"),
    _maybe_text("resubmitted_as"),
    Column("lease_id", BigInteger, ForeignKey("leases.id")),
    Column("error_facts", _TEXT, nullable=False, server_default="{}"),
    UniqueConstraint("job_id", name="jobs_job_id"),
    UniqueConstraint("task_id", "backend", name="jobs_task_id"),
    UniqueConstraint("idempotency_key", "backend", "tenant", name="jobs_idempotency_key"),
    _index("jobs_free", "state", "backend", "lease_id"),
    _index("jobs_free_wanted", "state", "backend", "lease_id", where="folder IS NOT NULL"),
    _index("jobs_lease", "lease_id", where="lease_id IS NOT NULL"),
    _index("jobs_label", "label", where="label != ''"),
    _index("jobs_group", "group", where="\"group\" != ''"),
    _index("jobs_tenant", "tenant", where="tenant != ''"),
    _index("jobs_budget", "budget", where="budget != ''"),
    _index("jobs_planned_at", "planned_at"),
)

configs = Table(
    "configs",
    metadata,
    _job(primary_key=True),
    _text("config"),
)

tags = Table(
    "tags",
    metadata,
    _job(primary_key=True),
    Column("name", _TEXT, primary_key=True),
    _text("value"),
    _index("tags_value", "name", "value", "job_id"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    _number(),
    _job(),
    _whole("number"),
    _text("backend"),
    _text("key_id"),
    _whole("began_at"),
    _whole("try_number"),
    _text("payload"),
    _maybe_whole("answered_at"),
    _maybe_text("outcome"),
    _maybe_text("task_id"),
    Column("wait", Float),
    _maybe_whole("status"),
    _text("answer"),
    # The last attempt that had begun when this one was finished: the order of events without any clock.
    _maybe_whole("last_begun"),
    UniqueConstraint("job_id", "number", name="attempts_number"),
    _index("attempts_time", "backend", "key_id", "began_at"),
    _index("attempts_answered", "backend", "last_begun", where="task_id IS NOT NULL"),
    _index("attempts_open", "backend", where=f"outcome IS NULL OR outcome = '{AttemptOutcome.UNKNOWN.value}'"),
)

tasks = Table(
    "tasks",
    metadata,
    _job(primary_key=True),
    Column("try_number", BigInteger, primary_key=True),
    Column("member", BigInteger, primary_key=True),
    _text("backend"),
    _text("task_id"),
    _whole("made_at"),
    _maybe_whole("ended_at"),
    _text("end"),
    _text("reason"),
    _maybe_whole("fee_cnx"),
    _maybe_whole("fee_wei"),
    _maybe_whole("spent_cnx"),
    _maybe_whole("spent_wei"),
    UniqueConstraint("task_id", "backend", name="tasks_task_id"),
    sqlite_with_rowid=False,
)

steps = Table(
    "steps",
    metadata,
    _number(),
    _job(),
    _whole("try_number"),
    _whole("member"),
    _text("kind"),
    _text("arguments"),
    _maybe_whole("fee_cnx"),
    _maybe_whole("fee_wei"),
    _whole("planned_at"),
    _maybe_whole("done_at"),
    _text("outcome"),
    UniqueConstraint("job_id", "try_number", "member", "kind", name="steps_kind"),
)

events = Table(
    "events",
    metadata,
    _job(primary_key=True),
    Column("number", BigInteger, primary_key=True),
    _whole("at"),
    _text("kind"),
    _text("data"),
    _index("events_at", "at"),
    # The few jobs with many events, so that trimming them needs no walk over all.
    _index("events_many", "job_id", "number", where=f"number > {MANY_EVENTS}"),
    sqlite_with_rowid=False,
)

wishes = Table(
    "wishes",
    metadata,
    _number("number"),
    _job(),
    _text("kind"),
    _text("arguments"),
    _whole("at"),
    _index("wishes_job", "job_id"),
    sqlite_autoincrement=True,
)

budgets = Table(
    "budgets",
    metadata,
    Column("name", _TEXT, primary_key=True),
    _whole("limit_cnx"),
    _whole("limit_wei"),
    _whole("held_cnx"),
    _whole("held_wei"),
    _whole("spent_cnx"),
    _whole("spent_wei"),
)

gates = Table(
    "gates",
    metadata,
    Column("backend", _TEXT, primary_key=True),
    Column("key_id", _TEXT, primary_key=True),
    _text("boot_id"),
    _text("snapshot"),
)

hazards = Table(
    "hazards",
    metadata,
    Column("backend", _TEXT, primary_key=True),
    Column("kind", _TEXT, primary_key=True),
    _text("value"),
)

notes = Table(
    "notes",
    metadata,
    Column("scope", _TEXT, primary_key=True),
    Column("name", _TEXT, primary_key=True),
    _text("value"),
)
