"""How the bridge turns the body of a create into fields, and what it says when it cannot.

A body is JSON only when its Content-Type is exactly ``application/json`` (parameters aside); everything else is a form.
JSON keys match without regard to case, the last duplicate wins, and the first wrong type is reported under the field's
own name. What is absent has Go's zero value: "", 0, False, or None for a pointer.

Source: crynux-bridge api/v1/image/finetune_params.go and finetune.go (the structs), gin binding/form_mapping.go,
encoding/json decode.go.
"""

import re
from typing import Any, Literal

import attrs

from crynux_async.emulator import go_json
from crynux_async.emulator.go_text import NumberTextError, parse_bool, parse_float, parse_int, parse_uint
from crynux_async.emulator.http.forms import Form, FormError, multipart, urlencoded

Kind = Literal["string", "int", "uint64", "bool", "float64", "any"]

_STRUCT = "SDFinetuneLoraRequest"
_TOO_LARGE = "http: request body too large"
_FOLD = str.maketrans({"\u017f": "s", "\u212a": "k"})
_ZEROS: dict[Kind, Any] = {"string": "", "int": 0, "uint64": 0, "bool": False, "float64": 0.0, "any": None}
_LIMITS = {"int": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}
_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class BindError(Exception):
    """A body does not fit; the bridge answers 400 with ``field`` and the message."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@attrs.frozen(kw_only=True)
class Field:
    """One field of the request.

    Attributes:
        name: Its name on the wire.
        kind: Its Go type.
        pointer: Whether it may be absent (a Go pointer): then null and absent are None.
        form_name: Its name in a form.
    """

    name: str
    kind: Kind
    pointer: bool = False
    form_name: str = attrs.field(default=attrs.Factory(lambda self: self.name, takes_self=True))

    @property
    def zero(self) -> Any:
        """What the field holds when it is absent."""
        return None if self.pointer else _ZEROS[self.kind]


def _fields(kind: Kind, *names: str, pointer: bool = False) -> tuple[Field, ...]:
    return tuple(Field(name=name, kind=kind, pointer=pointer) for name in names)


FIELDS: tuple[Field, ...] = (
    *_fields("string", "model_name"),
    *_fields("string", "model_variant", pointer=True),
    *_fields("string", "model_revision"),
    *_fields("string", "dataset_url", "dataset_name", "dataset_config_name", pointer=True),
    *_fields("string", "dataset_image_column", "dataset_caption_column"),
    *_fields("string", "validation_prompt", pointer=True),
    *_fields("int", "validation_num_images"),
    *_fields("bool", "center_crop", "random_flip"),
    *_fields("int", "rank"),
    *_fields("any", "init_lora_weights", "target_modules"),
    *_fields("float64", "learning_rate"),
    *_fields("int", "batch_size", "gradient_accumulation_steps"),
    *_fields("string", "prediction_type", pointer=True),
    *_fields("float64", "max_grad_norm"),
    *_fields("int", "num_train_epochs"),
    *_fields("int", "num_train_steps", pointer=True),
    *_fields("int", "max_train_epochs"),
    *_fields("int", "max_train_steps", pointer=True),
    *_fields("bool", "scale_lr"),
    *_fields("int", "resolution"),
    *_fields("float64", "noise_offset"),
    *_fields("float64", "snr_gamma", pointer=True),
    *_fields("string", "lr_scheduler"),
    *_fields("int", "lr_warmup_steps"),
    *_fields("float64", "adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon"),
    *_fields("string", "mixed_precision"),
    *_fields("int", "seed"),
    Field(name="Authorization", kind="string"),
    Field(name="timeout", kind="uint64", pointer=True, form_name="Timeout"),
)
"""Every field in the order of the Go struct, which is the order in which a form is bound."""

_BY_NAME = {field.name: field for field in FIELDS}
_BY_FOLDED_NAME = {field.name.lower(): field for field in FIELDS}


@attrs.frozen(kw_only=True)
class Bound:
    """A request after binding.

    Attributes:
        values: Field name to value, one entry for every field.
        checkpoints: How many checkpoint files came with it.
    """

    values: dict[str, Any]
    checkpoints: int = 0


def bind(body: bytes, content_type: str, *, query: str = "", authorization: str = "", too_large: bool = False) -> Bound:
    """Bind and check a create as far as the bridge does before it looks at the key.

    Args:
        body: The body, at most as much as the bridge reads.
        content_type: The Content-Type header, or "".
        query: The query of the address, which a form includes.
        authorization: The Authorization header, or "".
        too_large: Whether the body went on behind what is given.

    Returns:
        All fields, unset ones with their zero value.

    Raises:
        BindError: At the first thing that does not fit.
    """
    media_type = re.split("[ ;]", content_type, maxsplit=1)[0]
    if media_type == "application/json":
        bound = Bound(values=_bind_json(body, too_large=too_large))
    elif too_large:
        raise BindError("", _TOO_LARGE)
    else:
        bound = _bind_form(_form(body, media_type, content_type, query))
    bound.values["Authorization"] = authorization or bound.values["Authorization"]
    for required in ("model_name", "Authorization"):
        if not bound.values[required]:
            raise BindError(required, f"{required} is required")
    return bound


def _bind_json(body: bytes, *, too_large: bool) -> dict[str, Any]:
    try:
        document = go_json.decode(body)
    except go_json.GoJSONError as error:
        raise BindError("", _TOO_LARGE if too_large and go_json.is_cut(error) else str(error)) from None
    values = {field.name: field.zero for field in FIELDS}
    if document is None:
        return values
    if not isinstance(document, go_json.Pairs):
        raise BindError("", f"json: cannot unmarshal {go_json.kind(document)} into Go value of type image.{_STRUCT}")
    first: BindError | None = None
    for key, value in document:
        field = _BY_NAME.get(key) or _BY_FOLDED_NAME.get(key.translate(_FOLD).lower())
        if field is None:
            continue
        try:
            values[field.name] = _from_json(field, value, values[field.name])
        except BindError as error:
            first = first or error
    if first:
        raise first
    return values


def _from_json(field: Field, value: Any, before: Any) -> Any:
    if value is None:
        return None if field.pointer or field.kind == "any" else before
    match field.kind:
        case "any":
            return _any(field, value)
        case "string" if isinstance(value, str) and not isinstance(value, go_json.Number):
            return go_json.well_formed(value)
        case "bool" if isinstance(value, bool):
            return value
        case "int" | "uint64" if isinstance(value, go_json.Number):
            return _json_integer(field, value)
        case "float64" if isinstance(value, go_json.Number):
            return _json_float(field, value)
    raise _type_error(field, go_json.kind(value))


def _any(field: Field, value: Any) -> Any:
    try:
        return go_json.plain(value)
    except go_json.GoJSONError as error:
        raise _type_error(field, f"number {error}", kind="float64") from None


def _json_integer(field: Field, number: go_json.Number) -> int:
    low, high = _LIMITS[field.kind]
    if field.kind == "uint64" and number.startswith("-"):
        raise _type_error(field, f"number {number}")
    if not _INTEGER.fullmatch(number) or not low <= int(number) <= high:
        raise _type_error(field, f"number {number}")
    return int(number)


def _json_float(field: Field, number: go_json.Number) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise _type_error(field, f"number {number}")
    return value


def _type_error(field: Field, found: str, *, kind: str | None = None) -> BindError:
    text = f"json: cannot unmarshal {found} into Go struct field {_STRUCT}.{field.name} of type {kind or field.kind}"
    return BindError(field.name, text)


def _form(body: bytes, media_type: str, content_type: str, query: str) -> Form:
    if not body:
        # Without a body the bridge does not bind at all, not even the query.
        return Form(values={})
    if media_type == "multipart/form-data":
        try:
            return multipart(body, content_type)
        except FormError as error:
            raise BindError("", str(error)) from None
    return urlencoded(body if media_type == "application/x-www-form-urlencoded" else b"", query)


def _bind_form(form: Form) -> Bound:
    values: dict[str, Any] = {}
    for field in FIELDS:
        texts = form.values.get(field.form_name)
        try:
            values[field.name] = field.zero if texts is None else _from_text(field, texts[0])
        except NumberTextError as error:
            raise BindError("", str(error)) from None
    return Bound(values=values, checkpoints=len(form.files.get("checkpoint", ())))


def _from_text(field: Field, text: str) -> Any:
    if field.kind == "any":
        raise BindError("", "unknown type")
    if field.kind == "string":
        return text
    if not text:
        return _ZEROS[field.kind]
    parsers = {"int": parse_int, "uint64": parse_uint, "bool": parse_bool, "float64": parse_float}
    return parsers[field.kind](text)
