"""How the body of a request becomes the fields of a Go struct, and what the servers say when it cannot.

A body is JSON only when its Content-Type is exactly ``application/json`` (parameters aside); everything else is a form.
JSON keys match without regard to case, the last duplicate wins, and the first wrong type is reported under the field's
own name. What is absent has Go's zero value: "", 0, False, or None for a pointer.

Source: gin binding/form_mapping.go, encoding/json decode.go, gadgeto tonic.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from crynux_async.emulator import go_json
from crynux_async.emulator.go_text import NumberTextError, parse_bool, parse_float, parse_int, parse_uint
from crynux_async.emulator.http.forms import Form, FormError, multipart, urlencoded

Kind = Literal["string", "int", "int64", "uint8", "uint64", "bool", "float64", "any", "[]string", "big.Int"]

JSON = "application/json"
_MULTIPART = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"
_TOO_LARGE = "http: request body too large"
# The two letters beyond ASCII that fold to ASCII ones (foldFunc of encoding/json).
_FOLD = str.maketrans({"\u017f": "s", "\u212a": "k"})
_ZEROS: dict[Kind, Any] = {
    "string": "", "int": 0, "int64": 0, "uint8": 0, "uint64": 0, "bool": False, "float64": 0.0, "any": None,
    "[]string": None, "big.Int": 0,
}  # fmt: skip
_LIMITS: dict[Kind, tuple[int, int]] = {
    "int": (-(2**63), 2**63 - 1), "int64": (-(2**63), 2**63 - 1), "uint8": (0, 255), "uint64": (0, 2**64 - 1),
}  # fmt: skip
_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_BIG_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


class BindError(Exception):
    """A body does not fit; the server answers 400 with ``field`` and the message."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@attrs.frozen(kw_only=True)
class Field:
    """One field of a request.

    Attributes:
        name: Its name on the wire.
        kind: Its Go type.
        pointer: Whether it may be absent (a Go pointer): then null and absent are None.
        form_name: Its name in a form.
        path: Where it is in the struct; more than its name when it belongs to an embedded struct.
        type_name: What Go calls its type.
    """

    name: str
    kind: Kind
    pointer: bool = False
    form_name: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True))
    path: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True))
    type_name: str = attrs.field(default=attrs.Factory(lambda self: self.kind, takes_self=True))

    @property
    def zero(self) -> Any:
        """What the field holds when it is absent."""
        return None if self.pointer else _ZEROS[self.kind]


