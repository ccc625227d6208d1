"""What a fault makes of an answer, and how that reaches the client."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import attrs

from crynux_async.emulator.http.answers import (
    JSON_TYPE,
    Answer,
    Damage,
    Filler,
    Span,
    exception,
    html,
    json_answer,
    validation_error,
)
from crynux_async.emulator.http.faults import Fault
from crynux_async.emulator.http.sending import Delivery, End

_MEBIBYTE = 1 << 20
_RAW = frozenset({"drop_before", "drop_after_accept", "reset", "stall", "cut", "cut_response", "no_length", "trickle"})


def spoiled(fault: Fault, answer: Answer | None) -> Answer:
    """Return what is answered instead.

    Args:
        fault: What goes wrong.
        answer: The right answer, or None when the request was not carried out.
    """
    if fault.kind in _INVENTED:
        return _INVENTED[fault.kind](fault)
    # Of a request that was dropped before it was carried out; no byte of this page is sent.
    right = answer or html(502)
    return _EDITS[fault.kind](fault, right) if fault.kind in _EDITS else right


def delivery(fault: Fault, answer: Answer) -> Delivery:
    """Return how an answer is brought to the client."""
    if fault.kind not in _RAW:
        return Delivery(seconds=fault.seconds)
    with_length = fault.kind != "no_length"
    head = len(answer.head(with_length=with_length))
    count = fault.limit_bytes
    limits: dict[str, int | None] = {
        "stall": 0 if count is None else head + count,
        "cut": head + (count or 0),
        "cut_response": count or 0,
        "no_length": None if count is None else head + count,
        "trickle": None,
    }
    ends: dict[str, End] = {"reset": "rst", "stall": "stall", "cut": fault.end, "cut_response": fault.end}
    return Delivery(
        seconds=fault.seconds,
        is_raw=True,
        # "drop_before", "drop_after_accept" and "reset" send nothing.
        limit=limits.get(fault.kind, 0),
        with_length=with_length,
        bytes_per_second=fault.bytes_per_second if fault.kind == "trickle" else None,
        end=ends.get(fault.kind, "fin"),
    )


def _page(fault: Fault) -> Answer:
    return html(fault.status or 502, fault.text)


def _status(fault: Fault) -> Answer:
    status = fault.status or 500
    if fault.field is not None:
        return attrs.evolve(validation_error(fault.field, fault.message or ""), status=status)
    if fault.message is not None:
        return attrs.evolve(exception(fault.message), status=status)
    return Answer(status=status)


def _literal(fault: Fault) -> Answer:
    headers = dict(fault.headers)
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = JSON_TYPE
    return Answer(status=fault.status or 200, headers=tuple(headers.items()), body=(fault.body.encode(),))


def _redirect(fault: Fault) -> Answer:
    return Answer(status=fault.status or 307, headers=(("Location", fault.location),))


def _rate_wording(fault: Fault) -> Answer:
    # The usual text ends with the seconds to wait; who reads them there must bear another wording, too.
    return validation_error("rate_limit", fault.text or "Too many requests, try again later")


def _with_document(answer: Answer, change: Callable[[dict[str, Any]], None]) -> Answer:
    document = _document(answer)
    if document is None:
        return answer
    change(document)
    return json_answer(answer.status, document)


def _document(answer: Answer) -> dict[str, Any] | None:
    if answer.header("Content-Type") != JSON_TYPE:
        return None
    document = json.loads(b"".join(answer.chunks()))
    return document if isinstance(document.get("data"), dict) else None


def _no_id(_: Fault, answer: Answer) -> Answer:
    return _with_document(answer, lambda document: document["data"].pop("id", None))


def _zero_id(_: Fault, answer: Answer) -> Answer:
    return _with_document(answer, lambda document: document["data"].update(id=0))


def _word(fault: Fault, answer: Answer) -> Answer:
    return _with_document(answer, lambda document: document["data"].update(status=fault.text or "weird"))


def _broken_json(_: Fault, answer: Answer) -> Answer:
    text = b"".join(answer.chunks())
    return attrs.evolve(answer, body=(text[: len(text) // 2],), file=answer.file)


def _big_json(fault: Fault, answer: Answer) -> Answer:
    text = b"".join(answer.chunks())
    filler = Filler(byte=b"x", length=fault.megabytes * _MEBIBYTE)
    # Good JSON that is only too large: a reader must stop at a size of his own, no parser stops him.
    return attrs.evolve(answer, body=(text[:-1] + b',"padding":"', filler, b'"}'))


def _gzip_bomb(fault: Fault, answer: Answer) -> Answer:
    # 31: with gzip's header.
    packer = zlib.compressobj(level=1, wbits=31)
    packed = b"".join(packer.compress(chunk) for chunk in _big_json(fault, answer).chunks()) + packer.flush()
    return attrs.evolve(answer, body=(packed,)).with_header("Content-Encoding", "gzip")


def _flip(fault: Fault, answer: Answer) -> Answer:
    return attrs.evolve(answer, damages=(Damage(start=fault.offset, mask=1),))


def _zero(fault: Fault, answer: Answer) -> Answer:
    return attrs.evolve(answer, damages=(Damage(start=fault.offset, length=fault.limit_bytes or 4096),))


def _garbage(fault: Fault, answer: Answer) -> Answer:
    filler = Filler(byte=b"\xa5", length=1 if fault.limit_bytes is None else fault.limit_bytes)
    return attrs.evolve(answer, body=(*answer.body, filler)) if answer.file else answer


def _repeat(fault: Fault, answer: Answer) -> Answer:
    match answer.body:
        case (Span() as first, *_):
            again = Span(start=first.start, length=min(first.length, fault.limit_bytes or 4096))
            return attrs.evolve(answer, body=(again, *answer.body))
    return answer


def _wrong_range(fault: Fault, answer: Answer) -> Answer:
    content_range = answer.header("Content-Range")
    if answer.status != 206 or content_range is None:
        return answer
    if fault.start is None and fault.total is None:
        return answer.with_header("Content-Range", None)
    first, _, rest = content_range.removeprefix("bytes ").partition("-")
    last, _, total = rest.partition("/")
    claimed_start = first if fault.start is None else str(fault.start)
    claimed_total = total if fault.total is None else str(fault.total)
    return answer.with_header("Content-Range", f"bytes {claimed_start}-{last}/{claimed_total}")


_INVENTED: dict[str, Callable[[Fault], Answer]] = {
    "html": _page,
    "html_502": _page,
    "status": _status,
    "body": _literal,
    "redirect": _redirect,
    "rate_wording": _rate_wording,
}
_EDITS: dict[str, Callable[[Fault, Answer], Answer]] = {
    "no_id": _no_id,
    "zero_id": _zero_id,
    "word": _word,
    "broken_json": _broken_json,
    "big_json": _big_json,
    "gzip_bomb": _gzip_bomb,
    "flip": _flip,
    "zero": _zero,
    "garbage": _garbage,
    "repeat": _repeat,
    "wrong_range": _wrong_range,
}
