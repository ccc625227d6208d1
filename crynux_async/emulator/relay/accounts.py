"""The money that creators have at the relay: fees are taken at a create and given back when a task is refunded.

There are two truths, as at the relay: the events, which are for ever, and the balance in memory, which is what is shown
and what a create is checked against. They differ only after a failed validation of a group (see ``refund_in_memory``),
until a restart.

Source: crynux-relay service/relay_account.go, models/relay_account.go, api/v1/relay_account/*.go.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import attrs

# Who reads the list right after a create does not find it there: clients must bear that.
SYNC_SECONDS = 10.0
"""How often new events are taken into the lists."""

NETWORK = "dymension"


class EventKind(IntEnum):
    """What moved money; the numbers are the relay's."""

    DEPOSIT = 3
    PAYMENT = 4
    REFUND = 5


class BalanceError(Exception):
    """There is not enough money."""


@attrs.frozen(kw_only=True)
class Event:
    """One movement of money.

    Attributes:
        number: Its number, from 1.
        kind: What it was.
        address: Whose account.
        amount: Wei, >= 0.
        subject: The task's commitment, or the hash of the deposit's transaction.
        created: When, in seconds since 1970.
        listed: When it appears in the lists.
    """

    number: int
    kind: EventKind
    address: str
    amount: int
    subject: str
    created: float
    listed: float

    @property
    def change(self) -> int:
        """What it does to the balance, in wei."""
        return -self.amount if self.kind is EventKind.PAYMENT else self.amount

    def as_fee_record(self) -> dict[str, Any]:
        """Return it as the list of task fees shows it."""
        return {
            "id": self.number,
            "created_at": int(self.created),
            "address": self.address,
            "amount": str(self.amount),
            "type": int(self.kind),
            "reason": f"{int(self.kind)}-{self.subject}",
        }

    def as_deposit_record(self) -> dict[str, Any]:
        """Return it as the list of deposits shows it."""
        return {
            "id": self.number,
            "created_at": int(self.created),
            "address": self.address,
            "amount": str(self.amount),
            "network": NETWORK,
            "tx_hash": self.subject,
        }


class Accounts:
    """The accounts of all creators."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._balances: dict[str, int] = {}

    def balance(self, address: str) -> int:
        """Return what is shown for an address, in wei."""
        return self._balances.get(address, 0)

    def check(self, address: str, fee: int) -> None:
        """Refuse a fee that the balance does not cover.

        Raises:
            BalanceError: If there is less than that.
        """
        # Against the memory, as at the relay: after a failed group validation it lets more be spent than there is.
        if self.balance(address) < fee:
            raise BalanceError

    def add(self, kind: EventKind, address: str, amount: int, subject: str, *, now: float, listed: float) -> Event:
        """Move money."""
        event = Event(
            number=len(self.events) + 1,
            kind=kind,
            address=address,
            amount=amount,
            subject=subject,
            created=now,
            listed=listed,
        )
        self.take_up((event,))
        return event

    def refund_in_memory(self, address: str, amount: int) -> None:
        """Give back what a validation gave back that was undone afterwards: only the shown balance changes."""
        self._balances[address] = self.balance(address) + amount

    def forget_memory(self) -> None:
        """Work the balances out again from the events, as a restart does."""
        self._balances.clear()
        for event in self.events:
            self._apply(event)

    def take_up(self, events: Iterable[Event]) -> None:
        """Add events."""
        for event in events:
            self.events.append(event)
            self._apply(event)

    def fees(self, address: str, *, now: float) -> list[Event]:
        """Return payments and refunds of an address that are listed by ``now``, the newest first."""
        return list(self._listed(address, now, (EventKind.PAYMENT, EventKind.REFUND)))

    def deposits(self, address: str, *, now: float) -> list[Event]:
        """Return deposits of an address that are listed by ``now``, the newest first."""
        return list(self._listed(address, now, (EventKind.DEPOSIT,)))

    def _listed(self, address: str, now: float, kinds: tuple[EventKind, ...]) -> Iterator[Event]:
        for event in reversed(self.events):
            if event.address == address and event.kind in kinds and event.listed <= now:
                yield event

    def _apply(self, event: Event) -> None:
        self._balances[event.address] = self.balance(event.address) + event.change
