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

from collections.abc import Iterable, Mapping
from typing import get_args

import attrs

from crynux_async.emulator.http import checks
from crynux_async.emulator.http.sending import End

_MOST_MEGABYTES = 1024
_NOT_CARRIED_OUT = frozenset({"drop_before", "html", "html_502", "status", "body", "redirect", "rate_wording"})
_CARRIED_OUT = frozenset(
    {
        *("drop_after_accept", "reset", "stall", "cut", "cut_response", "no_length", "trickle", "delay"),
        *("broken_json", "big_json", "gzip_bomb", "no_id", "zero_id", "word"),
        *("flip", "zero", "garbage", "repeat", "ignore_range", "wrong_range", "changed"),
    }
)
KINDS = _NOT_CARRIED_OUT | _CARRIED_OUT
"""Every kind of fault."""


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
        megabytes: MiB of padding, <= 1024.
        offset: Byte of the archive.
        start: First byte that Content-Range claims.
        total: Size that Content-Range claims.
        hits: How many requests it has spoiled.
    """

    kind: str = attrs.field(validator=checks.one_of(*sorted(KINDS)))
    on: str = attrs.field(validator=checks.text())
    count: int | None = attrs.field(default=1, validator=checks.or_none(checks.integer(low=1)))
    after: int = attrs.field(default=0, validator=checks.integer(low=0))
    task_id: int | str | None = attrs.field(default=None, validator=checks.or_none(checks.task_id()))
    carried_out: bool | None = attrs.field(default=None, validator=checks.or_none(checks.flag()))
    seconds: float = attrs.field(default=0.0, validator=checks.number(low=0))
    limit_bytes: int | None = attrs.field(default=None, alias="bytes", validator=checks.or_none(checks.integer(low=0)))
    bytes_per_second: int = attrs.field(default=1024, validator=checks.integer(low=1))
    end: End = attrs.field(default="fin", validator=checks.one_of(*get_args(End)))
    status: int = attrs.field(default=0, validator=checks.status_code())
    message: str | None = attrs.field(default=None, validator=checks.or_none(checks.text()))
    field: str | None = attrs.field(default=None, validator=checks.or_none(checks.text()))
    headers: Mapping[str, str] = attrs.field(factory=dict, validator=checks.headers())
    body: str = attrs.field(default="", validator=checks.text())
    location: str = attrs.field(default="/elsewhere", validator=checks.header_text())
    text: str | None = attrs.field(default=None, validator=checks.or_none(checks.text()))
    megabytes: int = attrs.field(default=10, validator=checks.integer(low=0, high=_MOST_MEGABYTES))
    offset: int = attrs.field(default=0, validator=checks.integer(low=0))
    start: int | None = attrs.field(default=None, validator=checks.or_none(checks.integer()))
    total: int | None = attrs.field(default=None, validator=checks.or_none(checks.integer()))
    hits: int = attrs.field(default=0, init=False)

    @property
    def is_carried_out(self) -> bool:
        """Whether the request is carried out before the fault shows."""
        return self.kind not in _NOT_CARRIED_OUT if self.carried_out is None else self.carried_out

    def concerns(self, operation: str, task_id: int | str | None) -> bool:
        """Return whether a request is of the kind that the fault waits for."""
        return self.on in ("any", operation) and self.task_id in (None, task_id)


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
            raise ValueError(f"on: must be one of {', '.join(self._operations)}, not {fault.on!r}")
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
