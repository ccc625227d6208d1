"""What each call of the relay takes: its fields, which of them are signed, and what it says when they do not fit.

Source: crynux-relay api/v1/inference_tasks, api/v1/nodes, api/v2/nodes, api/v1/client (the structs); gadgeto tonic
(body first, then query, then path, then the rules).
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import attrs

from crynux_async.emulator.go_text import NumberTextError, parse_int
from crynux_async.emulator.http.binding import (
    JSON,
    BindError,
    Field,
    Struct,
    bind_form,
    bind_json,
    media_type,
    read_form,
)
from crynux_async.emulator.relay.refusals import invalid

_TIMESTAMP = Field(name="timestamp", kind="int64")
_SIGNATURE = Field(name="signature", kind="string")


@attrs.frozen(kw_only=True)
class Call:
    """A request as it arrived.

    Attributes:
        method: Its method.
        path: Values of the path by name.
        query: The query of the address.
        headers: Its headers, found without regard to case.
        body: The body, at most as much as the relay reads.
        is_too_large: Whether there was more of the body.
    """

    method: str
    path: Mapping[str, str]
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    is_too_large: bool = False

    @property
    def parameters(self) -> dict[str, str]:
        """The query as names and values, the first of several."""
        found: dict[str, str] = {}
        for name, value in parse_qsl(self.query, keep_blank_values=True):
            found.setdefault(name, value)
        return found


@attrs.frozen(kw_only=True)
class Input:
    """What a call takes.

    Attributes:
        struct: All fields, timestamp and signature included.
        signed: Names of the fields that are signed.
        required: Names that must be there, in the order in which they are missed.
        shown: What a missing or wrong field is called, where that is not its name.
        omitted: Signed fields that are left out when they are zero.
    """

    struct: Struct
    signed: tuple[str, ...]
    required: tuple[str, ...]
    shown: Mapping[str, str] = attrs.field(factory=dict)
    omitted: tuple[str, ...] = ()

    def signed_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the signature is over."""
        fields = {name: values[name] for name in self.signed if values[name] or name not in self.omitted}
        # The relay's big integers are texts in JSON.
        big = {field.name for field in self.struct.fields if field.kind == "big.Int"}
        return {name: str(value) if name in big else value for name, value in fields.items()}


@attrs.frozen(kw_only=True)
class Bound:
    """What came with a call.

    Attributes:
        values: Field name to value, one entry for every field.
        files: Name to the contents of the files that were sent under it.
    """

    values: dict[str, Any]
    files: Mapping[str, list[bytes]] = attrs.field(factory=dict)


def bind(taken: Input, call: Call) -> Bound:
    """Return the fields of a call.

    Raises:
        RefusedError: 400 at the first thing that does not fit, or is missing.
    """
    try:
        bound = _bind_query(taken, call) if call.method == "GET" else _bind_body(taken, call)
    except BindError as error:
        raise invalid(error.field, str(error)) from None
    # The path last: a commitment in the body is not what is signed or created.
    bound.values.update(call.path)
    for name in taken.required:
        if bound.values[name] in ("", 0, None):
            raise invalid(taken.shown.get(name, name), "required")
    return bound


def _bind_body(taken: Input, call: Call) -> Bound:
    content_type = call.headers.get("Content-Type", "")
    if media_type(content_type) == JSON:
        return Bound(values=bind_json(taken.struct, call.body, too_large=call.is_too_large))
    form = read_form(call.body, content_type, call.query, too_large=call.is_too_large)
    return Bound(values=bind_form(taken.struct, form), files=form.files)


def _bind_query(taken: Input, call: Call) -> Bound:
    values = taken.struct.zeros()
    for name, text in call.parameters.items():
        field = taken.struct.find(name)
        if field is None or field.name != name:
            continue
        try:
            values[name] = text if field.kind == "string" else parse_int(text)
        except NumberTextError as error:
            # The binder of queries knows the field by its Go name only.
            raise BindError(name.title(), str(error)) from None
    return Bound(values=values)


def _struct(name: str, *fields: Field, package: str = "inference_tasks", embedded: str = "") -> Struct:
    prefix = f"{embedded}." if embedded else ""
    own = tuple(attrs.evolve(field, path=f"{prefix}{field.name}") for field in fields)
    return Struct(package=package, name=name, fields=(*own, _TIMESTAMP, _SIGNATURE))


def _text(name: str) -> Field:
    return Field(name=name, kind="string")


def _number(name: str, *, pointer: bool = False) -> Field:
    return Field(name=name, kind="uint64", pointer=pointer)


_COMMITMENT = _text("task_id_commitment")
_SIGNED_LAST = ("timestamp", "signature")

