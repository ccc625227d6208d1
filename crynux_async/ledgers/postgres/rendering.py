"""Statements in PostgreSQL's words, and their parameters in order."""

import functools
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy import Float
from sqlalchemy.dialects.postgresql.base import PGDDLCompiler
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg, PGDialect_psycopg
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.expression import ClauseElement, TextClause

from crynux_async.ledgers.sql.steps import Row

_PLACE = "__[SCHEMA__none]"  # what SQLAlchemy writes before a table's name, to be filled in by who runs the statement


class _Float(Float[float]):
    # Without a cast PostgreSQL takes a parameter that is only selected for text.
    render_bind_cast = True


class _Compiler(PGCompiler_psycopg):
    """Renders ON CONFLICT from SQLite's form of it, which has no constraint to name."""

    def visit_on_conflict_do_nothing(self, on_conflict: Any, **options: Any) -> Any:
        on_conflict.constraint_target = None
        return super().visit_on_conflict_do_nothing(on_conflict, **options)  # type: ignore[no-untyped-call]

    def visit_on_conflict_do_update(self, on_conflict: Any, **options: Any) -> Any:
        on_conflict.constraint_target = None
        return super().visit_on_conflict_do_update(on_conflict, **options)  # type: ignore[no-untyped-call]


class _DdlCompiler(PGDDLCompiler):
    """Renders indexes with the condition that the schema gives them as SQLite's."""

    def visit_create_index(self, create: Any, *arguments: Any, **options: Any) -> Any:
        chosen = create.element.dialect_options
        chosen["postgresql"]["where"] = chosen["sqlite"]["where"]
        return super().visit_create_index(create, *arguments, **options)  # type: ignore[no-untyped-call]


class _Dialect(PGDialect_psycopg):
    ddl_compiler = _DdlCompiler
    statement_compiler = _Compiler
    supports_statement_cache = True
    colspecs = {**PGDialect_psycopg.colspecs, Float: _Float}  # noqa: RUF012 - as its parent has it


class Rendered:
    """A statement, and how the values of a row are put in the order of its parameters.

    Attributes:
        sql: The statement, parameters as "$1".
        names: The names of its parameters, in order.
        fill: Returns the values for a row.
    """

    __slots__ = ("_values", "fill", "names", "sql")

    def __init__(self, sql: str, names: tuple[str, ...], values: Mapping[str, Any], *, is_in_row: bool) -> None:
        self.sql = sql
        self.names = names
        self._values = values
        self.fill: Callable[[Row], tuple[Any, ...]] = itemgetter(*names) if is_in_row and len(names) > 1 else self._fill

    def _fill(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] if name in row else self._values[name] for name in self.names)


class Renderer:
    """Renders statements for one schema; those that are run again and again are kept.

    Args:
        schema: The namespace of the tables. Every name is qualified with it: what a session has set, such as a search
            path, does not survive every pooler.
    """

    def __init__(self, schema: str) -> None:
        self.quoted_schema: str = _dialect().identifier_preparer.quote_identifier(schema)
        self._kept: dict[ClauseElement, Rendered] = {}

    def render(self, statement: ClauseElement | ExecutableDDLElement, *, keep: bool) -> Rendered:
        """Return a statement as it is sent.

        Args:
            statement: Which.
            keep: Whether it will be run again: its values come with a row.
        """
        rendered = self._kept.get(statement)
        if rendered is None:
            compiled = _kept(statement) if keep else _compiled(statement)
            rendered = _rendered(statement, compiled, self.quoted_schema)
            if keep:
                self._kept[statement] = rendered
        return rendered


def _rendered(statement: ClauseElement | ExecutableDDLElement, compiled: Any, schema: str) -> Rendered:
    sql = str(compiled).replace(_PLACE, schema)
    if isinstance(statement, ExecutableDDLElement):
        return Rendered(sql, (), {}, is_in_row=False)
    names = tuple(compiled.positiontup or ())
    is_in_row = all(name in compiled.binds and compiled.binds[name].required for name in names)
    return Rendered(sql, names, compiled.params or {}, is_in_row=is_in_row)


def _compiled(statement: ClauseElement | ExecutableDDLElement) -> Any:
    # Which schema makes no difference: what is written in its place is filled in later.
    return statement.compile(
        dialect=_dialect(),
        schema_translate_map=None if isinstance(statement, TextClause) else {None: ""},
        compile_kwargs={"render_postcompile": True},
    )


# The same for every ledger of the process: to compile the thirty statements of a session takes as long as to open it.
_kept = functools.cache(_compiled)


@functools.cache
def _dialect() -> PGDialect_psycopg:
    make: Any = _Dialect
    dialect: PGDialect_psycopg = make(paramstyle="numeric_dollar")
    return dialect