@attrs.frozen(kw_only=True)
class Struct:
    """A Go struct that a request is bound to.

    Attributes:
        package: The Go package that it is in.
        name: What it is called there.
        fields: Its fields in order, which is the order in which a form is bound.
    """

    package: str
    name: str
    fields: tuple[Field, ...]
    _by_name: Mapping[str, Field] = attrs.field(init=False, repr=False, eq=False)
    _by_folded_name: Mapping[str, Field] = attrs.field(init=False, repr=False, eq=False)

    @_by_name.default
    def _index(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    @_by_folded_name.default
    def _folded_index(self) -> Mapping[str, Field]:
        return {field.name.lower(): field for field in self.fields}

    def find(self, key: str) -> Field | None:
        """Return the field that a JSON key means, or None."""
        return self._by_name.get(key) or self._by_folded_name.get(key.translate(_FOLD).lower())

    def zeros(self) -> dict[str, Any]:
        """Return the values of a struct of which nothing was sent."""
        return {field.name: field.zero for field in self.fields}


def media_type(content_type: str) -> str:
    """Return a Content-Type without its parameters, as gin finds it."""
    return re.split("[ ;]", content_type, maxsplit=1)[0]


def bind_json(struct: Struct, body: bytes, *, too_large: bool = False) -> dict[str, Any]:
    """Return the values that a JSON body gives to a struct, one for every field.

    Args:
        struct: The struct.
        body: The body, at most as much as the server reads.
        too_large: Whether the body went on behind what is given.

    Raises:
        BindError: At the first thing that does not fit.
    """
    try:
        document = go_json.decode(body)
    except go_json.GoJSONError as error:
        raise BindError("", _TOO_LARGE if too_large and go_json.is_cut(error) else str(error)) from None
    values = struct.zeros()
    if document is None:
        return values
    if not isinstance(document, go_json.Pairs):
        found = go_json.kind(document)
        raise BindError("", f"json: cannot unmarshal {found} into Go value of type {struct.package}.{struct.name}")
    # Go goes on after a wrong type and reports the first; what follows still counts.
    first: BindError | None = None
    for key, value in document:
        field = struct.find(key)
        if field is None:
            continue
        try:
            values[field.name] = _from_json(struct, field, value, values[field.name])
        except BindError as error:
            first = first or error
    if first:
        raise first
    return values


def read_form(body: bytes, content_type: str, query: str, *, too_large: bool = False) -> Form:
    """Return a body that is not JSON as a form.

    Args:
        body: The body, at most as much as the server reads.
        content_type: The Content-Type header, or "".
        query: The query of the address, which a form includes.
        too_large: Whether the body went on behind what is given.

    Raises:
        BindError: If it is none, or too large.
    """
    if too_large:
        raise BindError("", _TOO_LARGE)
    if not body:
        # Without a body the servers do not bind at all, not even the query.
        return Form(values={})
    kind = media_type(content_type)
    if kind == _MULTIPART:
        try:
            return multipart(body, content_type)
        except FormError as error:
            raise BindError("", str(error)) from None
    return urlencoded(body if kind == _URLENCODED else b"", query)


def bind_form(struct: Struct, form: Form) -> dict[str, Any]:
    """Return the values that a form gives to a struct, one for every field.

    Raises:
        BindError: At the first field that does not fit.
    """
    values: dict[str, Any] = {}
    for field in struct.fields:
        texts = form.values.get(field.form_name)
        try:
            values[field.name] = field.zero if texts is None else _from_texts(field, texts)
        except NumberTextError as error:
            raise BindError("", str(error)) from None
    return values


def _from_json(struct: Struct, field: Field, value: Any, before: Any) -> Any:
    if value is None:
        # null leaves what is no pointer as it was.
        return None if field.pointer or field.kind in ("any", "[]string") else before
    return _JSON_READERS[field.kind](struct, field, value)


def _any(struct: Struct, field: Field, value: Any) -> Any:
    try:
        return go_json.plain(value)
    except go_json.GoJSONError as error:
        raise _type_error(struct, field, f"number {error}", kind="float64") from None


def _text(struct: Struct, field: Field, value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, go_json.Number):
        raise _type_error(struct, field, go_json.kind(value), kind="string")
    return go_json.well_formed(value)


def _texts(struct: Struct, field: Field, value: Any) -> list[str]:
    if not isinstance(value, list) or isinstance(value, go_json.Pairs):
        raise _type_error(struct, field, go_json.kind(value))
    return ["" if item is None else _text(struct, field, item) for item in value]


def _bool(struct: Struct, field: Field, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _type_error(struct, field, go_json.kind(value))
    return value


def _integer(struct: Struct, field: Field, value: Any) -> int:
    if not isinstance(value, go_json.Number):
        raise _type_error(struct, field, go_json.kind(value))
    low, high = _LIMITS[field.kind]
    # 8.0 and 1e3 are no integers to Go, and -0 is no unsigned one.
    is_negative = low == 0 and value.startswith("-")
    if is_negative or not _INTEGER.fullmatch(value) or not low <= int(value) <= high:
        raise _type_error(struct, field, f"number {value}")
    return int(value)


def _float(struct: Struct, field: Field, value: Any) -> float:
    if not isinstance(value, go_json.Number):
        raise _type_error(struct, field, go_json.kind(value))
    number = float(value)
    if number in (float("inf"), float("-inf")):
        raise _type_error(struct, field, f"number {value}")
    return number


_JSON_READERS: dict[Kind, Callable[[Struct, Field, Any], Any]] = {
    "any": _any,
    "string": _text,
    "[]string": _texts,
    "bool": _bool,
    **dict.fromkeys(_LIMITS, _integer),
    "float64": _float,
    "big.Int": lambda _, __, value: _big_integer(value),
}


def _big_integer(value: Any) -> int:
    """Return an integer that may be written as a number or as a text, as the relay's own type reads it."""
    text = value.strip('"') if isinstance(value, str) else go_json.encode(go_json.plain(value)).decode()
    if not _BIG_INTEGER.fullmatch(text):
        raise BindError("", f"not a valid big integer: {text}")
    return int(text)


def _type_error(struct: Struct, field: Field, found: str, *, kind: str | None = None) -> BindError:
    place = f"{struct.name}.{field.path} of type {kind or field.type_name}"
    return BindError(field.path, f"json: cannot unmarshal {found} into Go struct field {place}")


def _from_texts(field: Field, texts: list[str]) -> Any:
    text = texts[0]
    match field.kind:
        case "any":
            # gin's form binder knows no interface{}.
            raise BindError("", "unknown type")
        case "string":
            return text
        case "[]string":
            return texts
        case "big.Int":
            return _big_integer_text(text)
    if not text:
        return _ZEROS[field.kind]
    parsers = {"int": parse_int, "int64": parse_int, "uint8": parse_uint, "uint64": parse_uint, "bool": parse_bool}
    return parsers.get(field.kind, parse_float)(text)


def _big_integer_text(text: str) -> int:
    """Return the integer that a form gives: gin reads the text of an unknown type as JSON."""
    try:
        value = go_json.decode(text.encode())
    except go_json.GoJSONError as error:
        raise BindError("", str(error)) from None
    if value is None:
        raise BindError("", "unexpected end of JSON input")
    return _big_integer(value)
