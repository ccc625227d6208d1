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

The statements are in SQLite's words: only there "INTEGER" is the number of a row, which the database gives
(``postgres.rendering`` has PostgreSQL's). A column is added with a new ``VERSION`` and a step in ``migrations``.
"""

import re

from crynux_async.ledgers.base import AttemptOutcome

VERSION = 3
"""Version of the schema that this file describes; ``migrations`` leads up to it."""

APPLICATION_ID = 0x43727578
"""What tells a SQLite file of ours from any other ("Crux"), in the header of the file."""

MOVED = "moved"
"""The row of ``meta`` that says where a ledger was moved: from then on it opens no more."""

MANY_EVENTS = 100
"""Jobs with more events stand in an index of their own."""

OPEN_ATTEMPT = f"outcome IS NULL OR outcome = '{AttemptOutcome.UNKNOWN.value}'"
"""The condition under which an index knows an attempt: it has no final outcome."""

_SCHEMA = f"""
CREATE TABLE meta (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);

-- A number is never used again: who slept through the end of a lease must not come under the next one. The mark is what
-- the newest transaction of its owner left here, where a commit's answer can get lost.
CREATE TABLE leases (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    until BIGINT NOT NULL,
    mark BIGINT NOT NULL
);

CREATE TABLE jobs (
    id INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    backend TEXT NOT NULL,
    key_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    label TEXT NOT NULL,
    task_id TEXT,
    state TEXT NOT NULL,
    planned_at BIGINT NOT NULL,
    is_seed_drawn BIGINT NOT NULL,
    asked_digest TEXT NOT NULL,
    "group" TEXT NOT NULL,
    tags TEXT NOT NULL,
    tenant TEXT NOT NULL,
    idempotency_key TEXT,
    budget TEXT NOT NULL,
    is_stopped BIGINT NOT NULL,
    is_sent_by_any BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    submitted_at BIGINT,
    ended_at BIGINT,
    error TEXT NOT NULL,
    reason TEXT NOT NULL,
    folder TEXT,
    file_name TEXT,
    path TEXT,
    host TEXT NOT NULL,
    total_bytes BIGINT,
    last_event BIGINT NOT NULL,
    resubmitted_as TEXT,
    lease_id BIGINT,
    error_facts TEXT DEFAULT '{{}}' NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT jobs_job_id UNIQUE (job_id),
    CONSTRAINT jobs_task_id UNIQUE (task_id, backend),
    CONSTRAINT jobs_idempotency_key UNIQUE (idempotency_key, backend, tenant),
    FOREIGN KEY(lease_id) REFERENCES leases (id)
);
CREATE INDEX jobs_free ON jobs (state, backend, lease_id);
CREATE INDEX jobs_free_wanted ON jobs (state, backend, lease_id) WHERE folder IS NOT NULL;
CREATE INDEX jobs_lease ON jobs (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX jobs_label ON jobs (label) WHERE label != '';
CREATE INDEX jobs_group ON jobs ("group") WHERE "group" != '';
CREATE INDEX jobs_tenant ON jobs (tenant) WHERE tenant != '';
CREATE INDEX jobs_budget ON jobs (budget) WHERE budget != '';
CREATE INDEX jobs_planned_at ON jobs (planned_at);

CREATE TABLE configs (
    job_id TEXT NOT NULL,
    config TEXT NOT NULL,
    PRIMARY KEY (job_id),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);

CREATE TABLE tags (
    job_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (job_id, name),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
) WITHOUT ROWID;
CREATE INDEX tags_value ON tags (name, value, job_id);

-- last_begun is the last attempt that had begun when this one was finished: the order of events without any clock.
CREATE TABLE attempts (
    id INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    backend TEXT NOT NULL,
    key_id TEXT NOT NULL,
    began_at BIGINT NOT NULL,
    try_number BIGINT NOT NULL,
    payload TEXT NOT NULL,
    answered_at BIGINT,
    outcome TEXT,
    task_id TEXT,
    wait FLOAT,
    status BIGINT,
    answer TEXT NOT NULL,
    last_begun BIGINT,
    PRIMARY KEY (id),
    CONSTRAINT attempts_number UNIQUE (job_id, number),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
CREATE INDEX attempts_time ON attempts (backend, key_id, began_at);
CREATE INDEX attempts_answered ON attempts (backend, last_begun) WHERE task_id IS NOT NULL;
CREATE INDEX attempts_open ON attempts (backend) WHERE {OPEN_ATTEMPT};

CREATE TABLE tasks (
    job_id TEXT NOT NULL,
    try_number BIGINT NOT NULL,
    member BIGINT NOT NULL,
    backend TEXT NOT NULL,
    task_id TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    ended_at BIGINT,
    "end" TEXT NOT NULL,
    reason TEXT NOT NULL,
    fee_cnx BIGINT,
    fee_wei BIGINT,
    spent_cnx BIGINT,
    spent_wei BIGINT,
    PRIMARY KEY (job_id, try_number, member),
    CONSTRAINT tasks_task_id UNIQUE (task_id, backend),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
) WITHOUT ROWID;

CREATE TABLE steps (
    id INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    try_number BIGINT NOT NULL,
    member BIGINT NOT NULL,
    kind TEXT NOT NULL,
    arguments TEXT NOT NULL,
    fee_cnx BIGINT,
    fee_wei BIGINT,
    planned_at BIGINT NOT NULL,
    done_at BIGINT,
    outcome TEXT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT steps_kind UNIQUE (job_id, try_number, member, kind),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);

CREATE TABLE events (
    job_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job_id, number),
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
) WITHOUT ROWID;
CREATE INDEX events_at ON events (at);
-- The few jobs with many events, so that trimming them needs no walk over all.
CREATE INDEX events_many ON events (job_id, number) WHERE number > {MANY_EVENTS};

CREATE TABLE wishes (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    arguments TEXT NOT NULL,
    at BIGINT NOT NULL,
    FOREIGN KEY(job_id) REFERENCES jobs (job_id)
);
CREATE INDEX wishes_job ON wishes (job_id);

CREATE TABLE budgets (
    name TEXT NOT NULL,
    limit_cnx BIGINT NOT NULL,
    limit_wei BIGINT NOT NULL,
    held_cnx BIGINT NOT NULL,
    held_wei BIGINT NOT NULL,
    spent_cnx BIGINT NOT NULL,
    spent_wei BIGINT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE gates (
    backend TEXT NOT NULL,
    key_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    PRIMARY KEY (backend, key_id)
);

CREATE TABLE hazards (
    backend TEXT NOT NULL,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (backend, kind)
);

CREATE TABLE notes (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (scope, name)
);
"""

MAKING: tuple[str, ...] = tuple(filter(None, map(str.strip, _SCHEMA.split(";"))))
"""What makes the tables and indexes, one by one."""

TABLES: tuple[str, ...] = tuple(re.findall(r"CREATE TABLE (\w+)", _SCHEMA))
"""The names of the tables, none before those that it refers to."""
