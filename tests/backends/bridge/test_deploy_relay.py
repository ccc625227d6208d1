"""What a relay can answer before a bridge is started; nothing of it is a traceback."""

import json
from typing import Any

import pytest

from crynux_async.backends.bridge.deploy_relay import ask_relay
from crynux_async.clock import utc_now
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from crynux_async.signing import Wallet
from tests.loopback import Peer, answer, serving
from tests.signing.vectors import KEY

WALLET = Wallet(Secret(KEY))
SETTINGS = Settings(trust_env=False)


def relay(now: Any, balance: Any = "0") -> Any:
    async def script(peer: Peer) -> None:
        while request := await peer.request():
            data = {"now": now} if request.target == "/v1/now" else balance
            await peer.send(answer(200, json.dumps({"message": "success", "data": data})))

    return script


@pytest.mark.parametrize("now", [10**400, -(10**20), 10**12, True, "1", None, 1.5])
async def test_time_that_is_none_is_no_relays(now: Any) -> None:
    async with serving(relay(now)) as server:
        facts = await ask_relay(f"http://{server.host}", WALLET, SETTINGS)
    assert (facts.skew, facts.error) == (None, "what answers there is not a relay")


@pytest.mark.parametrize("balance", ["²", "9" * 5000, "٣", "-1", "1.5", "", 5, None])
async def test_balance_that_is_none_is_told_and_the_clock_is_not_lost(balance: Any) -> None:
    async with serving(relay(int(utc_now().timestamp()), balance)) as server:
        facts = await ask_relay(f"http://{server.host}", WALLET, SETTINGS)
    assert facts.wei is None
    assert facts.skew is not None
    assert abs(facts.skew) <= 1
    assert facts.error.startswith("HTTP 200")


@pytest.mark.parametrize("url", ["foo", "ftp://relay.test", "http://", "http://relay.test?a", ""])
async def test_address_that_is_none_is_said_and_stops_nothing(url: str) -> None:
    facts = await ask_relay(url, WALLET, SETTINGS)
    assert facts.skew is None
    assert "must" in facts.error
