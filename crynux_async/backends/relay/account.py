"""The wallet's account at the relay: what it has, and the list of everything that was ever paid and refunded."""

from collections.abc import Sequence

import attrs

from crynux_async.backends.base import Payment
from crynux_async.backends.relay import answers, wire
from crynux_async.backends.relay.answers import FeeKind, FeeRecord, Token
from crynux_async.backends.relay.client import RelayClient
from crynux_async.errors import AuthError
from crynux_async.signing import Wallet

_PAGE = 500  # the relay caps no page: some 150 kB each, in place of hundreds of requests
_MARGIN = 60.0  # seconds before its end at which a token is not used any more


class RelayAccount:
    """An account. Its lists are opened by a login, which signs a text that a wallet would show to a person.

    Args:
        client: Asks the relay.
        wallet: Whose account it is.
    """

    def __init__(self, client: RelayClient, wallet: Wallet) -> None:
        self._client = client
        self._wallet = wallet
        self._token: Token | None = None

    async def payments(self) -> list[Payment]:
        """Return what was paid and refunded for each task, the newest payment first.

        The relay's list is up to ten seconds late.

        Raises:
            AuthError, UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        records: dict[int, FeeRecord] = {}
        page = 1
        while True:
            found = await self._page(page)
            # What is paid meanwhile moves the pages on: a record may come twice, and none is left out.
            records |= {record.number: record for record in found.records}
            if not found.records or page * _PAGE >= found.total:
                return summed(list(records.values()))
            page += 1

    async def _page(self, page: int) -> answers.FeePage:
        request = wire.list_fees(self._wallet.address, page, _PAGE)
        try:
            return await self._client.ask(request, answers.read_fees, token=await self._open())
        # It ends after an hour by the relay's clock, and sooner where the relay has another secret by then.
        except AuthError:
            self._token = None
            return await self._client.ask(request, answers.read_fees, token=await self._open())

    async def _open(self) -> str:
        """Return a token that is good for a while."""
        now = await self._client.now()
        if self._token is None or now > self._token.expires_at - _MARGIN:
            self._token = await self._client.ask(wire.log_in(self._wallet, int(now)), answers.read_token)
        return self._token.text


def summed(records: Sequence[FeeRecord]) -> list[Payment]:
    """Return payments with their refunds, the newest first.

    Args:
        records: What moved money, in any order; what a node of the same wallet has earned is left out.
    """
    found: dict[str, Payment] = {}
    for record in sorted(records, key=lambda record: (record.created_at, record.number)):
        # A node with the same wallet earns on the same account.
        if record.kind is FeeKind.INCOME:
            continue
        known = found.get(record.commitment) or Payment(
            task_id=record.commitment, paid=0, refunded=0, at=record.created_at
        )
        is_refund = record.kind is FeeKind.REFUND
        found[record.commitment] = attrs.evolve(
            known,
            paid=known.paid + (0 if is_refund else record.amount),
            refunded=known.refunded + (record.amount if is_refund else 0),
        )
    return list(reversed(found.values()))
