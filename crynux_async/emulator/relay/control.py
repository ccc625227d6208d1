"""What the control plane of the emulated relay can do, and the port that the recordings' player steers it by."""

import json
from collections.abc import Mapping
from typing import Any, get_args

import attrs
from aiohttp import web

from crynux_async.emulator.http import checks
from crynux_async.emulator.http.control import Call
from crynux_async.emulator.http.steering import Steering
from crynux_async.emulator.relay.automatic import Conduct
from crynux_async.emulator.relay.seeds import Sampling
from crynux_async.emulator.relay.world import World

_CNX = 10**18


@attrs.frozen(kw_only=True)
class NewWallet:
    """A wallet that the emulator makes.

    Attributes:
        balance: CNX on its account.
    """

    balance: int = attrs.field(default=1000, validator=checks.integer(low=0))


@attrs.frozen(kw_only=True)
class Funding:
    """Money for an account.

    Attributes:
        address: Whose.
        amount: CNX.
    """

    address: str = attrs.field(validator=checks.text())
    amount: int = attrs.field(validator=checks.integer(low=0))


@attrs.frozen(kw_only=True)
class SamplingOrder:
    """Which tasks of wallets that the emulator knows are validated by a group.

    Attributes:
        sampling: "random", "always" or "never".
    """

    sampling: Sampling = attrs.field(validator=checks.one_of(*get_args(Sampling)))


@attrs.frozen(kw_only=True)
class ConductOrder:
    """What nodes make of the next tasks.

    Attributes:
        conducts: One word for each task.
    """

    conducts: list[Conduct] = attrs.field(validator=checks.texts())

    @conducts.validator
    def _check(self, _: Any, conducts: list[Conduct]) -> None:
        unknown = set(conducts) - set(get_args(Conduct))
        if unknown:
            raise ValueError(f"conducts: must be of {', '.join(get_args(Conduct))}, not {', '.join(sorted(unknown))}")


@attrs.define(eq=False)
class RelayControl:
    """The calls, on the parts that they are about.

    Attributes:
        world: The relay, its money and its nodes.
        steering: What every emulated service can do.
    """

    world: World
    steering: Steering

    def calls(self) -> Mapping[tuple[str, str], Call]:
        """Return every call by method and path."""
        return {
            ("POST", "wallets"): Call(NewWallet, self._new_wallet),
            ("POST", "fund"): Call(Funding, self._fund),
            ("POST", "sampling"): Call(SamplingOrder, self._sampling),
            ("POST", "conducts"): Call(ConductOrder, self._conducts),
            **self.steering.calls(),
        }

    async def _new_wallet(self, wallet: NewWallet, _: web.BaseRequest) -> Any:
        secret, address = self.world.new_wallet(wallet.balance * _CNX)
        return {"secret_key": secret, "address": address}

    async def _fund(self, funding: Funding, _: web.BaseRequest) -> Any:
        self.world.credit(funding.address, funding.amount * _CNX)
        return {}

    async def _sampling(self, order: SamplingOrder, _: web.BaseRequest) -> Any:
        self.world.sampling = order.sampling
        return {}

    async def _conducts(self, order: ConductOrder, _: web.BaseRequest) -> Any:
        self.world.automatic.order(order.conducts)
        return {}


async def chain(world: World, request: web.BaseRequest) -> web.Response:
    """Carry out ``POST /ctl``: what the player of the recordings does on the chain.

    ``{"deposit": {"from", "to", "value"}}`` transfers wei to the relay's address, and ``{"stake": {address: wei}}``
    lets nodes have stakes.
    """
    # A web page that is open on this machine must not move money here.
    if (request.method, request.path) != ("POST", "/ctl") or "Origin" in request.headers:
        return web.json_response({"error": "there is POST /ctl"}, status=404)
    try:
        order = json.loads(await request.text())
        transfer = order.get("deposit")
        if transfer is not None:
            world.transfer(str(transfer["from"]), int(transfer["value"]))
        for address, amount in order.get("stake", {}).items():
            world.stake(address, int(amount))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return web.json_response({"error": repr(error)}, status=400)
    return web.json_response({"ok": True})
