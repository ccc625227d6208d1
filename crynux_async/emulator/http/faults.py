"""What can go wrong on purpose, and to which answers.

A fault waits for a request of its kind and spoils one answer, or several. It may act before the request is carried out
(nothing happens on the bridge), after it (the client is told something else, or nothing), or on the way back.

===================  =========  ====================================================================================
kind                 request    what the client gets
===================  =========  ====================================================================================
drop_before          not done   the connection is closed without an answer
drop_after_accept    done       the same
reset                done       the connection is reset without an answer
stall                done       head and ``bytes`` of the body (nothing at all without ``bytes``), then silence
cut                  done       head and ``bytes`` of the body, then ``end``
cut_response         done       ``bytes`` of head and body together, then ``end``
no_length            done       no Content-Length; ``bytes`` of the body (all of it without ``bytes``), then the end
trickle              done       the body at ``bytes_per_second``
delay                done       the right answer after ``seconds``
html, html_502       not done   a proxy's page with ``status``
status               not done   ``status`` with ``message`` (and ``field``) in the envelope, or an empty body
body                 not done   ``status``, ``headers`` and ``body`` as given
redirect             not done   ``status`` (307) and ``location``
rate_wording         not done   a refusal of the rate limit in other words: ``text``
broken_json          done       the first half of the JSON
big_json             done       right JSON with ``megabytes`` of padding
gzip_bomb            done       the same, gzipped to a thousandth
no_id, zero_id       done       an answer without id, or with id 0
word                 done       another status word: ``text``
flip                 done       bit 0 of the byte at ``offset`` of the archive is wrong
zero                 done       ``bytes`` (4096) at ``offset`` are zero
garbage              done       ``bytes`` more than the archive has
repeat               done       the first ``bytes`` twice
ignore_range         done       the whole archive, 200, whatever Range says
wrong_range          done       a 206 whose Content-Range has another ``start`` or ``total``, or is missing
changed              done       the archive has been replaced: other contents, later Last-Modified, from now on
===================  =========  ====================================================================================

``carried_out`` overrides the second column, ``seconds`` delays any of them, and ``end`` is "fin", "rst" or "stall".
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from attrs import validators

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
from crynux_async.emulator.http.sending import Delivery, End

_MEBIBYTE = 1 << 20
_DROPS = frozenset({"drop_before", "drop_after_accept", "reset"})
_RAW = _DROPS | {"stall", "cut", "cut_response", "no_length", "trickle"}
_NOT_CARRIED_OUT = frozenset({"drop_before", "html", "html_502", "status", "body", "redirect", "rate_wording"})


@attrs.define(eq=False, kw_only=True)
class Fault:
    """One thing to go wrong; the module's table has the kinds.

    Attributes:
        kind: What goes wrong.
        on: Which call it waits for, or "any".
        count: How many requests it spoils; None for all.
        after: How many matching requests it lets pass first.
        task_id: The only task that it concerns, or None; a create at a bridge has none.
        carried_out: Whether the request is carried out first; None for what is usual for the kind.
        seconds: How long the answer waits.
        limit_bytes: The argument ``bytes``.
        bytes_per_second: Speed of a trickle, > 0.
        end: How a cut ends.
        status: Status code of an invented answer; 0 for what is usual for the kind.
        message: Text in the envelope of "status".
        field: Field name in the envelope of "status".
        headers: Headers of "body".
        body: Body of "body".
        location: Where "redirect" points to.
        text: Page of "html", words of "rate_wording", or status word of "word".
        megabytes: MiB of padding.
        offset: Byte of the archive.
        start: First byte that Content-Range claims.
        total: Size that Content-Range claims.
        hits: How many requests it has spoiled.
    """

    kind: str = attrs.field()
    on: str
    count: int | None = 1
    after: int = 0
    task_id: int | str | None = None
    carried_out: bool | None = None
    seconds: float = 0.0
    limit_bytes: int | None = attrs.field(default=None, alias="bytes")
    bytes_per_second: int = attrs.field(default=1024, validator=validators.gt(0))
    end: End = attrs.field(default="fin", validator=validators.in_(("fin", "rst", "stall")))
    status: int = 0
    message: str | None = None
    field: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: str = ""
    location: str = "/elsewhere"
    text: str | None = None
    megabytes: int = 10
    offset: int = 0
    start: int | None = None
    total: int | None = None
    hits: int = attrs.field(default=0, init=False)

    @kind.validator
    def _check_kind(self, _: Any, kind: str) -> None:
        if kind not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(KINDS))}")

    def __attrs_post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError("count must be at least 1, or None for every request")

    @property
    def is_carried_out(self) -> bool:
        """Whether the request is carried out before the fault shows."""
        return self.kind not in _NOT_CARRIED_OUT if self.carried_out is None else self.carried_out

    def concerns(self, operation: str, task_id: int | str | None) -> bool:
        """Return whether a request is of the kind that the fault waits for."""
        return self.on in ("any", operation) and self.task_id in (None, task_id)

    def spoil(self, answer: Answer | None) -> Answer:
        """Return what is answered instead.

        Args:
            answer: The right answer, or None when the request was not carried out.
        """
        if self.kind in _INVENTED:
            return _INVENTED[self.kind](self)
        right = answer or html(502)
        return _EDITS[self.kind](self, right) if self.kind in _EDITS else right

    def delivery(self, answer: Answer) -> Delivery:
        """Return how the answer is brought to the client."""
        if self.kind not in _RAW:
            return Delivery(seconds=self.seconds)
        with_length = self.kind != "no_length"
        head = len(answer.head(with_length=with_length))
        count = self.limit_bytes
        limits: dict[str, int | None] = {
            "stall": 0 if count is None else head + count,
            "cut": head + (count or 0),
            "cut_response": count or 0,
            "no_length": None if count is None else head + count,
            "trickle": None,
        }
        ends: dict[str, End] = {"reset": "rst", "stall": "stall", "cut": self.end, "cut_response": self.end}
        return Delivery(
            seconds=self.seconds,
            is_raw=True,
            limit=limits.get(self.kind, 0),
            with_length=with_length,
            bytes_per_second=self.bytes_per_second if self.kind == "trickle" else None,
            end=ends.get(self.kind, "fin"),
        )


class FaultBook:
    """The faults that are waiting, the oldest first.

    Args:
        operations: The calls that a fault can wait for.
    """

    __slots__ = ("_faults", "_operations")

    def __init__(self, operations: Iterable[str]) -> None:
        self._operations = (*operations, "any")
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let a fault wait.

        Raises:
            ValueError: If it waits for a call that there is not.
        """
        if fault.on not in self._operations:
            raise ValueError(f"no call {fault.on!r}; there are {', '.join(self._operations)}")
        self._faults.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def take(self, operation: str, task_id: int | str | None) -> Fault | None:
        """Return the fault that spoils this request, if any, and count it."""
        for fault in self._faults:
            if not fault.concerns(operation, task_id):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            fault.hits += 1
            if fault.hits == fault.count:
                self._faults.remove(fault)
            return fault
        return None


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
    return attrs.evolve(answer, body=(text[:-1] + b',"padding":"', filler, b'"}'))


def _gzip_bomb(fault: Fault, answer: Answer) -> Answer:
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
KINDS = frozenset({*_RAW, *_INVENTED, *_EDITS, "delay", "ignore_range", "changed"})
"""Every kind of fault."""
