"""The kinds of values that a field of a config may hold: how a value is read, and what may be wrong with it.

No field is named here. ``fields`` says which field is of which kind, and where its bounds are.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args
from urllib.parse import urlsplit

import attrs

from crynux_async.secret import mask_address
from crynux_async.values import Value

MAX_INTEGER = 2**53  # the bridge re-encodes numbers as float64 from the second round on
MAX_URL_CHARS = 2083  # stable-diffusion-task schema/stable-diffusion-finetune-lora-task.json
MAX_SHOWN = 100

_BROKEN_ESCAPE = r"%(?![0-9A-Fa-f]{2})"

_Check = Callable[[Any], str | None]


@attrs.frozen(kw_only=True)
class Kind(Value):
    """One kind of value.

    Attributes:
        read: Turns what a user gives into what is kept, and leaves what it does not know to ``problem``; or None.
        problem: Says what is wrong with a value that was read, or None.
        schema: The same bounds as JSON Schema (draft 2020-12), as far as that can say them.
    """

    read: Callable[[Any], Any] | None
    problem: _Check
    schema: Mapping[str, Any]


def integer(
    *, low: int, high: int = MAX_INTEGER, remark: str = "", optional: bool = False, example: int | None = None
) -> Mapping[str, Kind]:
    """Whole numbers from ``low`` to ``high``; ``remark`` ends the message about those that are not."""
    schema = {"type": "integer", "minimum": low, "maximum": high, **_examples(example)}
    return _metadata(_exact, partial(_integer_problem, low, high, remark), schema, optional)


def number(
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    remark: str = "",
    optional: bool = False,
    example: float | None = None,
) -> Mapping[str, Kind]:
    """Finite floats from ``low`` (``above``: not itself) to below ``high``."""
    bounds = {"exclusiveMinimum" if above else "minimum": low, "exclusiveMaximum": high}
    finite = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
    schema = {"type": "number", **finite, **_examples(example)}
    return _metadata(_real, partial(_number_problem, low, high, above, remark), schema, optional)


def text(*, optional: bool = False, example: str | None = None) -> Mapping[str, Kind]:
    """Text that is not blank."""
    schema = {"type": "string", "pattern": r"\S", **_examples(example)}
    return _metadata(None, _text_problem, schema, optional)


def url(*, example: str) -> Mapping[str, Kind]:
    """An address that nodes can load, or None."""
    schema = {
        "type": "string",
        "format": "uri",
        "pattern": "^https?://",
        "maxLength": MAX_URL_CHARS,
        **_examples(example),
    }
    return _metadata(None, _url_problem, schema, True)


def choice(words: object, *, optional: bool = False) -> Mapping[str, Kind]:
    """One word of a ``Literal``."""
    schema = {"type": "string", "enum": list(get_args(words))}
    return _metadata(None, partial(_choice_problem, get_args(words)), schema, optional)


def flag() -> Mapping[str, Kind]:
    """True or false, and nothing that only counts as that."""
    return _metadata(None, _flag_problem, {"type": "boolean"}, False)


def flag_or_choice(words: object) -> Mapping[str, Kind]:
    """True, false or one word of a ``Literal``."""
    schema = {"enum": [True, False, *get_args(words)]}
    return _metadata(None, partial(_flag_or_choice_problem, get_args(words)), schema, False)


def names_or_pattern() -> Mapping[str, Kind]:
    """Names of modules, at least one, or a pattern."""
    words = {"type": "string", "pattern": r"\S"}
    schema = {"anyOf": [{"type": "array", "items": words, "minItems": 1}, words]}
    return _metadata(_as_names, _modules_problem, schema, False)


def _examples(example: object) -> dict[str, Any]:
    """Return what a schema says of a field that has no default to learn from."""
    return {} if example is None else {"examples": [example]}


def _metadata(
    read: Callable[[Any], Any] | None, problem: _Check, schema: Mapping[str, Any], optional: bool
) -> Mapping[str, Kind]:
    if not optional:
        return {"kind": Kind(read=read, problem=problem, schema=schema)}

    def problem_unless_none(value: Any) -> str | None:
        return None if value is None else problem(value)

    return {"kind": Kind(read=read, problem=problem_unless_none, schema=_or_null(schema))}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    nullable = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:  # a list of words leaves no room for null, whatever the type says
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def _as_names(value: Any) -> Any:
    """Turn names in any sequence into a tuple, which is hashable; leave one pattern, and what is neither, as it is."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def _exact(value: Any) -> Any:
    """Turn what is a whole number in disguise (8.0, numpy.int64(8)) into an int; leave the rest as it is."""
    if isinstance(value, bool | str | None):
        return value
    try:
        return operator.index(value)
    except TypeError:
        real = _real(value)
        return int(real) if isinstance(real, float) and real.is_integer() else value


