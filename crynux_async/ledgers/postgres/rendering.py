"""Statements in PostgreSQL's words, and their parameters in order.

Theory of operation. A statement is a text that SQLite takes as it stands but for its parameters (``sql.text``). In
PostgreSQL these are numbered, what stands in comments counts, and the names of tables are qualified: what a session has
set, such as a search path, does not survive every pooler. In the statements that make tables, the types are other ones:
the numbers of rows come from sequences, and text has to be told to compare byte by byte. A parameter needs no type: the
server takes that of the column that it is compared with or stored in.
"""

import functools
import re
from collections.abc import Callable

from crynux_async.ledgers.sql.schema import TABLES
from crynux_async.ledgers.sql.text import KEPT, PARAMETER, Rendered

_COMMENT = re.compile(r"/\*(.*?)\*/")
_TABLE = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|TABLE|REFERENCES|INDEX \w+ ON) (?=(?:{'|'.join(TABLES)})\b)")
_TYPES = {
    "INTEGER": "BIGSERIAL",
    " AUTOINCREMENT": "",
    "TEXT": 'TEXT COLLATE "C"',
    " WITHOUT ROWID": "",
}
_TYPE = re.compile("|".join(_TYPES))


class Renderer:
    """Renders statements for one schema; the newest are kept.

    Args:
        schema: The namespace of the tables.

    Attributes:
        quoted_schema: Its name as statements write it.
        render: Returns the text of a statement as it is sent.
    """

    def __init__(self, schema: str) -> None:
        self.quoted_schema = '"{}"'.format(schema.replace('"', '""'))
        self.render: Callable[[str], Rendered] = functools.lru_cache(KEPT)(self._rendered)

    def _rendered(self, text: str) -> Rendered:
        names: dict[str, str] = {}
        text = _COMMENT.sub(r"\1", text)
        text = _TABLE.sub(rf"\g<0>{self.quoted_schema}.", text)
        text = _TYPE.sub(lambda found: _TYPES[found[0]], text)
        sql = PARAMETER.sub(lambda found: names.setdefault(found[1], f"${len(names) + 1}"), text)
        return Rendered(sql, names)
