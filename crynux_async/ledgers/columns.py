"""Between the rows of a ledger and plain column values: text, whole numbers, floats, and None.

Times are whole microseconds since 1970 in UTC, so that they compare alike in every database. A config is the JSON text
of ``FineTuneConfig.to_dict()``; other JSON is written one way only (keys sorted, no spaces), so that equal values are
equal texts. Money is whole wei of any size; a database splits it. What has the wrong type is refused here, before
anything is written.
"""

import functools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import compress
from operator import attrgetter, is_not
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import attrs

from crynux_async.errors import ConfigError, LedgerError
from crynux_async.ledgers.base import AttemptOutcome, JobRow
from crynux_async.money import WEI
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.keeping import as_config, is_kept
from crynux_async.values import Value

Column: TypeAlias = str | int | float | None
_T = TypeVar("_T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY, _SECOND = 86_400, 1_000_000  # in seconds, and in microseconds
_LARGEST = 2**63 - 1  # databases keep signed integers of 64 bits
_TOO_MUCH = 2**60 * WEI  # wei; the sum of a few amounts must fit into 64 bits of whole CNX
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_CONFIG_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_FIXED = ("job_id", "digest", "tenant", "idempotency_key")
_EMPTY: Mapping[str, str] = attrs.fields(JobRow).tags.default or {}


@attrs.frozen
class Kind(Value):
    """How one kind of value becomes a column value and comes back.

    Attributes:
        encode: Raises TypeError or ValueError where the value is of another kind.
        decode: None where a column value is the value itself.
        check: Raises as ``encode`` does, for less than that takes; None where it is no less.
    """

    encode: Callable[[Any], Column]
    decode: Callable[[Any], Any] | None = None
    check: Callable[[Any], object] | None = None


def to_json(value: Any) -> str:
    """Return a value as JSON text; equal values give equal texts.

    Raises:
        LedgerError: It is not JSON.
    """
    try:
        return _json(value)
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{value!r:.100} cannot be stored as JSON: {error}") from error


def to_microseconds(value: Any) -> int:
    """Return an aware time as whole microseconds since 1970.

    Raises:
        TypeError: It is no time, or one without a time zone.
    """
    since = _time(value) - _EPOCH
    return (since.days * _DAY + since.seconds) * _SECOND + since.microseconds


def _time(value: Any) -> datetime:
    if not isinstance(value, datetime) or (value.tzinfo is not UTC and value.utcoffset() is None):
        raise TypeError("must be a time with a time zone")
    return value


def from_microseconds(value: int) -> datetime:
    """Return the aware UTC time of whole microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("must be text")
    if not value.isascii():
        value.encode()  # a lone surrogate cannot be stored anywhere
    if "\0" in value:
        raise ValueError("must not hold a NUL character, which PostgreSQL does not store")
    return value


def _prose(value: Any) -> str:
    """Return text from outside, such as a server's answer; what cannot be stored in it becomes a question mark.

    It must never keep a task id that comes with it from being stored.
    """
    if not isinstance(value, str):
        raise TypeError("must be text")
    return value and value.encode(errors="replace").decode().replace("\0", "?")


def _whole(value: Any) -> int:
    # True is an int, and a database would give 1 back.
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise TypeError("must be a whole number below 2**63")
    return value


def _count(value: Any) -> int:
    count = _whole(value)
    if count < 0:
        raise ValueError("must be 0 or more")
    return count


def _wei(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("must be a whole number of wei")
    if not 0 <= value < _TOO_MUCH:
        raise ValueError("must be 0 or more, and less than 2**60 CNX")
    return value


def _flag(value: Any) -> int:
    if not isinstance(value, bool):
        raise TypeError("must be True or False")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("must be a number")
    return float(value)


def _config(value: Any) -> str:
    _check_config(value)
    return _CONFIG_ENCODER.encode(as_config(value).to_dict())


def _check_config(value: Any) -> None:
    if not isinstance(value, FineTuneConfig) and not is_kept(value):
        raise TypeError("must be a FineTuneConfig")


def _json(value: Any) -> str:
    return _ENCODER.encode(dict(value) if not isinstance(value, dict) and isinstance(value, Mapping) else value)


def _table(value: Any) -> str:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError("must be a table of names")
    return _json(value) if value else "{}"


def _tags(value: Any) -> str:
    if not isinstance(value, Mapping):
        raise TypeError("must be names and values")
    return _json({_text(name): _text(value[name]) for name in value}) if value else "{}"


def _read_table(text: str) -> Mapping[str, Any]:
    # one empty table for all, as in ``JobRow``
    return _EMPTY if text == "{}" else json.loads(text)


def _optional(kind: Kind) -> Kind:
    encode, decode, check = kind.encode, kind.decode, kind.check
    return Kind(
        lambda value: None if value is None else encode(value),
        None if decode is None else lambda value: None if value is None else decode(value),
        None if check is None else lambda value: None if value is None else check(value),
    )


def _member_of(words: type[StrEnum]) -> Kind:
    return Kind(
        lambda value: words(value).value, words, lambda value: value if isinstance(value, words) else words(value)
    )


_TEXT, _PROSE, _WHOLE, _COUNT, _WEI = Kind(_text), Kind(_prose), Kind(_whole), Kind(_count), Kind(_wei)
_FLAG = Kind(_flag, bool)
_TIME = Kind(to_microseconds, from_microseconds, _time)
_TABLE = Kind(_table, json.loads)

JOB_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {
        "job_id": _TEXT,
        "backend": _TEXT,
        "key_id": _TEXT,
        "config": _optional(Kind(_config, check=_check_config)),
        "digest": _TEXT,
        "label": _TEXT,
        "task_id": _optional(_TEXT),
        "state": _member_of(JobState),
        "planned_at": _TIME,
        "is_seed_drawn": _FLAG,
        "asked_digest": _TEXT,
        "group": _TEXT,
        "tags": Kind(_tags, _read_table),
        "tenant": _TEXT,
        "idempotency_key": _optional(_TEXT),
        "budget": _TEXT,
        "is_stopped": _FLAG,
        "is_sent_by_any": _FLAG,
        "tries": _COUNT,
        "submitted_at": _optional(_TIME),
        "ended_at": _optional(_TIME),
        "error": _PROSE,
        "error_facts": Kind(_table, _read_table),
        "reason": _PROSE,
        "folder": _optional(_TEXT),
        "file_name": _optional(_TEXT),
        "path": _optional(_TEXT),
        "host": _TEXT,
        "total_bytes": _optional(_WHOLE),
        "last_event": _COUNT,
        "resubmitted_as": _optional(_TEXT),
    }
)
"""How each attribute of a ``JobRow`` becomes a column value."""

ATTEMPT_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {
        "job_id": _TEXT,
        "number": _WHOLE,
        "backend": _TEXT,
        "key_id": _TEXT,
        "began_at": _TIME,
        "try_number": _COUNT,
        "payload": _TEXT,
        "answered_at": _optional(_TIME),
        "outcome": _optional(_member_of(AttemptOutcome)),
        "task_id": _optional(_TEXT),
        "wait": _optional(Kind(_number)),
        "status": _optional(_WHOLE),
        "answer": _PROSE,
    }
)
"""How each attribute of an ``AttemptRow`` becomes a column value."""

FINISHED_COLUMNS = ("answered_at", "outcome", "task_id", "wait", "status", "answer")
"""What is stored of an attempt when it ends."""

TASK_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {
        "job_id": _TEXT,
        "try_number": _COUNT,
        "member": _COUNT,
        "backend": _TEXT,
        "task_id": _TEXT,
        "made_at": _TIME,
        "ended_at": _optional(_TIME),
        "end": _PROSE,
        "reason": _PROSE,
        "fee": _optional(_WEI),
        "spent": _optional(_WEI),
    }
)
"""How each attribute of a ``TaskRow`` becomes a column value."""

STEP_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {
        "job_id": _TEXT,
        "try_number": _COUNT,
        "member": _COUNT,
        "kind": _TEXT,
        "arguments": _TABLE,
        "fee": _optional(_WEI),
        "planned_at": _TIME,
        "done_at": _optional(_TIME),
        "outcome": _TEXT,
    }
)
"""How each attribute of a ``StepRow`` becomes a column value."""

EVENT_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {"job_id": _TEXT, "number": _COUNT, "at": _TIME, "kind": _TEXT, "data": _TABLE}
)
"""How each attribute of an ``EventRow`` becomes a column value."""

WISH_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {"number": _COUNT, "job_id": _TEXT, "kind": _TEXT, "arguments": _TABLE, "at": _TIME}
)
"""How each attribute of a ``WishRow`` becomes a column value."""

# By name: a program whose jobs have no steps, events or wishes loads no such rows.
_COLUMNS: Mapping[str, Mapping[str, Kind]] = MappingProxyType(
    {
        "JobRow": JOB_COLUMNS,
        "AttemptRow": ATTEMPT_COLUMNS,
        "TaskRow": TASK_COLUMNS,
        "StepRow": STEP_COLUMNS,
        "EventRow": EVENT_COLUMNS,
        "WishRow": WISH_COLUMNS,
    }
)


def encode(kinds: Mapping[str, Kind], name: str, value: Any) -> Column:
    """Return one value as its column keeps it.

    Raises:
        LedgerError: There is no such column, or it cannot hold the value.
    """
    if name not in kinds:
        raise LedgerError(f"a ledger has no column {name!r}", field=name)
    try:
        return kinds[name].encode(value)
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{name} cannot be {value!r:.100}: {error}", field=name) from error


def encode_row(row: Any, names: Collection[str] | None = None) -> dict[str, Column]:
    """Return columns of a row of any kind.

    Args:
        row: The row.
        names: Which columns, or None for every one.

    Raises:
        LedgerError: A value cannot be stored.
    """
    kinds = _COLUMNS[type(row).__name__]
    chosen = kinds if names is None else names
    try:
        if isinstance(row, JobRow):
            return _encode_job(row, chosen)
        return {name: kinds[name].encode(getattr(row, name)) for name in chosen}
    except (TypeError, ValueError):  # once more, to tell which column it was
        return {name: encode(kinds, name, getattr(row, name)) for name in chosen}


def _encode_job(row: JobRow, names: Collection[str]) -> dict[str, Column]:
    # Most columns of a new job hold their default, which was encoded once for all.
    return {
        name: column if (value := getattr(row, name)) is default else encoder(value)
        for name, encoder, default, column in _DEFAULTS
        if name in names
    }


def _fields(cls: type[Any]) -> Mapping[str, "attrs.Attribute[Any]"]:
    """Return the attributes of a kind of row by their columns."""
    return {field.alias or field.name: field for field in attrs.fields(cls)}


def _defaults() -> Iterator[tuple[str, Callable[[Any], Column], Any, Column]]:
    """Yield of each column of a job its name, its encoder, the default of its attribute, and that encoded."""
    fields = _fields(JobRow)
    for name, kind in JOB_COLUMNS.items():
        default = fields[name].default
        yield name, kind.encode, default, None if default is attrs.NOTHING else kind.encode(default)


_DEFAULTS = tuple(_defaults())


def encode_wei(name: str, value: Any) -> int:
    """Return an amount of money.

    Raises:
        LedgerError: It is none.
    """
    amount = encode({name: _WEI}, name, value)
    assert isinstance(amount, int)
    return amount


def encode_changes(changes: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of a job that change.

    Raises:
        LedgerError: There is no such column, it cannot change, or it cannot hold the value.
    """
    for name in _FIXED:
        if name in changes:
            raise LedgerError(f"the {name} of a job cannot change", field=name)
    return {name: encode(JOB_COLUMNS, name, value) for name, value in changes.items()}


def check_row(row: Any, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Check a row of any kind like ``encode_row``, without the costly parts: a config is valid because it exists.

    Args:
        row: The row.
        names: Which columns, or None for every one.

    Returns:
        The columns that have another value than usual.

    Raises:
        LedgerError: A value cannot be stored.
    """
    cls: Any = type(row)
    read, columns, usual = _reading(cls, names)
    values, unusual = read(row), {}
    try:
        # Most values are the usual ones, which need no check: a loop in C passes over them.
        for place in compress(range(len(values)), map(is_not, values, usual)):
            name, check = columns[place]
            unusual[name] = value = values[place]
            check(value)
    except (TypeError, ValueError):  # once more, to tell which column it was
        encode_row(row, names)
        raise
    return unusual


def check_changes(changes: Mapping[str, Any]) -> None:
    """Check the columns of a job that change like ``encode_changes``.

    Raises:
        LedgerError: There is no such column, it cannot change, or it cannot hold the value.
    """
    checks = _job_checks()
    for name, value in changes.items():
        # A column that there is not, or must not change, has no check, and is named below.
        check, default = checks.get(name, (_refuse, _NO_VALUE))
        try:
            if value is not default:
                check(value)
        except (TypeError, ValueError):
            encode_changes(changes)
            raise


_NO_VALUE = object()


def _refuse(_: Any) -> None:
    raise TypeError("cannot change")


@functools.cache
def _reading(
    cls: type[Any], names: tuple[str, ...] | None
) -> tuple[Callable[[object], tuple[object, ...]], Sequence[tuple[str, Callable[[Any], object]]], Sequence[object]]:
    """Return what reads columns of a kind of row, the name and the check of each, and the value that needs none."""
    fields = _fields(cls)
    kinds = {name: kind for name, kind in _COLUMNS[cls.__name__].items() if names is None or name in names}
    read = attrgetter(*(fields[name].name for name in kinds))
    return read, [(name, _check_of(kind)) for name, kind in kinds.items()], [fields[name].default for name in kinds]


@functools.cache
def _job_checks() -> Mapping[str, tuple[Callable[[Any], object], object]]:
    """Return the check of each column of a job that can change, and the value that needs none."""
    fields = _fields(JobRow)
    changing = ((name, kind) for name, kind in JOB_COLUMNS.items() if name not in _FIXED)
    return {name: (_check_of(kind), fields[name].default) for name, kind in changing}


def _check_of(kind: Kind) -> Callable[[Any], object]:
    return kind.check or kind.encode


def decode_row(cls: type[_T], values: Sequence[Any]) -> _T:
    """Return a row from its columns, in the order of its ``..._COLUMNS``.

    Raises:
        ValueError: The columns were not written by a ledger.
    """
    kinds = _COLUMNS[cls.__name__]
    pairs = zip(kinds.items(), values, strict=True)
    return cls(**{name: value if kind.decode is None else kind.decode(value) for (name, kind), value in pairs})


def decode_job(values: Sequence[Any]) -> JobRow:
    """Return a job from its columns, in the order of ``JOB_COLUMNS``; a config that cannot be read is None.

    Raises:
        ValueError: The columns were not written by a ledger.
    """
    pairs = zip(JOB_COLUMNS.items(), values, strict=True)
    data = {name: value if kind.decode is None else kind.decode(value) for (name, kind), value in pairs}
    data["config"], remark = read_config(data["config"], is_seed_drawn=data["is_seed_drawn"])
    data["error"] = "; ".join(filter(None, (data["error"], remark)))
    return JobRow(**data)


def read_config(text: str | None, *, is_seed_drawn: bool) -> tuple[FineTuneConfig | None, str]:
    """Return a stored config, or None and why it cannot be read.

    Args:
        text: The JSON text, or None where the job has no config.
        is_seed_drawn: Whether nobody gave its seed.
    """
    if text is None:
        return None, ""
    try:
        # The constructor alone, at a fraction of what ``from_dict`` costs: a start decodes every job that it takes
        # over.
        fields: dict[str, Any] = json.loads(text)
        values = map(_one_of, map(_hashable, fields.values()))
        config = FineTuneConfig(**dict(zip(fields, values, strict=True)))
    except (TypeError, ValueError):
        return None, f"its config cannot be read by this version of crynux_async: {_why(text)}"
    # Or whoever asks again without a seed is told that the seed is another one.
    object.__setattr__(config, "seed_was_drawn", is_seed_drawn)
    return config, ""


def _hashable(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


# One object for all configs that have a value: those of a sweep are alike in nearly all of them. Bounded, so that what
# every config has for itself, such as seeds, pushes out only what is seldom.
@functools.lru_cache(maxsize=1024, typed=True)
def _one_of(value: Any) -> Any:
    return value


def _why(text: str) -> str:
    """Say what is wrong with a stored config, more slowly and in more detail than its constructor does."""
    try:
        FineTuneConfig.from_dict(json.loads(text))
    except ConfigError as error:
        return "; ".join(map(str, error.problems))
    except (TypeError, ValueError) as error:
        return f"not a JSON table of fields ({error})"
    return "it is kept as it is"
