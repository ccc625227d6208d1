"""Asks the relay what a bridge will ask it when it starts: its clock, and what the wallet's account holds."""

import re
from typing import Any

import attrs

from crynux_async.backends.bridge.deploy_checks import RelayFacts
from crynux_async.backends.http.answer import Answer
from crynux_async.backends.http.client import HttpClient, Request
from crynux_async.clock import utc_now
from crynux_async.errors import BackendError, SettingsError
from crynux_async.settings import Settings
from crynux_async.signing import Wallet

_LATEST = 253_402_300_800  # the year 10000
_WEI = re.compile("[0-9]{1,78}")  # 2**256 has 78 digits


async def ask_relay(relay_url: str, wallet: Wallet | None, settings: Settings | None = None) -> RelayFacts:
    """Return what the relay says, whatever it says; nothing here raises because of an answer.

    Args:
        relay_url: Address of the relay.
        wallet: Signs for the balance, which is told to its owner alone; None asks for the clock only.
        settings: Timeouts and proxy; by default those of ``Settings()``.
    """
    try:
        http = HttpClient(attrs.evolve(settings or Settings(), base_url=relay_url, api_key=None))
    except SettingsError as error:
        return RelayFacts(error="; ".join(problem.message for problem in error.problems))
    try:
        return await _asked(http, wallet)
    except BackendError as error:
        return RelayFacts(error=str(error))
    finally:
        await http.close()


async def _asked(http: HttpClient, wallet: Wallet | None) -> RelayFacts:
    now = _data(await http.send(Request(path="/v1/now")))
    seconds = now.get("now") if isinstance(now, dict) else None
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 <= seconds < _LATEST:
        return RelayFacts(error="what answers there is not a relay")
    skew = round(seconds - utc_now().timestamp())
    return RelayFacts(skew=skew) if wallet is None else await _balance(http, wallet, skew)


async def _balance(http: HttpClient, wallet: Wallet, skew: int) -> RelayFacts:
    """Ask for the balance, with the relay's own time: a wrong clock is reported, and must not hide the balance."""
    timestamp = int(utc_now().timestamp()) + skew
    signature = wallet.sign({"address": wallet.address}, timestamp)
    query = {"timestamp": str(timestamp), "signature": signature}
    path = f"/v2/relay_account/{wallet.address}/balance"
    try:
        answer = await http.send(Request(path=path, query=query))
    except BackendError as error:
        return RelayFacts(skew=skew, error=str(error))
    balance = _data(answer)
    if answer.status != 200 or not isinstance(balance, str) or not _WEI.fullmatch(balance):
        return RelayFacts(skew=skew, error=f"HTTP {answer.status}: {' '.join(answer.text[:200].split())}")
    return RelayFacts(skew=skew, wei=int(balance))


def _data(answer: Answer) -> Any:
    envelope = answer.json
    return envelope.get("data") if isinstance(envelope, dict) else None