def _real(value: Any) -> Any:
    """Turn any number into a float, -0.0 into 0.0 (they are equal, so they must be sent alike); leave the rest."""
    if isinstance(value, bool | str | None) or not hasattr(value, "__float__"):
        return value
    try:
        return (value if type(value) is float else float(value)) or 0.0
    except (TypeError, ValueError, OverflowError):
        return value


def _shown(value: Any) -> str:
    """Return the beginning of a value's repr; some values have none (an int of 5,000 digits)."""
    try:
        shown = repr(mask_address(value))
    except Exception:
        return f"<{type(value).__name__}>"
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def _integer_problem(low: int, high: int, remark: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be a whole number, not {_shown(value)}"
    if low <= value <= high:
        return None
    bounds = f"between {low} and {high}" if high < MAX_INTEGER or value > high else f"at least {low}"
    return f"must be {bounds}, not {_shown(value)}{remark}"


def _number_problem(low: float, high: float, above: bool, remark: str, value: Any) -> str | None:
    if not isinstance(value, float):
        return f"must be a number, not {_shown(value)}"
    if math.isfinite(value) and value < high and (value > low or (value == low and not above)):
        return None
    bounds = "finite" if low == -math.inf else f"{'above' if above else 'at least'} {low:g}"
    bounds += f" and below {high:g}" if high < math.inf else ""
    return f"must be {bounds}, not {value:g}{remark}"


def _text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {_shown(value)}"
    # They have no UTF-8, and JSON readers replace them.
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        return f"must be whole characters, not halves of them: {_shown(value)}"
    return None if value.strip() else "must not be empty"


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"


def _choice_problem(choices: tuple[str, ...], value: Any) -> str | None:
    if isinstance(value, str) and value in choices:
        return None
    import difflib

    near = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"must be one of {', '.join(choices)}, not {_shown(value)}{hint}"


def _flag_or_choice_problem(choices: tuple[str, ...], value: Any) -> str | None:
    if isinstance(value, bool) or (isinstance(value, str) and value in choices):
        return None
    return f"must be true, false, {' or '.join(map(repr, choices))}, not {_shown(value)}"


def _modules_problem(value: Any) -> str | None:
    if isinstance(value, str):
        return _text_problem(value)
    if not isinstance(value, tuple) or any(_text_problem(name) for name in value):
        return f"must be a list of module names or one pattern, not {_shown(value)}"
    return None if value else "must not be empty: training cannot start without modules"


def _url_problem(value: Any) -> str | None:
    problem = _text_problem(value)
    if problem:
        return problem
    if not value.startswith(("http://", "https://")):
        return f"must be an http or https address, not {_shown(value)}: the nodes load nothing else"
    if len(value) > MAX_URL_CHARS:
        return f"must have at most {MAX_URL_CHARS} characters, not {len(value)}"
    return None if _has_host(value) else f"must be a complete address without spaces, not {_shown(value)}"


def _has_host(address: str) -> bool:
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return False
    # The bridge's schema asserts the format "uri": what is none is refused at the cost of a token.
    return bool(host) and address.isprintable() and " " not in address and not _has_broken_escape(address)


def _has_broken_escape(address: str) -> bool:
    return "%" in address and re.search(_BROKEN_ESCAPE, address) is not None
