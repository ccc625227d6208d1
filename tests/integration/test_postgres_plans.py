"""No question that is asked all the time goes through a large table as a whole in PostgreSQL either.

Asked of a ledger with twenty thousand jobs that have ended and a few that have not, with the statistics that the server
keeps by itself: statements whose values come with a row are planned without them, as those that sessions prepare.
"""

import asyncio
import re
import secrets
from collections.abc import Iterator

import psycopg
import pytest

from benchmarks.old_ledger import fill
from benchmarks.postgres_server import PostgresServer
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.postgres.rendering import Renderer
from crynux_async.ledgers.sql.text import Sql
from tests.integration.test_sql_ledger_plans import ASKED_ALL_THE_TIME, PARTS, SMALL

pytestmark = pytest.mark.real_time

ENDED, LIVE = 20_000, 200
_NODE = re.compile(r"Seq Scan on (\w+)|Index (?:Only )?Scan(?: Backward)? using (\w+)")


@pytest.fixture(scope="module")
def old_ledger(postgres: PostgresServer) -> Iterator[str]:
    """The schema of a ledger that is old."""
    schema = f"plans_{secrets.token_hex(6)}"

    async def make() -> None:
        ledger = PostgresLedger(postgres.url(schema=schema))
        await ledger.open()
        await ledger.close()

    asyncio.run(make())
    # Long ago, so that questions about what was planned since a time are about few.
    times = {"newest": float(ENDED + LIVE)}
    fill(postgres, schema, ended=ENDED, live=LIVE, backend="https://bridge.example", key_id="key", **times)
    yield schema
    postgres.run(f"DROP SCHEMA {schema} CASCADE")


def plan(connection: psycopg.Connection, schema: str, statement: Sql) -> str:
    """Return how the server goes about a statement, as sessions send it: prepared, or with its values."""
    rendered = Renderer(schema).render(statement.text)
    comes_with_a_row = bool(rendered.names) and not statement.values
    values = ["NULL" if comes_with_a_row else f"'{statement.values[name]}'" for name in rendered.names]
    mode = "force_generic_plan" if comes_with_a_row else "force_custom_plan"
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
