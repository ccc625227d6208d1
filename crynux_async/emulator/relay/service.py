"""What the calls of the relay share: its state, its clock, and the checks that come before everything."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from crynux_async.emulator.http.answers import Answer, json_answer
from crynux_async.emulator.relay.inputs import Bound, Call, Input, bind
from crynux_async.emulator.relay.login import Doorman
from crynux_async.emulator.relay.refusals import invalid, not_allowed
from crynux_async.emulator.relay.relay import Relay
from crynux_async.emulator.relay.results import Results
from crynux_async.emulator.relay.seeds import Seeds
from crynux_async.emulator.relay.signatures import strict_request_signer
from crynux_async.emulator.relay.tasks import Task
from crynux_async.emulator.signatures import request_signer

Signer = Callable[..., str | None]


@attrs.define(eq=False, kw_only=True)
class Service:
    """A relay that can be called.

    Attributes:
        relay: Its state.
        results: The files of tasks.
        seeds: Where seeds come from.
        doorman: Who gives tokens.
        wall: The relay's time, in seconds since 1970.
        save: Writes down what has changed, before anybody is told.
        whitelist: Addresses that may create tasks; None for all.
    """

    relay: Relay
    results: Results
    seeds: Seeds
    doorman: Doorman
    wall: Callable[[], float]
    save: Callable[[], None]
    whitelist: frozenset[str] | None = None

    def admit(self, taken: Input, call: Call, *, check: Signer = request_signer) -> tuple[Bound, str]:
        """Return what came with a call, and the address that signed it.

        Raises:
            RefusedError: If it does not fit, or the signature does not hold.
            PanicError: If the relay crashes on it.
        """
        bound = bind(taken, call)
        return bound, self.signer(taken, bound.values, check=check)

    def signer(self, taken: Input, values: Mapping[str, Any], *, check: Signer = request_signer) -> str:
        """Return the address that signed fields.

        Raises:
            RefusedError: If the signature does not hold.
            PanicError: If the relay crashes on it.
        """
        signed = taken.signed_fields(values)
        address = check(signed, values["timestamp"], values["signature"], now=self.wall())
        if address is None:
            raise invalid("signature", "Invalid signature")
        return address

    def admit_strictly(self, taken: Input, call: Call) -> tuple[Bound, str]:
        """Do the same for a call of API version 2."""
        return self.admit(taken, call, check=strict_request_signer)

    def task(self, taken: Input, call: Call, *, is_for_node: bool = False) -> tuple[Task, str]:
        """Return the task that a signed request of its creator is about, and who asked.

        Args:
            taken: What the call takes.
            call: The request.
            is_for_node: Whether the task's node may ask as well.

        Raises:
            RefusedError: If there is no such task, or it is somebody else's.
            PanicError: If the relay crashes on the signature.
        """
        bound, address = self.admit(taken, call)
        task = self.relay.find(bound.values["task_id_commitment"])
        # Found before it is refused: that a task exists is told to everybody, whose it is to nobody.
        if address != task.creator and not (is_for_node and address == task.selected_node):
            raise not_allowed()
        return task, address


def done() -> Answer:
    """Return the answer of a call that has nothing to say."""
    return json_answer(200, {"message": "success"})


def told(data: Any, *, name: str = "data") -> Answer:
    """Return the answer of a call that was asked for something."""
    return json_answer(200, {"message": "success", name: data})
