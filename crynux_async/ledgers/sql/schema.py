"""The tables of a ledger in a database, the same in SQLite and PostgreSQL.

Only text, whole numbers and floats: no type here means something else in another database. ``jobs`` is narrow, because
a claim writes every row of it; the configs, written once and four times as large, have a table of their own. A lease is
a row of its own too, so that renewing ten thousand of them writes one row.
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
)

VERSION = 1
"""Version of the schema that this file describes; ``migrations`` leads up to it."""

APPLICATION_ID = 0x43727578
"""What tells a SQLite file of ours from any other ("Crux"), in the header of the file."""

metadata = MetaData()

_BIG = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER PRIMARY KEY is SQLite's own row number


def _number_column() -> Column[int]:
    return Column("id", _BIG, primary_key=True, autoincrement=True)


meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    _number_column(),
    Column("owner", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
    UniqueConstraint("owner", name="leases_owner"),
    # A number is never used again: a job that still names a lease given back must not come under the next one.
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    _number_column(),
    Column("job_id", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("task_id", BigInteger),
    Column("state", Text, nullable=False),
    Column("planned_at", BigInteger, nullable=False),
    Column("submitted_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("error", Text, nullable=False),
    Column("folder", Text),
    Column("file_name", Text),
    Column("path", Text),
    Column("total_bytes", BigInteger),
    Column("resubmitted_as", Text),
    Column("lease_id", BigInteger),
    UniqueConstraint("job_id", name="jobs_job_id"),
    UniqueConstraint("backend", "task_id", name="jobs_task_id"),
    Index("jobs_state", "backend", "state"),
    Index("jobs_lease", "lease_id"),
)

configs = Table(
    "configs",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.job_id"), primary_key=True),
    Column("config", Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    _number_column(),
    Column("job_id", Text, ForeignKey("jobs.job_id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("backend", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("began_at", BigInteger, nullable=False),
    Column("answered_at", BigInteger),
    Column("outcome", Text),
    Column("task_id", BigInteger),
    Column("wait", Float),
    Column("status", BigInteger),
    Column("answer", Text, nullable=False),
    # The last attempt that had begun when this one was finished: the order of events without any clock.
    Column("last_begun", BigInteger),
    UniqueConstraint("job_id", "number", name="attempts_number"),
    Index("attempts_time", "backend", "key_id", "began_at"),
    Index("attempts_task_id", "backend", "task_id"),
)

gates = Table(
    "gates",
    metadata,
    Column("backend", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("boot_id", Text, nullable=False),
    Column("snapshot", Text, nullable=False),
)

hazards = Table(
    "hazards",
    metadata,
    Column("backend", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
