"""How an older ledger becomes a current one, one version at a time, in the one transaction that opens it.

A new schema needs three things: the tables in ``schema``, ``schema.VERSION`` one higher, and here the step that leads
from the version before to it. A step is never changed once it was released. A new ledger is made from ``schema`` at
once.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import attrs
from sqlalchemy import Connection, insert, select, update

from crynux_async.errors import LedgerError
from crynux_async.ledgers.sql.schema import VERSION, meta, metadata

Migration: TypeAlias = Callable[[Connection], None]


@attrs.frozen(kw_only=True)
class SchemaPlan:
    """A schema and the way to it.

    Attributes:
        version: Where every ledger is brought.
        migrations: For each older version, the step that leads to the next one.
    """

    version: int
    migrations: Mapping[int, Migration]


CURRENT = SchemaPlan(version=VERSION, migrations=MappingProxyType({}))


def create(connection: Connection, plan: SchemaPlan) -> None:
    """Make the tables of a new ledger inside the transaction that is open."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(meta).values(name="version", value=str(plan.version)))


def migrate(connection: Connection, plan: SchemaPlan, path: str) -> None:
    """Bring a ledger up to date inside the transaction that is open.

    Raises:
        LedgerError: It was written by a newer version.
    """
    version = found = stored_version(connection, path)
    check_version(found, plan, path)
    while version < plan.version:
        plan.migrations[version](connection)
        version += 1
    if version != found:
        connection.execute(update(meta).where(meta.c.name == "version").values(value=str(version)))


def stored_version(connection: Connection, path: str) -> int:
    """Return the version of a ledger's schema.

    Raises:
        LedgerError: It has none.
    """
    text = connection.execute(select(meta.c.value).where(meta.c.name == "version")).scalar()
    return parse_version(text, path)


def parse_version(text: str | None, path: str) -> int:
    """Return the version that a ledger's ``meta`` table names.

    Raises:
        LedgerError: It names none.
    """
    if text is None or not text.isdecimal():
        raise LedgerError(f"{path} is damaged: it does not say the version of its schema; {KEEP_IT}", path=path)
    return int(text)


def check_version(found: int, plan: SchemaPlan, path: str) -> None:
    """Check that a ledger is not newer than this program.

    Raises:
        LedgerError: It is.
    """
    if found > plan.version:
        message = (
            f"{path} was written by a newer version of crynux_async: its schema has version {found}, and this one "
            f"knows versions up to {plan.version}; upgrade crynux_async. The file has not been changed"
        )
        raise LedgerError(message, path=path)


KEEP_IT = (
    "restore it from a backup, or move it aside and begin a new ledger "
    "(keep the damaged file: it names what was paid for). It has not been changed"
)
"""What to do about a damaged ledger."""
