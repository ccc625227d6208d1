"""From version 1 of the schema (crynux_async 0.1.0, SQLite only) to version 2.

Task ids become text, and every task gets a row of its own; attempts get the number of their try and a payload; jobs get
everything by which they are found from elsewhere; leases become fences. Nothing is lost: names, order, times, texts and
outcomes stay as they are. Of what version 1 did not know, it is assumed that every seed was given by the user, and that
each job had one try.

Jobs of a backend that was no bridge stand under the address of their session's bridge, as version 1 stored them: they
are found by a backend with that name.
"""

from datetime import UTC, datetime, timedelta

from crynux_async.errors import LedgerError
from crynux_async.ledgers.sql.connection import Connection
from crynux_async.ledgers.sql.text import Sql

_TABLES = (
    """
    CREATE TABLE budgets (name TEXT NOT NULL, limit_cnx BIGINT NOT NULL, limit_wei BIGINT NOT NULL, held_cnx
    BIGINT NOT NULL, held_wei BIGINT NOT NULL, spent_cnx BIGINT NOT NULL, spent_wei BIGINT NOT NULL, PRIMARY KEY
    (name))
    """,
    """
    CREATE TABLE leases (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, until BIGINT NOT NULL,
    mark BIGINT NOT NULL)
    """,
    """
    CREATE TABLE notes (scope TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (scope, name))
    """,
    """
    CREATE TABLE jobs (id INTEGER NOT NULL, job_id TEXT NOT NULL, backend TEXT NOT NULL, key_id TEXT NOT NULL,
    digest TEXT NOT NULL, label TEXT NOT NULL, task_id TEXT, state TEXT NOT NULL, planned_at BIGINT NOT NULL,
    is_seed_drawn BIGINT NOT NULL, asked_digest TEXT NOT NULL, "group" TEXT NOT NULL, tags TEXT NOT NULL, tenant
    TEXT NOT NULL, idempotency_key TEXT, budget TEXT NOT NULL, is_stopped BIGINT NOT NULL, is_sent_by_any BIGINT
    NOT NULL, tries BIGINT NOT NULL, submitted_at BIGINT, ended_at BIGINT, error TEXT NOT NULL, reason TEXT NOT
    NULL, folder TEXT, file_name TEXT, path TEXT, host TEXT NOT NULL, total_bytes BIGINT, last_event BIGINT NOT
    NULL, resubmitted_as TEXT, lease_id BIGINT, PRIMARY KEY (id), CONSTRAINT jobs_job_id UNIQUE (job_id),
    CONSTRAINT jobs_task_id UNIQUE (task_id, backend), CONSTRAINT jobs_idempotency_key UNIQUE (idempotency_key,
    backend, tenant), FOREIGN KEY(lease_id) REFERENCES leases (id))
    """,
    "CREATE INDEX jobs_budget ON jobs (budget) WHERE budget != ''",
    "CREATE INDEX jobs_free ON jobs (state, backend, lease_id)",
    "CREATE INDEX jobs_free_wanted ON jobs (state, backend, lease_id) WHERE folder IS NOT NULL",
    'CREATE INDEX jobs_group ON jobs ("group") WHERE "group" != \'\'',
    "CREATE INDEX jobs_label ON jobs (label) WHERE label != ''",
    "CREATE INDEX jobs_lease ON jobs (lease_id) WHERE lease_id IS NOT NULL",
    "CREATE INDEX jobs_planned_at ON jobs (planned_at)",
    "CREATE INDEX jobs_tenant ON jobs (tenant) WHERE tenant != ''",
    """
    CREATE TABLE attempts (id INTEGER NOT NULL, job_id TEXT NOT NULL, number BIGINT NOT NULL, backend TEXT NOT
    NULL, key_id TEXT NOT NULL, began_at BIGINT NOT NULL, try_number BIGINT NOT NULL, payload TEXT NOT NULL,
    answered_at BIGINT, outcome TEXT, task_id TEXT, wait FLOAT, status BIGINT, answer TEXT NOT NULL, last_begun
    BIGINT, PRIMARY KEY (id), CONSTRAINT attempts_number UNIQUE (job_id, number), FOREIGN KEY(job_id) REFERENCES
    jobs (job_id))
    """,
    "CREATE INDEX attempts_answered ON attempts (backend, last_begun) WHERE task_id IS NOT NULL",
    "CREATE INDEX attempts_open ON attempts (backend) WHERE outcome IS NULL OR outcome = 'unknown'",
    "CREATE INDEX attempts_time ON attempts (backend, key_id, began_at)",
    """
    CREATE TABLE configs (job_id TEXT NOT NULL, config TEXT NOT NULL, PRIMARY KEY (job_id), FOREIGN KEY(job_id)
    REFERENCES jobs (job_id))
    """,
    """
    CREATE TABLE events (job_id TEXT NOT NULL, number BIGINT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL, PRIMARY KEY (job_id, number), FOREIGN KEY(job_id) REFERENCES jobs (job_id)) WITHOUT ROWID
    """,
    "CREATE INDEX events_at ON events (at)",
    "CREATE INDEX events_many ON events (job_id, number) WHERE number > 100",
    """
    CREATE TABLE steps (id INTEGER NOT NULL, job_id TEXT NOT NULL, try_number BIGINT NOT NULL, member BIGINT NOT
    NULL, kind TEXT NOT NULL, arguments TEXT NOT NULL, fee_cnx BIGINT, fee_wei BIGINT, planned_at BIGINT NOT NULL,
    done_at BIGINT, outcome TEXT NOT NULL, PRIMARY KEY (id), CONSTRAINT steps_kind UNIQUE (job_id, try_number,
    member, kind), FOREIGN KEY(job_id) REFERENCES jobs (job_id))
    """,
    """
    CREATE TABLE tags (job_id TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (job_id, name),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)) WITHOUT ROWID
    """,
    "CREATE INDEX tags_value ON tags (name, value, job_id)",
    """
    CREATE TABLE tasks (job_id TEXT NOT NULL, try_number BIGINT NOT NULL, member BIGINT NOT NULL, backend TEXT NOT
    NULL, task_id TEXT NOT NULL, made_at BIGINT NOT NULL, ended_at BIGINT, "end" TEXT NOT NULL, reason TEXT NOT
    NULL, fee_cnx BIGINT, fee_wei BIGINT, spent_cnx BIGINT, spent_wei BIGINT, PRIMARY KEY (job_id, try_number,
    member), CONSTRAINT tasks_task_id UNIQUE (task_id, backend), FOREIGN KEY(job_id) REFERENCES jobs (job_id))
    WITHOUT ROWID
    """,
    """
    CREATE TABLE wishes (number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, kind TEXT NOT
    NULL, arguments TEXT NOT NULL, at BIGINT NOT NULL, FOREIGN KEY(job_id) REFERENCES jobs (job_id))
    """,
    "CREATE INDEX wishes_job ON wishes (job_id)",
)

