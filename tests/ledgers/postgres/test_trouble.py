"""What PostgreSQL and the network say becomes one sentence that says what to do."""

import psycopg
import pytest

from crynux_async.errors import LedgerBusyError
from crynux_async.ledgers.postgres.trouble import explain

# As libpq 17 words it, for one address and for two.
REFUSED = 'connection to server at "127.0.0.1", port 1 failed: Connection refused'
QUESTION = "\tIs the server running on that host and accepting TCP/IP connections?"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"connection failed: {REFUSED}\n{QUESTION}\n", f"connection failed: {REFUSED}"),
        (f"{REFUSED}\n{QUESTION}\nall hosts failed", f"{REFUSED} all hosts failed"),
    ],
)
def test_question_of_the_driver_is_no_part_of_the_sentence(said: str, told: str) -> None:
    error = explain(psycopg.OperationalError(said), "postgresql://db.example/app")
    assert isinstance(error, LedgerBusyError)
    assert str(error) == (
        f"postgresql://db.example/app cannot be used now, and nothing was stored: {told}; it works again when that has "
        "passed or is put right"
    )