CREATE = Input(
    struct=_struct(
        "TaskInputWithSignature",
        _COMMITMENT,
        _text("task_args"),
        Field(name="task_type", kind="uint8", type_name="models.TaskType"),
        _text("nonce"),
        Field(name="task_model_ids", kind="[]string"),
        _number("min_vram", pointer=True),
        Field(name="required_gpu", kind="string", pointer=True),
        _number("required_gpu_vram", pointer=True),
        _text("task_version"),
        _number("task_size", pointer=True),
        Field(name="task_fee", kind="big.Int"),
        _number("timeout"),
        embedded="TaskInput",
    ),
    signed=(
        "task_id_commitment", "task_args", "task_type", "nonce", "task_model_ids", "min_vram", "required_gpu",
        "required_gpu_vram", "task_version", "task_size", "task_fee", "timeout",
    ),
    required=("task_id_commitment", "task_args", "nonce", "task_model_ids", "task_version", *_SIGNED_LAST),
    # Go's omitempty: a timeout of 0 is not in what is signed, and one that is signed as 0 is a stranger's.
    omitted=("timeout",),
)  # fmt: skip
"""The create of a task."""

# The relay tells absent from zero in these, signs null for absent, and then reads through the pointer.
POINTERS = ("min_vram", "required_gpu", "required_gpu_vram", "task_size")
"""Fields of a create without which the relay crashes."""

GET_TASK = Input(
    struct=_struct("GetTaskInputWithSignature", _COMMITMENT),
    signed=("task_id_commitment",),
    required=("task_id_commitment", *_SIGNED_LAST),
)
"""A look at a task."""

GET_OF_TASK = Input(
    struct=_struct("GetResultCheckpointInputWithSignature", _COMMITMENT),
    signed=("task_id_commitment",),
    required=("task_id_commitment", *_SIGNED_LAST),
    shown={"timestamp": "Timestamp", "signature": "Signature"},
)
"""A request for a checkpoint or the node of a task."""

GET_RESULT = Input(
    struct=_struct("GetResultInputWithSignature", _text("index"), _COMMITMENT),
    signed=("index", "task_id_commitment"),
    required=("index", "task_id_commitment", *_SIGNED_LAST),
    shown={"timestamp": "Timestamp", "signature": "Signature"},
)
"""A request for an image."""

VALIDATE = Input(
    struct=_struct(
        "ValidateTaskInputWithSignature",
        Field(name="task_id_commitments", kind="[]string"),
        _text("task_id"),
        _text("vrf_proof"),
        _text("public_key"),
        embedded="ValidateTaskInput",
    ),
    signed=("task_id_commitments", "task_id", "vrf_proof", "public_key"),
    required=("task_id_commitments", "task_id", "vrf_proof", "public_key", *_SIGNED_LAST),
)
"""The validation of one task or three."""

ABORT = Input(
    struct=_struct(
        "AbortTaskInputWithSignature",
        _COMMITMENT,
        Field(name="abort_reason", kind="uint8", type_name="models.TaskAbortReason"),
        embedded="AbortTaskInput",
    ),
    signed=("task_id_commitment", "abort_reason"),
    required=("task_id_commitment", "abort_reason", *_SIGNED_LAST),
)
"""A creator's wish to abort a task."""

SCORE = Input(
    struct=_struct(
        "SubmitScoreInputWithSignature",
        _COMMITMENT,
        _text("score"),
        _text("execution_dtype"),
        embedded="SubmitScoreInput",
    ),
    signed=("task_id_commitment", "score", "execution_dtype"),
    required=("task_id_commitment", *_SIGNED_LAST),
    omitted=("execution_dtype",),
)
"""A node's score."""

TASK_ERROR = Input(
    struct=_struct(
        "ReportTaskErrorInputWithSignature",
        _COMMITMENT,
        Field(name="task_error", kind="uint8", type_name="models.TaskError"),
        embedded="ReportTaskErrorInput",
    ),
    signed=("task_id_commitment", "task_error"),
    required=("task_id_commitment", "task_error", *_SIGNED_LAST),
)
"""A node's report of an error."""

UPLOAD = Input(
    struct=_struct("ResultInputWithSignature", _COMMITMENT),
    signed=("task_id_commitment",),
    required=("task_id_commitment", *_SIGNED_LAST),
    shown={"timestamp": "Timestamp", "signature": "Signature"},
)
"""A node's result."""

JOIN = Input(
    struct=_struct(
        "NodeJoinInputWithSignature",
        _text("network"),
        _text("address"),
        _text("gpu_name"),
        _number("gpu_vram"),
        _text("version"),
        Field(name="model_ids", kind="[]string"),
        Field(name="staking", kind="big.Int"),
        package="nodes",
        embedded="NodeJoinInput",
    ),
    signed=("network", "address", "gpu_name", "gpu_vram", "version", "model_ids", "staking"),
    required=("network", "address", "gpu_name", "gpu_vram", "version", "model_ids", *_SIGNED_LAST),
)
"""A node's wish to join."""

QUIT = Input(
    struct=_struct("QuitInputWithSignature", _text("address"), package="nodes", embedded="QuitInput"),
    signed=("address",),
    required=("address", *_SIGNED_LAST),
)
"""A node's wish to quit."""

CONNECT = Input(
    struct=Struct(package="client", name="ConnectWalletInput", fields=(_text("address"), _SIGNATURE, _TIMESTAMP)),
    signed=(),
    required=("address", "signature", "timestamp"),
)
"""The login of a wallet."""