_MOVE_AWAY = (
    "DROP TABLE leases",
    "DROP INDEX jobs_state",
    "DROP INDEX jobs_lease",
    "DROP INDEX attempts_task_id",
    "DROP INDEX attempts_time",
    "ALTER TABLE jobs RENAME TO old_jobs",
    "ALTER TABLE configs RENAME TO old_configs",
    "ALTER TABLE attempts RENAME TO old_attempts",
)

_COPY = (
    """
    INSERT INTO jobs (id, job_id, backend, key_id, digest, label, task_id, state, planned_at, submitted_at, ended_at,
    error, folder, file_name, path, total_bytes, resubmitted_as, is_seed_drawn, asked_digest, "group", tags, tenant,
    budget, is_stopped, is_sent_by_any, tries, reason, host, last_event)
    SELECT id, job_id, backend, key_id, digest, label, CAST(task_id AS TEXT), state, planned_at, submitted_at, ended_at,
    error, folder, file_name, path, total_bytes, resubmitted_as, 0, '', '', '{}', '',
    '', 0, 0, 1, '', '', 0
    FROM old_jobs ORDER BY id
    """,
    "INSERT INTO configs (job_id, config) SELECT job_id, config FROM old_configs",
    """
    INSERT INTO attempts (id, job_id, number, backend, key_id, began_at, try_number, payload, answered_at, outcome,
    task_id, wait, status, answer, last_begun)
    SELECT id, job_id, number, backend, key_id, began_at, 1, '', answered_at, outcome,
    CAST(task_id AS TEXT), wait, status, answer, last_begun
    FROM old_attempts ORDER BY id
    """,
    """
    INSERT INTO tasks (job_id, try_number, member, backend, task_id, made_at, ended_at, "end", reason)
    SELECT job_id, 1, 0, backend, CAST(task_id AS TEXT), coalesce(submitted_at, planned_at), ended_at, '', ''
    FROM old_jobs WHERE task_id IS NOT NULL
    """,
)

_REMOVE_OLD = ("DROP TABLE old_configs", "DROP TABLE old_attempts", "DROP TABLE old_jobs")


async def migrate_to_version_2(connection: Connection, path: str, now: int) -> None:
    """Bring a ledger of version 1 to version 2 inside the transaction that is open.

    Args:
        connection: To the ledger.
        path: Its name, for messages.
        now: The time in microseconds since 1970.

    Raises:
        LedgerError: A process of version 1 is at work on it.
    """
    living = await connection.fetch(Sql("SELECT owner, until FROM leases WHERE until >= :now", {"now": now}))
    if living:
        raise _in_use(path, max(living, key=lambda row: int(row[1])))
    for statement in (*_MOVE_AWAY, *_TABLES, *_COPY, *_REMOVE_OLD):
        await connection.run(Sql(statement))


def _in_use(path: str, lease: tuple[str, int]) -> LedgerError:
    owner, until = lease
    end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=until)
    message = (
        f"{path} is in use by crynux_async 0.1.0 ({owner}, until {end:%Y-%m-%d %H:%M:%S} UTC at least), which cannot "
        "read what this version writes: end that program, or wait until then, and open the ledger again. It has not "
        "been changed"
    )
    return LedgerError(message, path=path)
