"""SQL as text, one for both databases.

Theory of operation. SQLite and PostgreSQL understand nearly all statements of a ledger word for word, so they are
written out. Parameters have names (":job_id"), which each database gets in its own way (``Rendered``); whatever comes
from outside is the value of one, never a part of the text. What only PostgreSQL needs stands in a comment, such as
"/* FOR UPDATE */", from which it takes it out (``postgres.rendering``, which says what else differs there): SQLite
cannot lock rows, and learned RETURNING late.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, TypeAlias

import attrs

from crynux_async.ledgers.columns import Column

Row: TypeAlias = Mapping[str, Column]

PARAMETER = re.compile(r":(\w+)")
"""A parameter in a text."""

KEPT = 256
"""So many texts are kept as they were rendered: a session has some forty, and more where its questions change."""

_RESERVED = ("end", "group")


@attrs.frozen(eq=False)  # two are the same if they are one: that is what statements of many writes are joined by
class Sql:
    """A statement, or a part of one.

    Attributes:
        text: With parameters as ":name".
        values: Those of its parameters; {} where they come with a row, or where it has none.
    """

    text: str
    values: dict[str, Column] = attrs.field(factory=dict)

    def __add__(self, more: "Sql | str") -> "Sql":
        """Return both parts as one; they must not mean different things by one name."""
        if isinstance(more, str):
            return Sql(self.text + more, self.values)
        return Sql(self.text + more.text, {**self.values, **more.values})


class Rendered:
    """A statement as a database gets it, and how the values of a row are put in the order of its parameters.

    Attributes:
        sql: The statement.
        names: The names of its parameters, in order.
        fill: Returns the values for a row.
    """

    __slots__ = ("fill", "names", "sql")

    def __init__(self, sql: str, names: Iterable[str]) -> None:
        self.sql = sql
        self.names = tuple(names)
        # Of a single name an itemgetter returns the value alone.
        self.fill: Callable[[Row], tuple[Any, ...]] = itemgetter(*self.names) if len(self.names) > 1 else self._fill

    def _fill(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.names)


def matching(conditions: Iterable[Sql]) -> Sql:
    """Return the WHERE clause for all conditions together, or nothing where there are none."""
    found = Sql("")
    for condition in conditions:
        found = found + (" AND " if found.text else " WHERE ") + condition
    return found


def among(column: str, name: str, values: Collection[Column]) -> Sql:
    """Return the condition that a column is one of some values, each a parameter of its own: "name_0", "name_1" ..."""
    given = {f"{name}_{number}": value for number, value in enumerate(values)}
    # Nothing is equal to NULL, and PostgreSQL knows no empty list.
    return Sql(f"{column} IN ({', '.join(map(':{}'.format, given)) or 'NULL'})", given)


def limited(at_most: int | None) -> Sql:
    """Return the LIMIT clause, or nothing for None."""
    return Sql("") if at_most is None else Sql(" LIMIT :at_most", {"at_most": at_most})


def column(name: str) -> str:
    """Return the name of a column as statements write it."""
    return f'"{name}"' if name in _RESERVED else name


def listed(names: Iterable[str], table: str = "") -> str:
    """Return columns as a list, with their table's name before each where one is given."""
    before = f"{table}." if table else ""
    return ", ".join(before + column(name) for name in names)


def parameters(names: Iterable[str]) -> str:
    """Return a list of parameters with these names."""
    return ", ".join(f":{name}" for name in names)


def insert(table: str, names: Collection[str], conflict: str = "") -> Sql:
    """Return the INSERT of a row, a parameter for each column by its name; ``conflict`` is its ON CONFLICT clause."""
    return Sql(f"INSERT INTO {table} ({listed(names)}) VALUES ({parameters(names)}){conflict}")


def put(table: str, key: Collection[str], others: Collection[str]) -> Sql:
    """Return the INSERT that replaces what is there under the same primary key."""
    taken = ", ".join(f"{column(name)} = excluded.{column(name)}" for name in others)
    return insert(table, (*key, *others), f" ON CONFLICT ({listed(key)}) DO UPDATE SET {taken}")
