"""Services by name."""

from pathlib import Path

import pytest

from crynux_async import Session, Settings
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.backends.opening import open_backend
from crynux_async.backends.relay.backend import RelayBackend
from crynux_async.errors import SettingsError, UsageError
from tests.relay_lab import CREATOR, CREATOR_KEY


async def test_bridge_is_at_the_base_url() -> None:
    backend = await open_backend("bridge", Settings(base_url="http://bridge.example"))
    assert isinstance(backend, BridgeBackend)
    assert backend.name == "http://bridge.example"
    await backend.close()


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("mainnet", "https://relay.crynux.io"),
        ("staging", "https://staging.relay.crynux.io"),
        ("http://127.0.0.1:5029", "http://127.0.0.1:5029"),
    ],
)
async def test_relay_is_that_of_the_network(network: str, address: str) -> None:
    backend = await open_backend("relay", Settings(network=network, api_key="a" * 44), CREATOR)
    assert isinstance(backend, RelayBackend)
    assert (backend.name, backend.key_id) == (address, CREATOR.address)
    await backend.close()


async def test_wallet_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wallet"
    file.write_text(CREATOR_KEY)
    file.chmod(0o600)
    monkeypatch.setenv("CRYNUX_WALLET", str(file))
    backend = await open_backend("relay", Settings(), None)
    assert backend.key_id == CREATOR.address
    await backend.close()


async def test_relay_without_any_wallet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYNUX_WALLET", raising=False)
    with pytest.raises(SettingsError, match="CRYNUX_WALLET"):
        await Session(backend="relay").open()


async def test_wallet_given_to_a_bridge_is_refused() -> None:
    with pytest.raises(UsageError, match="relay"):
        await Session(wallet=CREATOR).open()


async def test_unknown_service_is_refused() -> None:
    with pytest.raises(UsageError, match="'bridge', 'relay'"):
        await Session(backend="realy").open()  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["main-net", "https://relay.example/v1/now", "relay.example"])
def test_network_that_is_neither_a_name_nor_an_address_is_refused(network: str) -> None:
    with pytest.raises(SettingsError, match="network: must be mainnet, staging or the address of a relay"):
        Settings(network=network)


def test_fee_of_nothing_can_never_be_sent() -> None:
    with pytest.raises(SettingsError, match="fee: must be a number of CNX above 0"):
        Settings(network="http://127.0.0.1:1", fee=0)
