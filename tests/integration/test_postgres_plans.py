"""No question that is asked all the time goes through a large table as a whole in PostgreSQL either.

Asked of a ledger with twenty thousand jobs that have ended and a few that have not, with the statistics that the server
keeps by itself: statements whose values come with a row are planned without them, as those that sessions prepare.
"""

import asyncio
import re
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy.sql.expression import ClauseElement

from benchmarks.postgres_server import PostgresServer
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.postgres.rendering import Rendered, Renderer
from tests.integration.test_sql_ledger_plans import ASKED_ALL_THE_TIME, PARTS, SMALL

pytestmark = pytest.mark.real_time

ENDED, LIVE = 20_000, 200
_NODE = re.compile(r"Seq Scan on (\w+)|Index (?:Only )?Scan(?: Backward)? using (\w+)")

_FILL = """
INSERT INTO {s}.leases (owner, until, mark) SELECT 'host ' || n, 0, 0 FROM generate_series(1, 5) n;
INSERT INTO {s}.jobs (job_id, backend, key_id, digest, label, task_id, state, planned_at, is_seed_drawn, asked_digest,
    "group", tags, tenant, idempotency_key, budget, is_stopped, is_sent_by_any, tries, submitted_at, ended_at, error,
    reason, host, last_event, lease_id)
SELECT 'job' || n, 'https://bridge.example', 'key', 'd', 'sweep' || n % 1000 || '/' || n, n::text,
    CASE WHEN n <= {live} THEN 'running' ELSE 'downloaded' END, n * 1000000::bigint, 0, '', 'group' || n % 1000, '{{}}',
    'tenant' || n % 1000, 'key' || n, 'budget' || n % 1000, 0, 0, 1, n, CASE WHEN n <= {live} THEN NULL ELSE n END, '',
    '', '', 3, CASE WHEN n <= {live} THEN 1 + n % 5 END
FROM generate_series(1, {all}) n;
INSERT INTO {s}.configs (job_id, config) SELECT job_id, repeat('x', 600) FROM {s}.jobs;
INSERT INTO {s}.tags (job_id, name, value) SELECT job_id, 'sweep', "group" FROM {s}.jobs;
INSERT INTO {s}.attempts (job_id, number, backend, key_id, began_at, try_number, payload, outcome, task_id, answer,
    last_begun)
SELECT job_id, 1, backend, key_id, planned_at, 1, '', 'accepted', task_id, '', id FROM {s}.jobs;
INSERT INTO {s}.tasks (job_id, try_number, member, backend, task_id, made_at, "end", reason)
SELECT job_id, 1, 0, backend, task_id, planned_at, '', '' FROM {s}.jobs;
INSERT INTO {s}.steps (job_id, try_number, member, kind, arguments, planned_at, outcome)
SELECT job_id, 1, 0, 'create', '{{}}', planned_at, '' FROM {s}.jobs;
INSERT INTO {s}.events (job_id, number, at, kind, data)
SELECT job_id, e, planned_at, 'Happened', '{{}}' FROM {s}.jobs, generate_series(1, 3) e;
ANALYZE
"""


@pytest.fixture(scope="module")
def old_ledger(postgres: PostgresServer) -> Iterator[str]:
    """The schema of a ledger that is old."""
    schema = f"plans_{secrets.token_hex(6)}"

    async def make() -> None:
        ledger = PostgresLedger(postgres.url(schema=schema))
        await ledger.open()
        await ledger.close()

    asyncio.run(make())
    postgres.run(*_FILL.format(s=schema, live=LIVE, all=ENDED + LIVE).split(";"))
    yield schema
    postgres.run(f"DROP SCHEMA {schema} CASCADE")


def values_of(rendered: Rendered) -> tuple[Any, ...] | None:
    """Return the values that a statement has in itself, or None where they come with a row."""
    try:
        own = rendered.fill({})
    except KeyError:
        return None
    return None if None in own else own


def plan(connection: psycopg.Connection, schema: str, statement: ClauseElement) -> str:
    """Return how the server goes about a statement, as sessions send it: prepared, or with its values."""
    rendered = Renderer(schema).render(statement, keep=False)
    own = values_of(rendered)
    values = ["NULL"] * len(rendered.names) if own is None else [f"'{value}'" for value in own]
    mode = "force_generic_plan" if own is None else "force_custom_plan"
    connection.execute(f"SET plan_cache_mode = {mode}".encode())
    connection.execute(f"PREPARE asked AS {rendered.sql}".encode())
    given = f"({', '.join(values)})" if values else ""
    rows = connection.execute(f"EXPLAIN EXECUTE asked{given}".encode()).fetchall()
    connection.execute("DEALLOCATE asked")
    return "\n".join(line for (line,) in rows)


@pytest.mark.parametrize("name", ASKED_ALL_THE_TIME)
def test_question_that_is_asked_all_the_time_looks_up_what_it_wants(
    name: str, old_ledger: str, postgres: PostgresServer
) -> None:
    with psycopg.connect(postgres.url(), autocommit=True, prepare_threshold=None) as connection:
        lines = plan(connection, old_ledger, ASKED_ALL_THE_TIME[name])
    walked = {table for table, _ in _NODE.findall(lines) if table}
    assert walked <= {*SMALL, *PARTS, "gates", "budgets"}, lines
