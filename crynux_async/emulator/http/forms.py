"""Form bodies as Go's net/http reads them: urlencoded and multipart.

Source: net/http request.go ParseForm and ParseMultipartForm, mime/multipart.
"""

from email.message import Message
from email.parser import BytesHeaderParser
from urllib.parse import parse_qsl

import attrs

_TRUNCATED = "multipart: NextPart: EOF"


class FormError(ValueError):
    """A form cannot be read; the message is Go's."""


@attrs.frozen(kw_only=True)
class Form:
    """The contents of a form.

    Attributes:
        values: Field name to texts, in order.
        files: Field name to the contents of the files that were sent under it, in order.
    """

    values: dict[str, list[str]]
    files: dict[str, list[bytes]] = attrs.field(factory=dict)


def urlencoded(body: bytes, query: str = "") -> Form:
    """Return the fields of a body and of the query of its address, the body's first."""
    values: dict[str, list[str]] = {}
    for source in (body.decode("utf-8", "replace"), query):
        for name, value in parse_qsl(source, keep_blank_values=True):
            values.setdefault(name, []).append(value)
    return Form(values=values)


def multipart(body: bytes, content_type: str) -> Form:
    """Return the fields and files of a ``multipart/form-data`` body.

    Args:
        body: The whole body.
        content_type: The header, with the boundary.

    Raises:
        FormError: If there is no boundary, or the last part is not closed.
    """
    boundary = _parameter(content_type, "boundary")
    if not boundary:
        raise FormError("no multipart boundary param in Content-Type")
    form = Form(values={})
    for part in _parts(body, boundary.encode()):
        _add(form, part)
    return form


def _parts(body: bytes, boundary: bytes) -> list[bytes]:
    delimiter = b"\r\n--" + boundary
    rest = (b"\r\n" + body).split(delimiter)[1:]
    parts: list[bytes] = []
    for piece in rest:
        if piece.startswith(b"--"):
            return parts
        parts.append(piece.removeprefix(b"\r\n"))
    raise FormError(_TRUNCATED)


def _add(form: Form, part: bytes) -> None:
    head, separator, content = part.partition(b"\r\n\r\n")
    if not separator:
        raise FormError(_TRUNCATED)
    disposition = BytesHeaderParser().parsebytes(head + b"\r\n\r\n").get("Content-Disposition", "")
    name = _parameter(disposition, "name")
    if not name:
        return
    if _parameter(disposition, "filename"):
        form.files.setdefault(name, []).append(content)
    else:
        form.values.setdefault(name, []).append(content.decode("utf-8", "replace"))


def _parameter(header: str, name: str) -> str:
    message = Message()
    message["Content-Type"] = header
    value = message.get_param(name)
    return value if isinstance(value, str) else ""
